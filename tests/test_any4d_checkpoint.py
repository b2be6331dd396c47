"""Published weights of Any4D: every name it has is understood, and whatever does not fit is named."""

from __future__ import annotations

import argparse
import json
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from worldline.engines.any4d.checkpoint import canonical, convert, load_network, notes, published_state
from worldline.engines.any4d.config import NetworkConfig
from worldline.engines.any4d.inputs import Views
from worldline.engines.any4d.network import Any4D
from worldline.errors import FormatError, MissingWeights
from worldline.nets.hashed_weights import fill

TABLE = Path(__file__).parent / "data" / "any4d_state_dict.txt"
SHARED = Path(__file__).parents[1].parent / "shared"
TINY = NetworkConfig.tiny()
State = dict[str, Tensor]


def table(text: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of lines such as `a.{0..2}.b 3 4`."""
    found = {}
    for line in text.splitlines():
        name, *shape = line.split()
        fold = re.search(r"\{0\.\.(\d+)\}", name)
        for k in range(int(fold[1]) + 1 if fold else 1):
            found[re.sub(r"\{.*\}", str(k), name)] = tuple(map(int, shape))
    return found


@cache
def tiny(*, positions: bool = False) -> Any4D:
    network = Any4D(replace(TINY, doppler_positions=positions))
    fill(network)
    return network


@pytest.fixture(scope="module")
def state() -> State:
    return {name: tensor.detach() for name, tensor in published_state(tiny()).items()}


def saved(path: Path, state: State, **more: object) -> Path:
    torch.save({"model": state, "optimizer": {"state": {}}, "epoch": 3, **more}, path)
    return path


@cache
def outputs(network: Any4D) -> Tensor:
    image = torch.linspace(-1, 1, 2 * 3 * 28 * 42).sin().view(2, 1, 3, 28, 42)
    radial = torch.full((2, 1, 28, 42, 3), 0.1)
    with torch.inference_mode():
        raw = network.raw(Views(image, radial=radial, radial_unit=torch.ones(1)))
    return torch.cat([tensor.flatten() for tensor in raw])


def test_the_full_network_has_exactly_the_published_names_and_shapes():
    with torch.device("meta"):
        network = Any4D(NetworkConfig())
    published = {name: tuple(tensor.shape) for name, tensor in published_state(network).items()}
    assert published == table(TABLE.read_text()) and len(published) == 1034
    assert sum(p.numel() for p in network.parameters()) == 613_651_829
    assert {canonical(name) for name in published} == set(network.state_dict())


@pytest.mark.data
def test_the_tiny_network_has_the_names_and_shapes_of_the_reference(state: State):
    file = SHARED / "fixtures" / "any4d" / "tiny_keys.json"
    if not file.is_file():
        pytest.skip("needs the shared reference files")
    keys = json.loads(file.read_text())
    assert {name: list(tensor.shape) for name, tensor in state.items()} == keys["state_dict"]
    assert {name: list(p.shape) for name, p in tiny().named_parameters()} == keys["parameters"]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_published_file_gives_the_same_network_back(tmp_path: Path, state: State, suffix: str):
    path = tmp_path / f"published{suffix}"
    if suffix == ".pth":
        saved(path, state, args=argparse.Namespace(lr=1e-4))
    else:
        save_file({name: tensor.clone() for name, tensor in state.items()}, path)
    network = load_network(path, TINY)
    assert torch.equal(outputs(network), outputs(tiny()))
    assert not network.training and all(p.dtype == torch.float32 and p.requires_grad for p in network.parameters())
    back = published_state(network)
    assert back.keys() == state.keys() and all(torch.equal(back[name], state[name]) for name in state)


def test_changing_a_loaded_network_does_not_change_its_file(tmp_path: Path, state: State):
    path = saved(tmp_path / "published.pth", state)
    before = path.read_bytes()
    network = load_network(path)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    assert path.read_bytes() == before and torch.equal(outputs(load_network(path)), outputs(tiny()))


def test_half_precision_files_give_float32_networks_close_to_the_original(tmp_path: Path, state: State):
    path = saved(tmp_path / "half.pth", {name: tensor.bfloat16() for name, tensor in state.items()})
    network = load_network(path)
    exact, rounded = outputs(tiny()), outputs(network)
    assert {p.dtype for p in network.parameters()} == {torch.float32}
    assert 0 < float((rounded - exact).norm() / exact.norm()) < 0.05


def test_prefix_of_ddp_and_parts_that_the_published_code_lacks_are_tolerated(state: State, tmp_path: Path):
    extras = {"event_encoder.conv.weight": torch.ones(3), "encoder.model.mask_token": torch.ones(1, 384)}
    wrapped = {f"module.{name}": tensor for name, tensor in {**state, **extras}.items()}
    assert torch.equal(outputs(load_network(saved(tmp_path / "ddp.pth", wrapped))), outputs(tiny()))


@pytest.mark.parametrize("rows", [1, 2])
def test_the_doppler_table_is_used_if_the_file_has_it_and_this_is_said(tmp_path: Path, rows: int):
    with_table = tiny(positions=True)
    state = published_state(with_table)
    if rows == 2:
        state["scene_flow_encoder.pos_embed"] = state["scene_flow_encoder.pos_embed"][None]
    path = saved(tmp_path / "table.pth", state)
    network = load_network(path, TINY)
    assert network.config.doppler_positions and "positional table" in notes(network.config)[0]
    assert convert(state, any_size=True).notes == notes(network.config)
    assert torch.equal(outputs(network), outputs(with_table)) and not torch.equal(outputs(network), outputs(tiny()))
    released = load_network(path, as_released=True)
    assert not released.config.doppler_positions and torch.equal(outputs(released), outputs(tiny()))


def changed(change: Callable[[State], object]) -> Callable[[State], State]:
    def apply(state: State) -> State:
        changed = dict(state)
        change(changed)
        return changed

    return apply


WRONG = {
    "renamed": (
        lambda s: s.update(scale_tokn=s.pop("scale_token")),
        r"1 missing \(scale_token\), 1 unexpected \(scale_tokn\)",
    ),
    "missing": (lambda s: s.pop("pose_head.fc_t.bias"), r"1 missing \(pose_head.fc_t.bias\)"),
    "unexpected": (lambda s: s.update(more=torch.ones(1)), r"1 unexpected \(more\)"),
    "reshaped": (
        lambda s: s.update(scale_token=torch.ones(385)),
        r"1 of another shape \(scale_token: \(385,\) for \(384,\)\)",
    ),
    "integer": (lambda s: s.update(scale_token=torch.ones(384).int()), r"1 no floats \(scale_token: torch.int32\)"),
    "alias": (
        lambda s: s.update({"dense_head.1.conv1.bias": torch.ones(16)}),
        "dpt_regressor_head.conv1.bias and dense_head.1.conv1.bias are two names of one tensor but differ",
    ),
    "many": (lambda s: [s.pop(n) for n in list(s) if "ray_dirs" in n], r"18 missing \((\S+, ){3}\.\.\.\)"),
    "half a table": (lambda s: s.update({"scene_flow_encoder.post_pe_norm.bias": torch.ones(96)}), "2 missing"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "sentence"), WRONG.values(), ids=WRONG)
def test_weights_that_do_not_fit_are_refused_by_name_in_one_sentence(
    tmp_path: Path, state: State, change: Callable[[State], object], sentence: str
):
    wrong = changed(change)(state)
    with pytest.raises(FormatError, match=sentence) as caught:
        load_network(saved(tmp_path / "wrong.pth", wrong), TINY)
    assert str(caught.value).startswith(str(tmp_path / "wrong.pth")) and str(caught.value).endswith(".")
    with pytest.raises(FormatError, match=sentence):
        convert(wrong, any_size=True)


def test_a_name_is_needed_only_once_whichever_of_its_aliases_it_is(tmp_path: Path, state: State):
    for keep in (0, -1):
        names: dict[str, list[str]] = {}
        for name in state:
            names.setdefault(canonical(name), []).append(name)
        path = saved(tmp_path / "once.pth", {same[keep]: state[same[keep]] for same in names.values()})
        assert torch.equal(outputs(load_network(path)), outputs(tiny()))


def test_weights_of_another_network_or_of_another_size_are_refused(state: State):
    with pytest.raises(FormatError, match="of another network, not of Any4D .*unet"):
        convert({f"unet.{k}": torch.ones(2) for k in range(5)})
    with pytest.raises(FormatError, match="of another shape"):
        convert(state)


@pytest.fixture
def mapanything(state: State) -> State:
    return {name: tensor for name, tensor in state.items() if not name.startswith("scene_flow")}


def test_weights_without_motion_are_a_start_only_when_that_is_asked(tmp_path: Path, mapanything: State):
    path = saved(tmp_path / "map.pth", mapanything)
    with pytest.raises(FormatError, match="know no motion"):
        load_network(path, TINY)
    assert "know no motion" in convert(mapanything, start=True, any_size=True).notes[0]
    partly = {**mapanything, "scene_flow_encoder.conv_in.bias": torch.ones(48)}
    with pytest.raises(FormatError, match="77 missing"):
        load_network(saved(tmp_path / "partly.pth", partly), TINY, start=True)


def test_at_the_start_nothing_moves_and_the_motion_head_is_a_copy_of_its_own(tmp_path: Path, mapanything: State):
    path = saved(tmp_path / "map.pth", mapanything)
    network, again = (load_network(path, TINY, start=True, seed=3) for _ in range(2))
    state = network.state_dict()
    for name, tensor in state.items():
        ours = name.removeprefix("scene_flow_")
        if ours != name and "encoder" not in name and "conv2.2" not in name:
            assert torch.equal(tensor, state[ours]) and tensor.data_ptr() != state[ours].data_ptr()
    image = torch.ones(2, 1, 3, 28, 42)
    with torch.inference_mode():
        assert not network.raw(Views(image)).motion.any()
    encoder = network.scene_flow_encoder.state_dict()
    assert all(torch.equal(tensor, again.scene_flow_encoder.state_dict()[name]) for name, tensor in encoder.items())
    other = load_network(path, TINY, start=True, seed=4).scene_flow_encoder
    assert not torch.equal(encoder["conv_in.weight"], other.conv_in.weight)


def test_a_start_does_not_touch_the_random_numbers_of_its_caller(tmp_path: Path, mapanything: State):
    path = saved(tmp_path / "map.pth", mapanything)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    load_network(path, TINY, start=True)
    assert torch.equal(torch.rand(3), expected)


def test_a_missing_file_is_missing_weights(tmp_path: Path):
    with pytest.raises(MissingWeights, match="does not exist"):
        load_network(tmp_path / "none.pth")
