"""Weights by name: stored whole or not at all, with licence and checksum; nothing that a file names is ever run."""

from __future__ import annotations

import argparse
import hashlib
import http.server
import os
import pickle
import resource
import shutil
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from worldline.cli import main
from worldline.engines.any4d.checkpoint import load_network, published_state
from worldline.engines.any4d.config import NetworkConfig
from worldline.engines.any4d.network import Any4D
from worldline.errors import FormatError, InputError, LicenceError, MissingWeights, OutputError
from worldline.nets import hub, safe_pickles, tensor_files, weights
from worldline.nets.hashed_weights import fill
from worldline.nets.published import PUBLISHED, UNKNOWN, Licence, Published, published
from worldline.nets.state_dicts import check_fit
from worldline.nets.weights import Converted, Own

OWN = Own("toy", Licence("MIT", commercial=True))
SMALL = {
    "a.weight": torch.linspace(-1, 1, 12).view(3, 4),
    "a.bias": torch.tensor([0.1, 0.2, 1 / 3]),
    "one": torch.ones(()),
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WORLDLINE_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


def as_it_is(tensors: Mapping[str, Tensor], *, start: bool = False, any_size: bool = False) -> Converted:
    return Converted(tensors, exact=frozenset({"table"}))


def add_small(path: Path, name: str = "small", **more: Any) -> weights.WeightsFile:
    torch.save({"model": SMALL}, path)
    return weights.add(name, path, lambda network: as_it_is, own=OWN, **more)[0]


@pytest.fixture(scope="module")
def tiny_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    network = Any4D(NetworkConfig.tiny())
    fill(network)
    path = tmp_path_factory.mktemp("published") / "tiny.pth"
    torch.save({"model": published_state(network), "args": argparse.Namespace(lr=1.0)}, path)
    return path


def left_in(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


# --- the stored form


def test_stored_weights_say_what_they_are_and_any_safetensors_reader_reads_them(tmp_path: Path, folder: Path):
    file = add_small(tmp_path / "mine.pth", source="lab/mine")
    assert file == weights.find("small") and file.path == folder / "small.safetensors"
    assert (file.network, file.source, file.dtype, file.licence) == ("toy", "lab/mine", "fp32", OWN.licence)
    read = load_file(file.path)
    assert read.keys() == SMALL.keys() and all(torch.equal(read[name], SMALL[name]) for name in SMALL)
    with safe_open(file.path, framework="pt") as opened:
        assert opened.metadata()["checksum"] == file.checksum == tensor_files.checksum(file.path)
    assert left_in(folder) == ["small.safetensors"]


def test_bf16_halves_matrices_and_leaves_vectors_and_exact_tables_alone(tmp_path: Path):
    torch.save(
        {"matrix": torch.full((9, 9), 1 / 3), "vector": torch.full((9,), 1 / 3), "table": torch.full((1, 9), 1 / 3)},
        tmp_path / "x.pth",
    )
    file, _ = weights.add("x", tmp_path / "x.pth", lambda network: as_it_is, own=OWN, dtype="bf16")
    read = tensor_files.read(file.path).tensors
    assert {name: tensor.dtype for name, tensor in read.items()} == {
        "matrix": torch.bfloat16, "vector": torch.float32, "table": torch.float32,
    }  # fmt: skip
    assert file.dtype == "bf16"


def test_the_checksum_is_of_the_content_not_of_the_file(tmp_path: Path):
    first = add_small(tmp_path / "a.pth")
    second = add_small(tmp_path / "b.pth", "another")
    assert first.checksum == second.checksum and first.path.read_bytes() != second.path.read_bytes()
    changed = {**SMALL, "a.bias": SMALL["a.bias"] + 1}
    torch.save(changed, tmp_path / "c.pth")
    third, _ = weights.add("third", tmp_path / "c.pth", lambda network: as_it_is, own=OWN)
    assert third.checksum != first.checksum


def test_a_single_changed_byte_is_found(tmp_path: Path):
    file = add_small(tmp_path / "a.pth")
    weights.check(file)
    content = bytearray(file.path.read_bytes())
    content[-3] ^= 1
    file.path.write_bytes(content)
    with pytest.raises(FormatError, match="have changed since they were stored; worldline weights remove small"):
        weights.check(weights.find("small"))


@pytest.mark.parametrize("keep", [0, 5, 40, 300, -1])
def test_a_truncated_stored_file_is_damaged_already_when_it_is_found(tmp_path: Path, keep: int):
    path = add_small(tmp_path / "a.pth").path
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FormatError, match=r"the weights small \(.*\) are damaged"):
        weights.find("small")


shape = st.lists(st.integers(0, 5), max_size=3)
dtype = st.sampled_from([torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.bool])


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.text('ab.μ"\\', min_size=1, max_size=6), st.tuples(shape, dtype), max_size=5))
def test_tensors_of_any_name_shape_and_type_come_back_from_disk(tmp_path_factory, kinds: dict[str, Any]):
    tensors = {
        name: torch.randint(0, 2, size, generator=torch.Generator().manual_seed(1)).to(kind)
        for name, (size, kind) in kinds.items()
    }
    path = tmp_path_factory.mktemp("any") / "x.safetensors"
    tensor_files.write(path, tensors, {"said": "so"}, {name: tensor.dtype for name, tensor in tensors.items()})
    read = tensor_files.read(path)
    assert read.tensors.keys() == tensors.keys() and read.metadata["said"] == "so"
    for name, tensor in tensors.items():
        assert read.tensors[name].dtype == tensor.dtype and torch.equal(read.tensors[name], tensor)
    assert read.metadata["checksum"] == tensor_files.checksum(path)


def test_large_tensors_of_a_stored_file_begin_where_vector_units_like_it(tmp_path: Path):
    file = add_small(tmp_path / "a.pth")
    assert tensor_files.read(file.path).tensors["a.weight"].data_ptr() % 64 == 0


def test_a_file_that_only_says_it_was_stored_by_worldline_is_refused(tmp_path: Path):
    save_file(SMALL, tmp_path / "fake.safetensors", metadata={"worldline": "1"})
    with pytest.raises(FormatError, match="was not stored by this version of worldline"):
        weights.find(tmp_path / "fake.safetensors")


def test_names_in_a_file_do_not_reach_the_terminal_as_commands():
    with pytest.raises(FormatError) as caught:
        check_fit({"\x1b[2J\n": torch.ones(1)}, {"a": torch.Size([1])}, "Toy")
    assert str(caught.value).isprintable()


# --- names, paths, licences


def test_find_takes_names_and_paths(tmp_path: Path):
    stored = add_small(tmp_path / "mine.pth")
    assert weights.find(stored.path).checksum == stored.checksum
    published = weights.find(str(tmp_path / "mine.pth"))
    assert (published.licence, published.checksum) == (UNKNOWN, None)


def test_missing_weights_say_how_to_get_them():
    with pytest.raises(
        MissingWeights, match=r"worldline weights fetch any4d .*7\.7 GB.*worldline weights add any4d FILE"
    ):
        weights.find("any4d")
    with pytest.raises(MissingWeights, match="no weights named 'nothing'.*weights list"):
        weights.find("nothing")
    with pytest.raises(MissingWeights, match="does not exist"):
        weights.find("some/where.pth")


@pytest.mark.parametrize("entry", PUBLISHED, ids=lambda entry: entry.name)
def test_every_published_entry_is_complete(entry: Published):
    assert weights.path_of(entry.name) and entry.repository.count("/") == 1 and entry.megabytes > 100
    assert "commercial use" in str(entry.licence)


def test_commercial_use_refuses_every_licence_that_does_not_clearly_allow_it(tmp_path: Path):
    assert add_small(tmp_path / "a.pth") == weights.find("small", commercial=True)
    with pytest.raises(LicenceError, match="any4d is not stated, no commercial use"):
        weights.find("any4d", commercial=True)
    with pytest.raises(LicenceError, match="a.pth is not known"):
        weights.find(tmp_path / "a.pth", commercial=True)


@pytest.mark.parametrize("name", ["", "../up", ".hidden", "A", "a/b", "a" * 70])
def test_impossible_names_are_refused(name: str):
    with pytest.raises(InputError, match="cannot be a name"):
        weights.path_of(name)


def test_a_name_nobody_publishes_needs_a_network_and_a_published_one_takes_none(tmp_path: Path):
    with pytest.raises(InputError, match="nobody publishes weights 'mine'; choose one of any4d, .*--network"):
        weights.add("mine", tmp_path / "x", lambda network: as_it_is)
    with pytest.raises(InputError, match="any4d is the name of published weights"):
        weights.add("any4d", tmp_path / "x", lambda network: as_it_is, own=OWN)


def test_weights_lie_in_the_cache_of_the_user_unless_a_folder_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("WORLDLINE_WEIGHTS")
    monkeypatch.setenv("XDG_CACHE_HOME", "/cache")
    monkeypatch.setattr(sys, "platform", "linux")
    assert weights.folder() == Path("/cache/worldline/weights")


# --- nothing half-written


@pytest.mark.parametrize("stop", [OSError(28, "No space left on device"), KeyboardInterrupt(), ValueError("a bug")])
def test_whatever_stops_the_writing_leaves_nothing(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch, stop: BaseException
):
    def write(path: Path, *_: object) -> None:
        path.write_bytes(b"half")
        raise stop

    monkeypatch.setattr(tensor_files, "write", write)
    with pytest.raises(OutputError if isinstance(stop, OSError) else type(stop)):
        add_small(tmp_path / "a.pth")
    assert left_in(folder) == []


def test_a_disk_that_takes_no_more_leaves_nothing(tmp_path: Path, folder: Path):
    torch.save({"a": torch.ones(64, 1024)}, tmp_path / "a.pth")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OutputError, match="cannot write .*too large"):
            weights.add("small", tmp_path / "a.pth", lambda network: as_it_is, own=OWN)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert left_in(folder) == []


def test_too_little_room_is_told_before_anything_is_written(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(shutil, "disk_usage", lambda place: argparse.Namespace(free=10))
    with pytest.raises(
        OutputError, match="GB are needed; free some space, or name another folder in WORLDLINE_WEIGHTS"
    ):
        add_small(tmp_path / "a.pth")
    assert not folder.exists()


def test_what_a_killed_run_left_goes_with_the_next_one(tmp_path: Path, folder: Path):
    folder.mkdir()
    old, young = folder / ".small.1.tmp.safetensors", folder / ".small.2.tmp.safetensors"
    old.write_bytes(b"half")
    young.write_bytes(b"half")
    os.utime(old, (time.time() - 7200,) * 2)
    add_small(tmp_path / "a.pth")
    assert not old.exists() and young.exists() and weights.stored() == ["small"]


def test_stored_weights_are_replaced_only_when_that_is_said(tmp_path: Path):
    add_small(tmp_path / "a.pth")
    with pytest.raises(OutputError, match="stored already .*--overwrite"):
        add_small(tmp_path / "a.pth")
    add_small(tmp_path / "a.pth", overwrite=True)


def test_weights_that_are_not_finite_are_refused(tmp_path: Path, folder: Path):
    torch.save({"a.weight": torch.tensor([1.0, float("nan")])}, tmp_path / "nan.pth")
    with pytest.raises(InputError, match="a.weight hold values that are not finite"):
        weights.add("small", tmp_path / "nan.pth", lambda network: as_it_is, own=OWN)
    assert left_in(folder) == []


# --- files of torch.save


class Runs:
    """What an attacker would put into a file."""

    def __init__(self, function: Callable[..., Any], *args: Any) -> None:
        self.call = (function, args)

    def __reduce__(self) -> Any:
        return self.call


def attacks(marker: Path) -> dict[str, Any]:
    return {
        "system": Runs(os.system, f"touch {marker}"),
        "eval": Runs(eval, f"open({str(marker)!r}, 'w')"),
        "exec": Runs(exec, f"open({str(marker)!r}, 'w')"),
        "popen": Runs(subprocess.Popen, ["touch", str(marker)]),
        "path": Runs(Path.touch, marker),
        "getattr": Runs(getattr, marker, "touch"),
        "load": Runs(torch.hub.load_state_dict_from_url, marker.as_uri()),
    }


@pytest.mark.parametrize("kind", ["system", "eval", "exec", "popen", "path", "getattr", "load"])
def test_nothing_that_a_file_asks_for_is_run(tmp_path: Path, kind: str):
    marker = tmp_path / "was_run"
    path = tmp_path / "evil.pth"
    torch.save({"model": SMALL, "args": attacks(marker)[kind]}, path)
    read = weights.read(path).tensors
    assert read.keys() == SMALL.keys() and all(torch.equal(read[name], SMALL[name]) for name in SMALL)
    torch.save({"model": {**SMALL, "a.weight": attacks(marker)[kind]}}, path)
    with pytest.raises(FormatError, match="a.weight among its weights is not a tensor"):
        weights.read(path)
    torch.save(attacks(marker)[kind], path)
    with pytest.raises(FormatError, match="no weights in it"):
        weights.read(path)
    assert not marker.exists()


def test_the_same_file_does_run_where_pickles_are_trusted(tmp_path: Path):
    marker = tmp_path / "was_run"
    torch.save({"args": attacks(marker)["exec"]}, tmp_path / "evil.pth")
    torch.load(tmp_path / "evil.pth", weights_only=False)
    assert marker.exists()


def with_pickle(path: Path, content: bytes) -> Path:
    """A file of torch.save whose pickle is replaced."""
    torch.save({"a": torch.ones(4)}, path.with_suffix(".good"))
    with zipfile.ZipFile(path.with_suffix(".good")) as good, zipfile.ZipFile(path, "w") as bad:
        for name in good.namelist():
            bad.writestr(name, content if name.endswith("data.pkl") else good.read(name))
    return path


TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n((S'storage'\nctorch\nFloatStorage\nS'0'\nS'cpu'\nI4\ntQ"
HANDMADE = {
    "beyond its storage": (TENSOR + b"I0\n(I9\nt(I1\ntI00\nNtR.", "beyond its storage"),
    "before its storage": (TENSOR + b"I-1\n(I4\nt(I1\ntI00\nNtR.", "beyond its storage"),
    "backwards": (TENSOR + b"I3\n(I4\nt(I-1\ntI00\nNtR.", "beyond its storage"),
    "another storage": (TENSOR.replace(b"S'0'", b"S'7'") + b"I0\n(I4\nt(I1\ntI00\nNtR.", "data/7"),
    "cut off": (b"\x80\x02}q\x00", "cannot be read"),
    "no pickle": (b"import os", "cannot be read"),
    "changes a function": (b"ctorch._utils\n_rebuild_tensor_v2\n(N}S'__code__'\nNstb.", "no weights in it"),
    "changes a class": (b"ccollections\nOrderedDict\n(N}S'update'\nNstb.", "cannot be read"),
    "a placeholder of all trades": (b"cos\nsystem\n(S'x'\ntR(I1\nI2\ne}S'k'\nI1\nsb.", "cannot be read|no weights"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "sentence"), HANDMADE.values(), ids=HANDMADE)
def test_pickles_that_make_no_sense_are_refused_in_one_sentence(tmp_path: Path, content: bytes, sentence: str):
    before = (torch._utils._rebuild_tensor_v2, dict(vars(torch._utils._rebuild_tensor_v2)))
    with pytest.raises(FormatError, match=sentence):
        weights.read(with_pickle(tmp_path / "handmade.pth", content))
    assert before == (torch._utils._rebuild_tensor_v2, dict(vars(torch._utils._rebuild_tensor_v2)))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_a_pickle_with_a_changed_byte_is_read_or_refused_but_never_anything_else(tmp_path_factory, data: st.DataObject):
    path = tmp_path_factory.mktemp("fuzz") / "x.pth"
    content = bytearray(pickle.dumps({"args": argparse.Namespace(a=[1, 2], b={"c": 3.0})}, protocol=2))
    for _ in range(data.draw(st.integers(1, 3))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        safe_pickles.read(with_pickle(path, bytes(content)))
    except FormatError as error:
        assert str(error).endswith(".")


def test_settings_of_unknown_classes_do_not_stand_in_the_way_and_their_views_share_storage(tmp_path: Path):
    layer = nn.Linear(3, 2)
    state = {**layer.state_dict(), "tied": layer.weight, "part": layer.weight.detach()[:, 1:].T}
    torch.save({"model": state, "args": argparse.Namespace(lr=1.0)}, tmp_path / "x.pth")
    read = weights.read(tmp_path / "x.pth").tensors
    assert all(torch.equal(read[name], state[name]) for name in state)
    assert read["weight"].data_ptr() == read["tied"].data_ptr()


# --- wrong files, through the command line


def wrong_files(folder: Path) -> dict[str, tuple[Path, str]]:
    good = folder / "good.pth"
    torch.save({"model": SMALL}, good)
    save_file(SMALL, folder / "good.safetensors")
    content = {
        "empty.pth": (b"", "is empty"),
        "text.pth": (b"hello, world\n" * 20, "neither a safetensors file nor a whole file of torch.save"),
        "cut.pth": (good.read_bytes()[:-40], "neither a safetensors file nor a whole file of torch.save"),
        "cut.safetensors": ((folder / "good.safetensors").read_bytes()[:-4], "not a whole safetensors file"),
        "header.safetensors": (b"\xff" * 7 + b"\x00{}", "not a whole safetensors file"),
        "other.pth": (good.read_bytes(), "weights of another network, not of Any4D"),
    }
    found = {}
    for name, (data, sentence) in content.items():
        (folder / name).write_bytes(data)
        found[name] = (folder / name, sentence)
    with zipfile.ZipFile(folder / "photos.zip", "w") as archive:
        archive.writestr("a/b.jpg", "x")
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), folder / "script.pth")
    (folder / "a_folder").mkdir()
    torch.save(SMALL, folder / "old.pth", _use_new_zipfile_serialization=False)
    return found | {
        "photos.zip": (folder / "photos.zip", "an archive without weights"),
        "script.pth": (folder / "script.pth", "an archive without weights"),
        "a_folder": (folder / "a_folder", "is a folder"),
        "old.pth": (folder / "old.pth", "1.6 or newer"),
        "absent.pth": (folder / "absent.pth", "does not exist"),
    }


@pytest.mark.filterwarnings("ignore:.*torch.jit")
def test_a_wrong_file_is_one_sentence_exit_code_2_and_nothing_written(
    tmp_path: Path, folder: Path, capsys: pytest.CaptureFixture[str]
):
    for name, (path, sentence) in wrong_files(tmp_path).items():
        assert main(["weights", "add", "any4d", str(path)]) == 2, name
        said = capsys.readouterr()
        assert sentence in said.err and said.err.count("\n") == 1 and said.err.startswith("worldline: "), name
        assert "licence of any4d: not stated" in said.out
        assert left_in(folder) == []


def test_weights_go_in_and_out_through_the_command_line(
    tiny_file: Path, folder: Path, capsys: pytest.CaptureFixture[str]
):
    add = ["weights", "add", "my-tiny", str(tiny_file), "--network", "any4d", "--licence", "MIT", "--commercial"]
    assert main([*add, "--dtype", "bf16"]) == 0
    assert main(["weights", "list"]) == 0 and main(["weights", "check"]) == 0
    said = capsys.readouterr().out
    assert "my-tiny: as stored" in said and "MIT, commercial use allowed" in said and "not here" in said
    half = weights.find("my-tiny", commercial=True)
    network = load_network(half)
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert main([*add, "--overwrite"]) == 0
    whole = weights.find("my-tiny")
    assert half.checksum != whole.checksum and whole.path.stat().st_size > 0
    exact = torch.load(tiny_file, weights_only=False)["model"]
    loaded = published_state(load_network(whole))
    assert loaded.keys() == exact.keys() and all(torch.equal(loaded[name], exact[name]) for name in exact)
    assert main(["weights", "remove", "my-tiny"]) == 0 and left_in(folder) == []
    assert main(["weights", "remove", "my-tiny"]) == 2
    assert main(["weights", "check", "my-tiny"]) == 2


def test_check_and_list_tell_damaged_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = add_small(tmp_path / "a.pth").path
    add_small(tmp_path / "a.pth", "whole")
    path.write_bytes(path.read_bytes()[:-1])
    assert main(["weights", "list"]) == 0 and main(["weights", "check"]) == 2
    said = capsys.readouterr()
    assert "damaged" in said.out and "whole: as stored" in said.out and "worldline weights remove small" in said.err


def test_an_action_that_does_not_exist_is_told_with_those_that_do(capsys: pytest.CaptureFixture[str]):
    assert main(["weights", "bogus"]) == 2
    assert "bogus is not understood; choose one of list, add, fetch, check, remove" in capsys.readouterr().err


def test_an_engine_without_weights_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["weights", "add", "mine", str(tmp_path / "x.pth"), "--network", "uni4d"]) == 2
    assert "the engine uni4d has no weights" in capsys.readouterr().err


# --- fetching


class Hub(http.server.BaseHTTPRequestHandler):
    """What a download needs of the model hub."""

    content = b""
    asked: list[tuple[str, str]] = []

    def do_HEAD(self) -> None:  # noqa: N802 - the name is the standard library's
        self.reply(with_body=False)

    def do_GET(self) -> None:  # noqa: N802
        self.reply(with_body=True)

    def reply(self, *, with_body: bool) -> None:
        self.asked.append((self.command, self.path))
        here = self.path == "/airlabshare/any4d-checkpoint/resolve/main/any4d_4v_combined.pth"
        self.send_response(200 if here else 404)
        self.send_header("ETag", f'"{hashlib.sha256(self.content).hexdigest()}"')
        self.send_header("X-Repo-Commit", "a" * 40)
        self.send_header("Content-Length", str(len(self.content) if here else 0))
        self.end_headers()
        if here and with_body:
            self.wfile.write(self.content)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def address() -> Iterator[str]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    Hub.asked = []
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def small_any4d(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under published names, too, the tiny size is welcome."""
    from worldline.engines.any4d import checkpoint

    monkeypatch.setattr(
        checkpoint,
        "NetworkConfig",
        type("Tiny", (), {"__new__": lambda _: NetworkConfig.tiny(), "tiny": NetworkConfig.tiny}),
    )


@pytest.mark.usefixtures("small_any4d")
def test_fetching_downloads_converts_and_leaves_only_the_result(
    tiny_file: Path, folder: Path, address: str, capsys: pytest.CaptureFixture[str]
):
    Hub.content = tiny_file.read_bytes()
    assert main(["weights", "fetch", "any4d", "--from", address]) == 0
    said = capsys.readouterr().out
    assert said.index("licence of any4d: not stated") < said.index("stored ")
    file = weights.find("any4d")
    assert file.source == "airlabshare/any4d-checkpoint/any4d_4v_combined.pth" and left_in(folder) == [
        "any4d.safetensors"
    ]
    assert main(["weights", "fetch", "any4d", "--from", address]) == 2
    assert "stored already" in capsys.readouterr().err
    assert [command for command, _ in Hub.asked].count("GET") == 1


@pytest.mark.usefixtures("small_any4d")
def test_fetching_from_a_folder_copies_nothing_else(tiny_file: Path, tmp_path: Path, folder: Path):
    mirror = tmp_path / "mirror" / "airlabshare" / "any4d-checkpoint"
    mirror.mkdir(parents=True)
    shutil.copy(tiny_file, mirror / "any4d_4v_combined.pth")
    assert main(["weights", "fetch", "any4d", "--from", str(tmp_path / "mirror")]) == 0
    assert left_in(folder) == ["any4d.safetensors"] and left_in(mirror) == ["any4d_4v_combined.pth"]


@pytest.mark.usefixtures("small_any4d")
def test_a_start_for_training_is_stored_as_one_and_refused_for_anything_else(
    tiny_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    state = weights.read(tiny_file).tensors
    still = {name: tensor.clone() for name, tensor in state.items() if not name.startswith("scene_flow")}
    save_file(still, tmp_path / "model.safetensors")
    assert main(["weights", "add", "any4d", str(tmp_path / "model.safetensors")]) == 2
    assert "know no motion" in capsys.readouterr().err
    assert main(["weights", "fetch", "mapanything-apache-v1", "--from", str(tmp_path)]) == 0
    assert "note: these weights know no motion" in capsys.readouterr().out
    file = weights.find("mapanything-apache-v1", commercial=True)
    assert file.start and len(published_state(load_network(file, start=True))) == len(state)
    with pytest.raises(FormatError, match="know no motion"):
        load_network(file)


def test_a_wrong_download_is_refused_and_not_kept(folder: Path, address: str, capsys: pytest.CaptureFixture[str]):
    Hub.content = b"<html>not found</html>"
    assert main(["weights", "fetch", "any4d", "--from", address]) == 2
    assert "neither a safetensors file" in capsys.readouterr().err and left_in(folder) == []


@pytest.mark.filterwarnings("ignore:Not enough free disk")
@pytest.mark.usefixtures("small_any4d")
def test_a_whole_download_that_could_not_be_stored_is_not_repeated(
    tiny_file: Path, folder: Path, address: str, monkeypatch: pytest.MonkeyPatch
):
    Hub.content = tiny_file.read_bytes()
    with monkeypatch.context() as full:
        full.setattr(shutil, "disk_usage", lambda place: argparse.Namespace(free=10**7, total=10**12, used=0))
        assert main(["weights", "fetch", "any4d", "--from", address]) == 2
    assert left_in(folder) == [".any4d.download"]
    assert main(["weights", "fetch", "any4d", "--from", address]) == 0
    assert [command for command, _ in Hub.asked].count("GET") == 1 and left_in(folder) == ["any4d.safetensors"]


def test_an_interrupted_download_leaves_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch):
    import huggingface_hub

    def interrupted(repository: str, file: str, *, local_dir: Path, endpoint: str | None) -> str:
        local_dir.mkdir(parents=True)
        (local_dir / "x.incomplete").write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", interrupted)
    assert main(["weights", "fetch", "any4d"]) == 130
    assert left_in(folder) == []


def test_what_cannot_be_downloaded_is_told_with_the_way_round(address: str, tmp_path: Path):
    entry = published("mapanything-apache-v1")
    assert entry is not None
    with pytest.raises(
        MissingWeights,
        match="facebook/map-anything-apache-v1/model.safetensors cannot be downloaded .*404.*weights add",
    ):
        hub.fetched(entry, address)
    with pytest.raises(MissingWeights, match="model.safetensors is not in"):
        hub.fetched(entry, str(tmp_path))


def test_without_the_package_for_downloads_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InputError, match=r"pip install worldline\[models\]"):
        hub.fetched(PUBLISHED[0])
