"""The architecture as tests: imports go down only, siblings do not know each other, and the light things stay light."""

from __future__ import annotations

import ast
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

import worldline
from worldline.geometry.camera import rays_z1

ROOT = Path(__file__).parents[1] / "src" / "worldline"
LAYERS = {
    "errors": 0,
    "geometry": 1,
    "scene": 2,
    "solve": 3,
    "nets": 3,
    "io": 3,
    "data": 4,
    "synthetic": 4,
    "engines": 5,
    "cues": 5,
    "evaluate": 5,
    "run": 6,
    "train": 6,
    "view": 6,
    "cli": 7,
}
MODULES = sorted(ROOT.rglob("*.py"))
COPYLEFT = {"evo", "plyfile", "bpy"}


def imported(path: Path) -> set[str]:
    """Absolute names of everything a file imports, wherever in the file it does so."""
    package = ("worldline", *path.relative_to(ROOT).parent.parts)
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            names |= {f"{module}.{alias.name}" for alias in node.names}
    return names


def layer_names(path: Path) -> set[str]:
    parts = [name.split(".") for name in imported(path)]
    return {p[1] for p in parts if p[0] == "worldline" and len(p) > 1 and p[1] in LAYERS}


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down_only_and_never_to_a_sibling(path: Path):
    own = path.relative_to(ROOT).parts[0].removesuffix(".py")
    if own == "__init__":
        assert not layer_names(path), "worldline/__init__.py loads its names lazily"
        return
    above = {name for name in layer_names(path) if name != own and LAYERS[name] >= LAYERS[own]}
    assert not above, f"{own} (layer {LAYERS[own]}) imports {sorted(above)}"


def test_every_folder_has_its_layer():
    folders = {p.parent.name for p in ROOT.glob("*/__init__.py")}
    assert folders <= set(LAYERS)


def test_engines_do_not_import_each_other():
    names = {p.parent.name for p in ROOT.glob("engines/*/__init__.py")}
    for path in ROOT.glob("engines/*/**/*.py"):
        own = path.relative_to(ROOT / "engines").parts[0]
        others = {i.split(".")[2] for i in imported(path) if i.startswith("worldline.engines.")} & names
        assert others <= {own}, f"{path.name} imports {others}"


def test_no_copyleft_package_is_imported_by_shipped_code():
    used = {name.split(".")[0] for path in MODULES for name in imported(path)}
    assert not used & COPYLEFT


def test_nothing_is_named_after_nothing():
    assert not {p.stem for p in MODULES} & {"utils", "util", "misc", "helpers", "common"}


@pytest.mark.parametrize("code", ["import worldline", "from worldline.cli import main; main(['--help'])"])
def test_light_things_do_not_load_the_heavy_packages(code: str):
    heavy = "{'torch', 'numpy', 'cv2', 'av', 'scipy', 'zarr', 'viser'} & set(sys.modules)"
    script = f"import sys; {code}; sys.exit(str({heavy}) if {heavy} else 0)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", sorted(set(worldline.__all__) - {"__version__"}))
def test_every_public_name_is_a_documented_class_or_function_even_beside_a_folder_of_its_name(name: str):
    import_module(worldline._WHERE[name])
    value = getattr(worldline, name)
    assert callable(value) and (value.__doc__ or "").strip()


def test_an_unknown_public_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_name"):
        worldline.__getattr__("no_such_name")


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_every_module_can_be_imported_alone(path: Path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    assert import_module(".".join(p for p in parts if p != "__init__"))


def test_shapes_in_signatures_are_checked_in_these_tests():
    uv = torch.zeros(7, 2)
    with pytest.raises(TypeError, match="rays_z1"):
        rays_z1(uv, torch.zeros(3))
