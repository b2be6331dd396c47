"""The reference inputs of any4d's network, and what ours says beside the published outputs, file by file.

A variant is read from a file's name: `tiny` or `full`; `viewsN`, `bN` (batch), `native`; `pe`; then what the network is
given. Weights and inputs follow from names alone (`nets/hashed_weights.py`), so no file but the outputs is needed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from worldline.engines.any4d import edges, resolution
from worldline.engines.any4d.config import NetworkConfig
from worldline.engines.any4d.inputs import Views
from worldline.engines.any4d.network import Any4D, Prediction
from worldline.engines.any4d.observed import normalised_quaternions, unit_rays
from worldline.engines.any4d.pinhole import pinhole, pinhole_of_five
from worldline.geometry import pixels, se3
from worldline.nets.hashed_weights import fill, hashed_uniform

BAR = 1e-4
EVERYTHING = ("rays", "depth", "pose", "doppler")
GIVEN: dict[str, tuple[str, ...]] = {
    "img": (), "image": (), "images": (), "rays": ("rays",), "depth": ("rays", "depth"), "pose": ("pose",),
    "poses": ("pose",), "doppler": ("doppler",), "all": EVERYTHING, "no_image": EVERYTHING,
}  # fmt: skip
OUTPUTS = {
    "pts3d": "points_world", "ray_directions": "rays", "depth_along_ray": "depth", "cam_trans": "translation",
    "cam_quats": "quaternion", "scene_flow": "flow", "conf": "confidence", "non_ambiguous_mask_logits": "mask_logit",
}  # fmt: skip


@dataclass(frozen=True)
class Variant:
    """Which network, which inputs, and which of them it is given."""

    full: bool
    tag: str
    views: int
    batch: int
    height: int
    width: int
    given: tuple[str, ...]
    metric: bool
    positions: bool
    depth_views: tuple[int, ...] | None = None
    images: bool = True

    @classmethod
    def of(cls, name: str) -> Variant:
        """From a file's name."""
        full, words = name.startswith("full"), name.split("_")[1:]
        views = next((int(w[5:]) for w in words if re.fullmatch(r"views\d+", w)), 3)
        batch = next((int(w[1:]) for w in words if re.fullmatch(r"b\d+", w)), 1)
        native = "native" in words
        if batch > 1 or native:
            views = 2 if views == 3 else views
        tag = f"tiny{views}b{batch}" if batch > 1 else f"tinyv{views}" if views != 3 else "tiny3"
        size = (70, 56) if batch > 1 else (56, 70)
        if full:
            tag, size = ("native", (336, 518)) if native else ("full", (112, 168))
        given = tuple(dict.fromkeys(g for w in words for g in GIVEN.get(w, ())))
        if "no_image" in name:
            given = EVERYTHING
        if "depth_only_encoder" in name:
            given = ("depth",)
        return cls(
            full, tag, views, batch, *size, given, metric="nonmetric" not in words, positions="pe" in words,
            depth_views=(0, 2) if "some_views" in name else None, images="no_image" not in name,
        )  # fmt: skip


def make_inputs(tag: str, views: int, batch: int, height: int, width: int) -> dict[str, Tensor]:
    """The inputs that belong to a tag, keyed `tag/view{i}/...`."""

    def noise(i: int, name: str, *shape: int) -> np.ndarray:
        return hashed_uniform(f"{tag}/{i}/{name}", batch * int(np.prod(shape))).reshape(batch, *shape)

    found: dict[str, Tensor] = {}
    for i in range(views):
        calibration = np.diag([width * (0.9 + 0.05 * i), width * (0.88 + 0.05 * i), 1.0])
        calibration[:2, 2] = width / 2 + 0.2, height / 2 - 0.9
        depth = np.where(noise(i, "hole", height, width, 1) < -0.8, 0, 3 + 1.5 * noise(i, "depth", height, width, 1))
        quaternion = np.array([0.05, -0.08, 0.1, 0]) * (1 + i) + [0, 0, 0, 1] + 0.02 * noise(i, "quat", 4)
        values = {
            "img": 1.7 * noise(i, "img", 3, height, width),
            "intrinsics": np.broadcast_to(calibration, (batch, 3, 3)),
            "depth_z": depth,
            "quat_xyzw": quaternion / np.linalg.norm(quaternion, axis=-1, keepdims=True),
            "trans": np.array([0.3, -0.1, 0.2]) * i + 0.05 * noise(i, "trans", 3),
            "radial_speed": 0.2 * noise(i, "doppler", height, width, 1),
        }
        found |= {f"{tag}/view{i}/{k}": torch.from_numpy(np.array(v, dtype=np.float32)) for k, v in values.items()}
    return found


def views_of(variant: Variant, stored: dict[str, Tensor]) -> Views:
    """What the network is given."""
    made = make_inputs(variant.tag, variant.views, variant.batch, variant.height, variant.width)

    def each(name: str) -> Tensor:
        keys = [f"{variant.tag}/view{i}/{name}" for i in range(variant.views)]
        return torch.stack([stored.get(key, made[key]) for key in keys])

    image = each("img")
    rays = unit_rays(_four(each("intrinsics")), variant.height, variant.width)
    along = each("depth_z") * rays / rays[..., 2:]
    full = torch.ones(image.shape[:2], dtype=torch.bool)
    some = full.clone()
    if variant.depth_views is not None:
        some[[i for i in range(variant.views) if i not in variant.depth_views]] = False
    values: dict[str, Any] = {
        "image": image, "metric": full if variant.metric else ~full,
        "image_shown": torch.full((variant.batch,), variant.images),
    }  # fmt: skip
    if "rays" in variant.given:
        values |= {"rays": rays, "has_rays": some}
    if "depth" in variant.given:
        values |= {"depth": along.norm(dim=-1), "has_depth": some}
    if "pose" in variant.given:
        values |= {"quaternion": each("quat_xyzw"), "translation": each("trans")}
    if "doppler" in variant.given:
        far = along[0].norm(dim=-1)
        unit = (far.sum((1, 2)) / ((far > 0).sum((1, 2)) + 1e-8)).clamp_min(1e-8)
        values |= {"radial": each("radial_speed") * rays, "radial_unit": unit}
    return Views(**values)


def _four(matrix: Tensor) -> Tensor:
    """fx, fy, cx, cy (centres at +0.5) of matrices with pixel centres on integers."""
    centre = pixels.from_integer_centres(matrix[..., :2, 2])
    return torch.cat([matrix[..., 0, 0, None], matrix[..., 1, 1, None], centre], -1)


_networks: dict[tuple[bool, bool], Any4D] = {}


def network_of(variant: Variant) -> Any4D:
    """The network with its hashed weights; the last of each kind is kept."""
    key = variant.full, variant.positions
    if key not in _networks:
        _networks.clear()
        sizes = NetworkConfig() if variant.full else NetworkConfig.tiny()
        network = Any4D(replace(sizes, doppler_positions=variant.positions)).eval()
        fill(network)
        _networks[key] = network
    return _networks[key]


def difference(ours: Tensor, reference: Tensor) -> float:
    """max |a - b| / max |b|; infinite where shapes differ or a bool does."""
    if ours.shape != reference.shape:
        return float("inf")
    if reference.dtype == torch.bool:
        return 0.0 if bool((ours == reference).all()) else float("inf")
    top = float(reference.double().abs().max())
    return float((ours.double() - reference.double()).abs().max()) / (top or 1.0)


def compare(path: Path) -> Iterator[dict[str, Any]]:
    """One line for a file: the worst tensor and its error. Inputs have no line of their own."""
    if path.stem == "prepost":
        errors = prepost_errors(load_file(path), make_inputs("tiny3", 3, 1, 56, 70) | inputs_beside(path))
    elif path.stem == "losses_inputs":
        errors = loss_errors(load_file(path), json.loads((path.parent / "losses_values.json").read_text()))
    elif path.stem.endswith("_inputs"):
        return
    else:
        errors = network_errors(path)
    worst = max(errors, key=errors.__getitem__)
    yield {"file": path.name, "tensors": len(errors), "worst": worst, "error": errors[worst]}


def inputs_beside(path: Path) -> dict[str, Tensor]:
    """Inputs that are stored in the same folder; all others follow from their names."""
    files = [f for f in path.parent.glob("*_inputs.safetensors") if not f.name.startswith("losses")]
    return {key: value for file in files for key, value in load_file(file).items()}


def network_errors(path: Path) -> dict[str, float]:
    """Every tensor of a file of outputs (and of what the network makes on the way, where the file has it)."""
    variant = Variant.of(path.stem)
    views = views_of(variant, inputs_beside(path))
    network = network_of(variant)
    with torch.inference_mode(), Taps(network) as taps:
        said = network(views)
    reference = load_file(path)
    made = {**outputs(said), **taps.named(variant), **given_to_network(views)}
    return {key: difference(_thinned(made[key], value), value) for key, value in reference.items()}


def _thinned(ours: Tensor, reference: Tensor) -> Tensor:
    """Every n-th pixel of a map, as the reference kept it."""
    if ours.ndim < 3 or ours.shape == reference.shape:
        return ours
    step = -(-ours.shape[1] // reference.shape[1])
    return ours[:, ::step, ::step]


def outputs(said: Prediction) -> dict[str, Tensor]:
    """The prediction under its published names."""
    found: dict[str, Tensor] = {}
    for i in range(len(said.rays)):
        for key, name in OUTPUTS.items():
            value = getattr(said, name)[i]
            found[f"view{i}/{key}"] = value[..., None] if key == "depth_along_ray" else value
        found[f"view{i}/non_ambiguous_mask"] = said.mask[i]
        found[f"view{i}/metric_scaling_factor"] = said.scale[:, None]
        found[f"view{i}/pts3d_cam"] = said.rays[i] * said.depth[i][..., None]
    return found


def given_to_network(views: Views) -> dict[str, Tensor]:
    """What the network gets, under its published names."""
    named = {
        "img": views.image, "ray_directions_cam": views.rays, "depth_along_ray": views.depth,
        "camera_pose_quats": views.quaternion, "camera_pose_trans": views.translation, "is_metric_scale": views.metric,
        "radial_scene_flow": views.radial,
    }  # fmt: skip
    found: dict[str, Tensor] = {}
    for name, values in named.items():
        for i, value in enumerate([] if values is None else values):
            found[f"model_input/view{i}/{name}"] = value[..., None] if name == "depth_along_ray" else value
    if views.depth is not None and views.rays is not None:
        for i, (rays, depth) in enumerate(zip(views.rays, views.depth, strict=True)):
            found[f"model_input/view{i}/pts3d_cam"] = rays * depth[..., None]
            found[f"model_input/view{i}/valid_mask"] = depth > 0
            found[f"model_input/view{i}/depth_z"] = (rays[..., 2] * depth)[..., None]
    return found


class Taps:
    """What modules of the network hand on, kept while it runs."""

    def __init__(self, network: Any4D) -> None:
        self.network, self.kept, self.hooks = network, {}, []

    def __enter__(self) -> Taps:
        network = self.network
        modules: dict[str, nn.Module] = {
            "encoder": network.encoder["model"], "fused_channels_last": network.fusion_norm_layer,
            "dpt_features_8x": network.dpt_feature_head, "dpt_raw": network.dpt_regressor_head,
            "flow_raw": network.scene_flow_dpt_regressor_head, "pose_raw": network.pose_head,
            "scale_raw": network.scale_head,
        }  # fmt: skip
        for k, block in enumerate(network.info_sharing.self_attention_blocks):
            modules[f"block{k:02d}"] = block
        for name, module in modules.items():
            self.hooks.append(module.register_forward_hook(lambda _m, _i, out, name=name: self._keep(name, out)))
        return self

    def _keep(self, name: str, out: Tensor) -> None:
        self.kept.setdefault(name, []).append(out)

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()

    def named(self, variant: Variant) -> dict[str, Tensor]:
        """As the reference keeps them."""
        found = {f"tap/{name}": torch.cat(parts) for name, parts in self.kept.items()}
        fused = found["tap/fused_channels_last"]
        found["tap/fused_channels_last"] = fused.reshape(-1, *fused.shape[-3:])
        found["tap/scale_raw"] = found["tap/scale_raw"][..., None]
        return found


def prepost_errors(reference: dict[str, Tensor], tiny: dict[str, Tensor]) -> dict[str, float]:
    """Reading, resizing, calibration, poses, masks: every tensor that is not an input."""
    made: dict[str, Tensor] = {}
    for name, size in {"big": (700, 500), "small": (300, 170), "tall": (200, 340)}.items():
        fit = resolution.Fit.of(*size)
        picture = resolution.normalised(fit.image(_pattern(*size)))[None]
        made[f"load/{name}/img_stride4"] = picture[:, :, ::4, ::4]
        made[f"load/{name}/true_shape"] = torch.tensor([[fit.height, fit.width]])
        made[f"load/{name}/input_wh"] = torch.tensor(size)
    aspects = reference["aspect/in"].tolist()
    made["aspect/out_wh"] = torch.tensor([resolution.network_size(aspect, 1) for aspect in aspects])
    made |= _crop(reference) | _poses(reference, tiny) | _post(reference, tiny)
    asked = [k for k in reference if not (k.endswith(("_in", "/in", "quat/q")) or k.startswith("post/in"))]
    return {key: difference(made[key], reference[key]) for key in asked}


def _pattern(width: int, height: int) -> np.ndarray:
    y, x = np.mgrid[:height, :width].astype(float)
    waves = [127 + 120 * np.sin(x / 17 + y / 41), 127 + 120 * np.cos(x / 29), 127 + 120 * np.sin(y / 13)]
    return np.round(np.clip(np.stack(waves, -1), 0, 255)).astype(np.uint8)


def _matrix(fx_fy_cx_cy: Tensor) -> Tensor:
    """A calibration matrix with pixel centres on integers."""
    fx, fy = fx_fy_cx_cy[..., 0], fx_fy_cx_cy[..., 1]
    cx, cy = pixels.to_integer_centres(fx_fy_cx_cy[..., 2:]).unbind(-1)
    zero, one = torch.zeros_like(fx), torch.ones_like(fx)
    return torch.stack([fx, zero, cx, zero, fy, cy, zero, zero, one], -1).unflatten(-1, (3, 3))


def _crop(reference: dict[str, Tensor]) -> dict[str, Tensor]:
    fit = resolution.Fit.of(300, 170)
    depth = np.arange(300 * 170, dtype=np.float32).reshape(170, 300)
    intrinsics = torch.from_numpy(fit.trained_intrinsics(_four(reference["crop/k_in"].double()).numpy()))
    return {
        "crop/size_out_wh": torch.tensor([fit.width, fit.height]),
        "crop/depth_out_stride8": torch.from_numpy(fit.nearest(depth)[::8, ::8]),
        "crop/k_out": _matrix(intrinsics),
    }


def _poses(reference: dict[str, Tensor], tiny: dict[str, Tensor]) -> dict[str, Tensor]:
    quaternion = se3.wxyz_from_xyzw(reference["quat/q"])
    made = {"quat/R": se3.rotation_from_wxyz(quaternion), "quat/q_back": normalised_quaternions(reference["quat/R"])}
    for i in range(3):
        height, width = tiny[f"tiny3/view{i}/depth_z"].shape[1:3]
        rays = unit_rays(_four(tiny[f"tiny3/view{i}/intrinsics"]), height, width)
        along = tiny[f"tiny3/view{i}/depth_z"] * rays / rays[..., 2:]
        motion = reference[f"pre/view{i}/camera_pose_in"]
        made |= {
            f"pre/view{i}/ray_directions_cam": rays,
            f"pre/view{i}/depth_along_ray": along.norm(dim=-1, keepdim=True),
            f"pre/view{i}/camera_pose_quats": normalised_quaternions(motion[:, :3, :3]),
            f"pre/view{i}/camera_pose_trans": motion[:, :3, 3],
            f"pre/view{i}/is_metric_scale": torch.ones(1, dtype=torch.bool),
        }
    rays = reference["pre/view0/ray_directions_cam"]
    made["intr/from_rays"] = _matrix(pinhole(rays))
    made["intr/from_rays_geometric"] = _matrix(pinhole_of_five(rays))
    return made


def _post(reference: dict[str, Tensor], tiny: dict[str, Tensor]) -> dict[str, Tensor]:
    points, confidence = reference["post/in/pts3d"], reference["post/in/conf"]
    valid, rays = reference["post/in/non_ambiguous_mask"], reference["post/in/ray_directions"]
    rotation = se3.rotation_from_wxyz(se3.wxyz_from_xyzw(tiny["tiny3/view1/quat_xyzw"]))
    image = resolution.colours(tiny["tiny3/view0/img"]).movedim(1, -1)
    published = edges.Edges(as_published=True)
    kinds: dict[str, tuple[edges.Edges | None, Tensor | None]] = {
        "default": (published, None), "conf": (published, confidence), "noedge": (None, None),
    }  # fmt: skip
    made: dict[str, Tensor] = {"post/default/img_no_norm": image}
    for name, (tearing, sure) in kinds.items():
        mask = edges.trusted(points, points[..., 2], valid, tearing, confidence=sure)
        made |= {
            f"post/{name}/mask": mask[..., None],
            f"post/{name}/depth_z": (points[..., 2] * mask)[..., None],
            f"post/{name}/intrinsics": _matrix(pinhole(rays)),
            f"post/{name}/camera_poses": se3.from_rotation_translation(rotation, tiny["tiny3/view1/trans"]),
        }
    return made


def loss_errors(inputs: dict[str, Tensor], values: dict[str, dict[str, float]]) -> dict[str, float]:
    """Every value of every criterion, relative to the reference."""
    from worldline.train.published_terms import reference_losses

    made = reference_losses(inputs)
    return {
        f"{kind}/{name}": abs(made[kind][name] - value) / max(abs(value), 1e-12)
        for kind, named in values.items()
        for name, value in named.items()
    }
