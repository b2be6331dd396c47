"""The documentation as tests: its Python runs against the real names, its commands exist, its links lead somewhere."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import worldline
from worldline.cli import VERBS

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)


def blocks(page: Path, language: str) -> list[str]:
    return [body for name, body in FENCE.findall(page.read_text()) if name == language]


PYTHON = [(page.name, i, code) for page in PAGES for i, code in enumerate(blocks(page, "python"))]
SHELL = [(page.name, i, code) for page in PAGES for i, code in enumerate(blocks(page, "sh"))]


@pytest.mark.parametrize(("page", "number", "code"), PYTHON, ids=[f"{p}-{i}" for p, i, _ in PYTHON])
def test_python_in_the_docs_compiles_and_its_worldline_names_exist(page: str, number: int, code: str):
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in ("wl", "worldline")
        ):
            assert hasattr(worldline, node.attr), f"{page}: worldline has no {node.attr}"
    imports = [n for n in ast.walk(tree) if isinstance(n, (ast.Import, ast.ImportFrom))]
    exec(compile(ast.Module(imports, []), page, "exec"), {})


@pytest.mark.parametrize(("page", "number", "code"), SHELL, ids=[f"{p}-{i}" for p, i, _ in SHELL])
def test_commands_in_the_docs_exist(page: str, number: int, code: str):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    for line in code.splitlines():
        words = line.split("#")[0].split()
        if words[:1] == ["worldline"]:
            assert words[1] in VERBS or words[1].startswith("-"), f"{page}: {line}"
        if words[:1] == ["make"]:
            assert set(w for w in words[1:] if "=" not in w) <= targets, f"{page}: {line}"
        if words[:1] == ["python"] and words[1].endswith(".py"):
            assert (ROOT / words[1]).is_file(), f"{page}: {line}"


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_is_documented_in_the_readme(verb: str):
    assert f"`{verb}" in (ROOT / "README.md").read_text()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_and_pictures_lead_to_files_of_the_repository(page: Path):
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text()):
        if "://" not in target:
            assert (page.parent / target).exists(), f"{page.name}: {target}"
