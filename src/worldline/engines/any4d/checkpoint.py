"""Published weights of Any4D, and of MapAnything as a start, to and from the network of this engine.

Names are the published ones; a published file has 152 of its tensors under further names as well, and may hold
parts that the published code does not build. Whatever else is missing, unexpected or of another shape is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from worldline.engines.any4d.config import NetworkConfig
from worldline.engines.any4d.network import Any4D, DenseEncoder
from worldline.errors import FormatError, WorldlineError
from worldline.nets import weights
from worldline.nets.state_dicts import check_fit, one_name_each, shapes
from worldline.nets.tensor_files import placed
from worldline.nets.weights import Converted, WeightsFile

_DOPPLER_TABLE = "scene_flow_encoder.pos_embed"
_DOPPLER_NORM = "scene_flow_encoder.post_pe_norm."
_TABLES = frozenset({_DOPPLER_TABLE, "info_sharing.view_pos_table"})
_UNUSED = ("event_encoder.", "encoder.model.mask_token")
_MOTION = ("scene_flow_encoder.", "scene_flow_dpt_feature_head.", "scene_flow_dpt_regressor_head.")
_LAST_OF_MOTION = "scene_flow_dpt_regressor_head.conv2.2."
_LACKS_MOTION = "these weights know no motion: training can begin with them, a reconstruction cannot use them"
_HAS_POSITIONS = "the Doppler encoder has a positional table, as in the file; the published code leaves it out"
_DENSE = {
    f"{flow}dense_head.{part}.": f"{flow}dpt_{kind}_head."
    for flow in ("", "scene_flow_")
    for part, kind in enumerate(("feature", "regressor"))
}
_LAYER = re.compile(r"(.*dpt_feature_head\.)(?:input_process\.(\d)\.1|scratch\.layer_rn\.(\d))\.weight")
_CANONICAL_LAYER = re.compile(r"(.*dpt_feature_head\.)scratch\.layer(\d)_rn\.weight")


def canonical(name: str) -> str:
    """The name in our network of a tensor that is published under several."""
    for alias, ours in _DENSE.items():
        if name.startswith(alias):
            name = ours + name.removeprefix(alias)
    if layer := _LAYER.fullmatch(name):
        return f"{layer[1]}scratch.layer{int(layer[2] or layer[3]) + 1}_rn.weight"
    return name


def published_state(network: Any4D) -> dict[str, Tensor]:
    """The state dict as it is published, every tensor under all of its names; nothing is copied."""
    state = network.state_dict()
    if _DOPPLER_TABLE in state:
        state[_DOPPLER_TABLE] = state[_DOPPLER_TABLE][0]
    return {alias: tensor for name, tensor in state.items() for alias in _published_names(name)}


def convert(tensors: Mapping[str, Tensor], *, start: bool = False, any_size: bool = False) -> Converted:
    """The tensors of a published file, each once, under the names of our network; see `nets.weights.Converter`.

    Raises:
        FormatError: they do not fit the network, or two names of one tensor differ.
    """
    state, config = _fitted(tensors, _config_of(tensors) if any_size else NetworkConfig(), start=start)
    lacks = (_LACKS_MOTION,) if _lacks_motion(state) else ()
    return Converted(state, _TABLES, lacks or notes(config))


def notes(config: NetworkConfig) -> tuple[str, ...]:
    """What a user should know about a network that was read from a file."""
    return (_HAS_POSITIONS,) if config.doppler_positions else ()


def load_network(
    file: WeightsFile | Path, config: NetworkConfig | None = None, device: str | torch.device = "cpu", *,
    start: bool = False, as_released: bool = False, seed: int = 0,
) -> Any4D:  # fmt: skip
    """The network with the weights of a file, in float32 whatever they are stored in.

    Float32 weights on the CPU are the file's own pages: they are read where and when they are used, and shared by
    all processes that use the file. Changing them (training) does not change the file.

    Args:
        config: sizes of the network; None: those of the file. Whether the Doppler encoder has a positional table is
            said by the file; the network's `config` tells.
        start: parts for motion may be missing (MapAnything). The motion head then begins as the geometry head with a
            last layer of zeros, the Doppler encoder with random weights of this `seed`.
        as_released: leave the positional table of the Doppler encoder out, as the published code does.

    Raises:
        MissingWeights: there is no such file. FormatError: its weights do not fit.
    """
    path = file.path if isinstance(file, WeightsFile) else file
    content = weights.read(path)
    try:
        state, config = _fitted(content.tensors, config or _config_of(content.tensors), start=start)
    except WorldlineError as error:
        raise type(error)(f"{path}: {error}") from error
    if _lacks_motion(state):
        state |= _motion_at_start(state, config, seed)
    network = _empty(replace(config, doppler_positions=config.doppler_positions and not as_released))
    ready = {}
    for name in network.state_dict():
        ready[name] = placed(state[name], device, torch.float32)
        content.forget()
    network.load_state_dict(ready, assign=True)
    return network.eval()


def _published_names(name: str) -> list[str]:
    names = [name]
    if layer := _CANONICAL_LAYER.fullmatch(name):
        head, number = layer[1], int(layer[2]) - 1
        names += [f"{head}scratch.layer_rn.{number}.weight", f"{head}input_process.{number}.1.weight"]
    for alias, ours in _DENSE.items():
        if name.startswith(ours):
            names += [alias + same.removeprefix(ours) for same in names]
    return names


def _fitted(
    tensors: Mapping[str, Tensor], config: NetworkConfig, *, start: bool
) -> tuple[dict[str, Tensor], NetworkConfig]:
    """Each tensor once and under our name, checked against the network; and the config with the file's table."""
    used = {name: tensor for name, tensor in tensors.items() if not name.startswith(_UNUSED)}
    state = one_name_each(used, canonical)
    if _DOPPLER_TABLE in state and state[_DOPPLER_TABLE].ndim == 2:
        state[_DOPPLER_TABLE] = state[_DOPPLER_TABLE][None]
    if not _lacks_motion(state):
        has_positions = any(name == _DOPPLER_TABLE or name.startswith(_DOPPLER_NORM) for name in state)
        config = replace(config, doppler_positions=has_positions)
    needed = shapes(_empty(config))
    geometry = {name: shape for name, shape in needed.items() if not name.startswith(_MOTION)}
    if _lacks_motion(state) and geometry.keys() <= state.keys() and not start:
        raise FormatError(f"{_LACKS_MOTION}; give weights of Any4D.")
    check_fit(state, geometry if start and _lacks_motion(state) else needed, "Any4D")
    return state, config


def _config_of(tensors: Mapping[str, Tensor]) -> NetworkConfig:
    """The known size that has the width of the tensors' image encoder; the published one if none has."""
    token = tensors.get("encoder.model.cls_token")
    known = {config.encoder.width: config for config in (NetworkConfig.tiny(), NetworkConfig())}
    return known.get(token.shape[-1] if token is not None and token.ndim else 0, NetworkConfig())


def _empty(config: NetworkConfig) -> Any4D:
    with torch.device("meta"):
        return Any4D(config)


def _lacks_motion(state: Mapping[str, Tensor]) -> bool:
    return not any(name.startswith(_MOTION) for name in state)


def _motion_at_start(state: Mapping[str, Tensor], config: NetworkConfig, seed: int) -> dict[str, Tensor]:
    heads = ("dpt_feature_head.", "dpt_regressor_head.")
    motion = {f"scene_flow_{name}": tensor.clone() for name, tensor in state.items() if name.startswith(heads)}
    for name in motion:
        if name.startswith(_LAST_OF_MOTION):
            motion[name] = torch.zeros(3, *motion[name].shape[1:])
    side, positions = config.encoder.table_side, config.doppler_positions
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = DenseEncoder(3, config.dense, config.encoder.width, config.encoder.patch, side, positions=positions)
    return motion | {f"scene_flow_encoder.{name}": tensor for name, tensor in fresh.state_dict().items()}
