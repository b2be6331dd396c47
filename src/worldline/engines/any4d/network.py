"""The network of Any4D: N views and whatever else is known of them to rays, depth, poses, scale and scene flow.

    images -- DINOv2 --(+ codes of rays, depth, poses, Doppler)-- norm --> fused
    fused of all views + scale token -- blocks, in turn over all views and within one --> tokens
    {fused, two taps, tokens} -- DPT --> rays, depth, confidence, mask   |   DPT --> scene flow
    tokens of a view -- pose head --> pose           scale token -- scale head --> metres per unit

Source: Karhade et al., "Any4D", CVPR 2026, section 3; it extends Keetha et al., "MapAnything", 2025, section 3.
Modules bear the names of the published weights, so its state dict is the published one without its aliases.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional

from worldline.engines.any4d import inputs
from worldline.engines.any4d.config import NetworkConfig
from worldline.engines.any4d.inputs import Views
from worldline.geometry import se3
from worldline.nets.dpt import DptFeatures, DptRegressor
from worldline.nets.position import resized_table, sine_table
from worldline.nets.vit import Block, Dino

DOPPLER_BASE = 70007.0
"""Of the wavelengths of the Doppler encoder's positional table."""


class ResidualMap(nn.Module):
    """gelu(conv(gelu(conv(x))) + x), with a 1x1 convolution of x where the width changes."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(before, after, 3, padding=1)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1)
        self.shortcut = nn.Conv2d(before, after, 1) if before != after else nn.Identity()

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d h w"]:
        return functional.gelu(self.conv2(functional.gelu(self.conv1(x))) + self.shortcut(x))


class DenseEncoder(nn.Module):
    """A map of the size of the image to one code per patch."""

    def __init__(self, channels: int, widths: tuple[int, ...], width: int, patch: int, side: int, *, positions: bool):
        super().__init__()
        self.patch, self.side = patch, side
        self.conv_in = nn.Conv2d(channels * patch**2, widths[0], 3, padding=1)
        inner = [ResidualMap(a, b) for a, b in zip(widths, widths[1:], strict=False)]
        self.encoder = nn.Sequential(*inner, nn.Conv2d(widths[-1], width, 1))
        self.norm_layer = nn.LayerNorm(width, eps=1e-6)
        self.pos_embed: Tensor
        self.post_pe_norm = nn.LayerNorm(width, eps=1e-6) if positions else None
        if positions:
            self.register_buffer("pos_embed", sine_table(side**2, width, base=DOPPLER_BASE)[None])

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d gh gw"]:
        code = self.encoder(self.conv_in(functional.pixel_unshuffle(x, self.patch))).permute(0, 2, 3, 1)
        code = self.norm_layer(code)
        if self.post_pe_norm is not None:
            grid = code.shape[1:3]
            code = self.post_pe_norm(code + resized_table(self.pos_embed[0], self.side, grid).view(*grid, -1))
        return code.permute(0, 3, 1, 2)


class VectorEncoder(nn.Module):
    """A few numbers per view to one code, added to all its patches."""

    def __init__(self, numbers: int, widths: tuple[int, ...], width: int) -> None:
        super().__init__()
        layers: nn.Module = nn.Sequential(nn.Linear(numbers, widths[0]), nn.GELU())
        for before, after in zip(widths, widths[1:], strict=False):
            layers = nn.Sequential(layers, nn.Linear(before, after), nn.GELU())
        self.encoder = nn.Sequential(layers, nn.Linear(widths[-1], width))
        self.norm_layer = nn.LayerNorm(width, eps=1e-6)

    def forward(self, x: Float[Tensor, "*n c"]) -> Float[Tensor, "*n d"]:
        return self.norm_layer(self.encoder(x))


class InformationSharing(nn.Module):
    """Blocks over the tokens of all views and of one view in turn, and a token for the scale of the scene."""

    view_pos_table: Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.taps = config.taps
        self.proj_embed = nn.Linear(config.encoder.width, config.width)
        self.self_attention_blocks = nn.ModuleList(Block(config.width, config.heads) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, eps=1e-6)
        self.register_buffer("view_pos_table", sine_table(1, config.width, base=1e4))

    def forward(
        self, patches: Float[Tensor, "v b n c"], scale_token: Float[Tensor, "c"]
    ) -> tuple[list[Float[Tensor, "v b n d"]], Float[Tensor, "b d"]]:
        """Tokens at the taps and at the end, and the scale token at the end."""
        v, b, n, _ = patches.shape
        x = self.proj_embed(patches)
        scale = self.proj_embed(scale_token).expand(b, 1, -1)
        x = torch.cat([x[:1] + self.view_pos_table, x[1:]])
        kept = []
        for k, block in enumerate(self.self_attention_blocks):
            if k % 2 == 0:
                every = torch.cat([x.transpose(0, 1).reshape(b, v * n, -1), scale], 1)
                every = block(every)
                x, scale = every[:, :-1].view(b, v, n, -1).transpose(0, 1), every[:, -1:]
            else:
                x = block(x.reshape(v * b, n, -1)).view(v, b, n, -1)
            if k in self.taps:
                kept.append(self.norm(x))
        return [*kept, self.norm(x)], self.norm(scale)[:, 0]


class ResidualPointwise(nn.Module):
    """x + relu of three 1x1 convolutions, each followed by a relu."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.res_conv1, self.res_conv2, self.res_conv3 = (nn.Conv2d(width, width, 1) for _ in range(3))

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        y = functional.relu(self.res_conv1(x))
        return x + functional.relu(self.res_conv3(functional.relu(self.res_conv2(y))))


class PoseHead(nn.Module):
    """Translation and quaternion (x y z w, not yet of unit length) from the patches of a view."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(before, width, 1)
        self.res_conv = nn.ModuleList(ResidualPointwise(width) for _ in range(2))
        self.more_mlps = nn.Sequential(nn.Linear(width, width), nn.ReLU(), nn.Linear(width, width), nn.ReLU())
        self.fc_t = nn.Linear(width, 3)
        self.fc_rot = nn.Linear(width, 4)

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b 7"]:
        x = self.proj(x)
        for block in self.res_conv:
            x = block(x)
        x = self.more_mlps(x.mean((2, 3)))
        return torch.cat([self.fc_t(x), self.fc_rot(x)], -1)


class ScaleHead(nn.Module):
    """The log of the metres per unit from the scale token."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Linear(before, width)
        self.mlp = nn.Sequential(*(nn.Sequential(nn.Linear(width, width), nn.ReLU()) for _ in range(2)))
        self.output_proj = nn.Linear(width, 1)

    def forward(self, token: Float[Tensor, "b c"]) -> Float[Tensor, "b 1"]:
        return self.output_proj(self.mlp(self.proj(token)))


@dataclass(frozen=True, eq=False)
class Prediction:
    """What the network says of V views of B scenes, in metres if `scale` is right; the world is about view 0's camera.

    Attributes:
        rays: (V, B, H, W, 3) unit vectors in the camera. depth: (V, B, H, W) along them.
        quaternion: (V, B, 4) x y z w; translation: (V, B, 3) of world_from_cam.
        flow: (V, B, H, W, 3) motion, in world axes, of the point seen at this pixel of view 0, from view 0 to view v.
        scale: (B,) metres per unit of the network, already applied. confidence: (V, B, H, W), at least 1.
        mask_logit: (V, B, H, W) above 0 where there is geometry.
    """

    rays: Float[Tensor, "v b h w 3"]
    depth: Float[Tensor, "v b h w"]
    quaternion: Float[Tensor, "v b 4"]
    translation: Float[Tensor, "v b 3"]
    flow: Float[Tensor, "v b h w 3"]
    scale: Float[Tensor, "b"]
    confidence: Float[Tensor, "v b h w"]
    mask_logit: Float[Tensor, "v b h w"]

    @property
    def mask(self) -> Bool[Tensor, "v b h w"]:
        """Where there is geometry."""
        return self.mask_logit > 0

    @property
    def points_world(self) -> Float[Tensor, "v b h w 3"]:
        """Of every pixel."""
        q = self.quaternion[:, :, None, None].expand(*self.rays.shape[:4], 4)
        return se3.turned_xyzw(q, self.rays * self.depth[..., None]) + self.translation[:, :, None, None]


class Raw(NamedTuple):
    """Outputs of the heads before they are given a meaning."""

    geometry: Float[Tensor, "n 6 h w"]
    motion: Float[Tensor, "n 3 h w"]
    pose: Float[Tensor, "n 7"]
    scale: Float[Tensor, "b 1"]


class Any4D(nn.Module):
    """The whole network.

    Attributes:
        views_at_once: how many go through the dense heads together; fewer need less memory and no more time on a CPU.
    """

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.views_at_once = 8
        width, patch, side = config.encoder.width, config.encoder.patch, config.encoder.table_side

        def dense(channels: int, *, positions: bool = False) -> DenseEncoder:
            return DenseEncoder(channels, config.dense, width, patch, side, positions=positions)

        def vector(numbers: int) -> VectorEncoder:
            return VectorEncoder(numbers, config.vector, width)

        self.encoder = nn.ModuleDict({"model": Dino(config.encoder)})
        self.ray_dirs_encoder, self.depth_encoder = dense(3), dense(1)
        self.scene_flow_encoder = dense(3, positions=config.doppler_positions)
        self.depth_scale_encoder, self.cam_trans_scale_encoder = vector(1), vector(1)
        self.cam_rot_encoder, self.cam_trans_encoder = vector(4), vector(3)
        self.fusion_norm_layer = nn.LayerNorm(width, eps=1e-6)
        self.scale_token = nn.Parameter(torch.zeros(width))
        self.info_sharing = InformationSharing(config)
        levels = (width, *(config.width for _ in range(3)))
        hidden = config.dpt_width // 2
        self.dpt_feature_head = DptFeatures(levels, config.dpt_levels, config.dpt_width)
        self.dpt_regressor_head = DptRegressor(config.dpt_width, (hidden, hidden), 6)
        self.scene_flow_dpt_feature_head = DptFeatures(levels, config.dpt_levels, config.dpt_width)
        self.scene_flow_dpt_regressor_head = DptRegressor(config.dpt_width, (hidden, hidden), 3)
        self.pose_head = PoseHead(config.width, config.pose_width)
        self.scale_head = ScaleHead(config.width, config.scale_width)

    @property
    def dino(self) -> Dino:
        """The encoder of images."""
        model = self.encoder["model"]
        assert isinstance(model, Dino)
        return model

    def forward(self, views: Views, features: Tensor | None = None) -> Prediction:
        """Everything about all views, view 0 being the reference; `features` of the images if they are known."""
        return meaning(self.raw(views, features), len(views))

    def features(self, views: Views) -> Float[Tensor, "v b c gh gw"]:
        """Of the images alone: those of a view do not depend on the others."""
        image = views.image
        if views.image_shown is not None:
            image = torch.where(views.image_shown[None, :, None, None, None], image, torch.zeros_like(image))
        return self.dino(image.flatten(0, 1)).unflatten(0, image.shape[:2])

    def fused(self, features: Float[Tensor, "v b c gh gw"], views: Views) -> Float[Tensor, "v b c gh gw"]:
        """Features with the codes of all else that is known."""
        x = features.float()
        for code, mask in self._codes(views):
            x = x + code * mask[:, :, None, None, None]
        return self.fusion_norm_layer(x.permute(0, 1, 3, 4, 2)).permute(0, 1, 4, 2, 3)

    def raw(self, views: Views, features: Tensor | None = None) -> Raw:
        """What the heads say."""
        fused = self.fused(self.features(views) if features is None else features, views)
        tokens, scale = self.info_sharing(fused.flatten(3).transpose(2, 3), self.scale_token)
        grid = fused.shape[-2:]
        maps = [x.flatten(0, 1).unflatten(1, grid).permute(0, 3, 1, 2) for x in tokens]
        size = (views.image.shape[-2], views.image.shape[-1])
        geometry, motion = self._dense([fused.flatten(0, 1), *maps], size)
        return Raw(geometry, motion, self.pose_head(maps[-1]), self.scale_head(scale))

    def _dense(self, levels: list[Tensor], size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        """What the two dense heads say, a few views at a time: their maps are the largest there are."""
        found: list[tuple[Tensor, Tensor]] = []
        for part in zip(*(x.split(self.views_at_once) for x in levels), strict=True):
            geometry = self.dpt_regressor_head(self.dpt_feature_head(part), size)
            motion = self.scene_flow_dpt_regressor_head(self.scene_flow_dpt_feature_head(part), size)
            found.append((geometry, motion))
        geometries, motions = zip(*found, strict=True)
        return torch.cat(geometries), torch.cat(motions)

    def _codes(self, views: Views) -> list[tuple[Tensor, Tensor]]:
        """Codes (V, B, C, gh, gw or 1, 1) and for which view and sample they count; encoders nobody needs rest."""
        found: list[tuple[Tensor, Tensor]] = []

        def dense(encoder: DenseEncoder, x: Tensor, mask: Tensor) -> None:
            found.append((encoder(x.flatten(0, 1)).unflatten(0, x.shape[:2]), mask))

        def vector(encoder: VectorEncoder, x: Tensor, mask: Tensor) -> None:
            found.append((encoder(x)[..., None, None], mask))

        if (mask := views.available("rays")) is not None:
            assert views.rays is not None
            dense(self.ray_dirs_encoder, views.rays.movedim(-1, 2), mask)
        if (mask := views.available("depth")) is not None:
            assert views.depth is not None
            code, log_mean = inputs.depth_codes(views.depth)
            dense(self.depth_encoder, code, mask)
            vector(self.depth_scale_encoder, log_mean, mask & views.is_metric)
        if (mask := views.available("pose")) is not None:
            assert views.quaternion is not None and views.translation is not None
            placed = mask if views.has_translation is None else mask & views.has_translation
            turn, shift, log_mean = inputs.pose_codes(views.quaternion, views.translation, mask, placed)
            vector(self.cam_rot_encoder, turn, mask)
            vector(self.cam_trans_encoder, shift, placed)
            vector(self.cam_trans_scale_encoder, log_mean, placed & views.is_metric)
        if (mask := views.available("radial")) is not None:
            assert views.radial is not None and views.radial_unit is not None
            scaled = views.radial / (views.radial_unit + inputs.TINY)[None, :, None, None, None]
            dense(self.scene_flow_encoder, scaled.movedim(-1, 2), mask)
        return found


def meaning(raw: Raw, views: int) -> Prediction:
    """Raw outputs as rays, depths, poses and motions in metres."""
    scale = raw.scale[:, 0].exp().clamp_min(inputs.TINY)

    def by_view(x: Tensor) -> Tensor:
        return x.unflatten(0, (views, -1))

    def unit(x: Tensor) -> Tensor:
        return x / x.norm(dim=-1, keepdim=True).clamp_min(inputs.TINY)

    geometry, pose = by_view(raw.geometry.movedim(1, -1)), by_view(raw.pose)
    per_pixel = scale[None, :, None, None]
    return Prediction(
        rays=unit(geometry[..., :3]),
        depth=geometry[..., 3].exp() * per_pixel,
        quaternion=unit(pose[..., 3:]),
        translation=pose[..., :3] * scale[None, :, None],
        flow=by_view(raw.motion.movedim(1, -1)) * per_pixel[..., None],
        scale=scale,
        confidence=1 + geometry[..., 4].exp(),
        mask_logit=geometry[..., 5],
    )
