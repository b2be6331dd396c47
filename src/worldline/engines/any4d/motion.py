"""What moves in a window and where its points go: scene flow against depth and against the network's own noise.

The flow of view i says where the points of view 0 are at the time of view i. The released network gives none of what
is made here: which of them move, in which views they are seen, and how sure that is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from worldline.engines.any4d.prediction import Said
from worldline.geometry import pixels, se3
from worldline.geometry.camera import project
from worldline.scene.journal import Arrays

NOISES = 3.0
"""So many times the usual motion of the picture's pixels, most of which are static, is motion."""
LEAST_SHARE = 0.005
"""Less motion than this share of the distance is none (as in the training's mask of what moves)."""
SIGMAS, LEAST_BEHIND = 3.0, 0.05
"""A point is hidden that lies so many sigma, and at least this share of its depth, behind what is seen."""
NORMAL = 1.4826
_CLOSING = 7


@dataclass(frozen=True, eq=False)
class Motion:
    """Of a window.

    Attributes:
        moves: (H, W) which pixels of view 0 move. flow: (V, H, W, 3), zero for what does not.
        moving: (V, H, W) which pixels of each view show something that moves.
    """

    moves: Bool[Tensor, "h w"]
    flow: Float[Tensor, "v h w 3"]
    moving: Bool[Tensor, "v h w"]


def find_motion(said: Said, intrinsics: Float[Tensor, "v 4"], *, still_background: bool) -> Motion:
    """What moves, in the reference and in all views."""
    moves = _moves(said)
    flow = torch.where(moves[..., None], said.flow, torch.zeros_like(said.flow)) if still_background else said.flow
    flow = torch.cat([torch.zeros_like(flow[:1]), flow[1:]])
    views = [moves, *(_shown(said, intrinsics, flow, moves, view) for view in range(1, len(flow)))]
    return Motion(moves, flow, torch.stack(views))


def _moves(said: Said) -> Bool[Tensor, "h w"]:
    """Pixels of view 0 whose motion stands out in any view, with company: single ones are noise."""
    there, distance = said.there[0], said.depth_ray[0]
    out = torch.zeros_like(there)
    for flow in said.flow[1:]:
        share = flow.norm(dim=-1) / distance.clamp_min(1e-8)
        usual = share[there].median() * NORMAL if bool(there.any()) else share.new_zeros(())
        bound = torch.maximum(said.sigma[0], (NOISES * usual).clamp_min(LEAST_SHARE))
        out |= there & (share > bound)
    return _opened(out)


def _shown(
    said: Said, intrinsics: Float[Tensor, "v 4"], flow: Float[Tensor, "v h w 3"], moves: Bool[Tensor, "h w"], view: int
) -> Bool[Tensor, "h w"]:
    """Where a view shows the moving points of view 0, or something at a place through which view 0 saw."""
    shown = torch.zeros_like(moves)
    points = (said.points(0) + flow[view])[moves]
    if not len(points):
        return _opened(_appeared(said, intrinsics, view))
    uv, visible = seen(said, intrinsics, points, said.sigma[0][moves], view)
    row, column = pixels.indices(uv[visible], *shown.shape)
    shown[row, column] = True
    return (_closed(shown) | _opened(_appeared(said, intrinsics, view))) & said.there[view]


def _appeared(said: Said, intrinsics: Float[Tensor, "v 4"], view: int) -> Bool[Tensor, "h w"]:
    """Pixels of a view whose points lie in front of all that view 0 shows around there: then they were elsewhere."""
    height, width = said.depth_ray.shape[1:]
    points_cam = se3.apply(
        se3.inverse(said.window_from_cam[0]).to(said.rays.dtype), said.points(view).reshape(-1, 3)
    ).view(height, width, 3)
    uv = project(points_cam, intrinsics[0].to(points_cam.dtype))
    front = (points_cam[..., 2] > 0) & pixels.inside(uv, height, width, margin=1.0)
    row, column = pixels.indices(torch.where(front[..., None], uv, torch.zeros_like(uv)), height, width)
    surface = said.depth_ray[0] * said.rays[0][..., 2]
    nearest = -functional.max_pool2d(-surface[None, None], 3, 1, 1)[0, 0]
    doubt = torch.hypot(said.sigma[view], said.sigma[0][row, column])
    before = 1 - points_cam[..., 2] / nearest[row, column].clamp_min(1e-8)
    seen_through = said.there[0][row, column] & said.there[view] & front
    return seen_through & (before > (SIGMAS * doubt).clamp_min(LEAST_BEHIND))


def seen(
    said: Said, intrinsics: Float[Tensor, "v 4"], points: Float[Tensor, "n 3"], sigma: Float[Tensor, "n"], view: int
) -> tuple[Float[Tensor, "n 2"], Bool[Tensor, "n"]]:
    """Where points of the window are in a view, and whether its depth lets them be seen."""
    cam_from_window = se3.inverse(said.window_from_cam[view]).to(points.dtype)
    points_cam = se3.apply(cam_from_window, points)
    height, width = said.depth_ray.shape[1:]
    uv = project(points_cam, intrinsics[view].to(points.dtype))
    front = (points_cam[:, 2] > 0) & pixels.inside(uv, height, width)
    row, column = pixels.indices(torch.where(front[:, None], uv, torch.zeros_like(uv)), height, width)
    depth_z = (said.depth_ray[view] * said.rays[view][..., 2])[row, column]
    doubt = torch.hypot(sigma, said.sigma[view][row, column])
    behind = points_cam[:, 2] / depth_z.clamp_min(1e-8) - 1
    near = behind.abs() < (SIGMAS * doubt).clamp_min(LEAST_BEHIND)
    return uv, front & said.there[view][row, column] & near


class Starts(NamedTuple):
    """Where tracks start in a window's reference, and which track of an earlier window each continues; -1: none."""

    uv: Float[Tensor, "n 2"]
    continues: Int[Tensor, "n"]


def starts(said: Said, motion: Motion, step: int, earlier: Arrays | None, view: int) -> Starts:
    """Tracks of an earlier window where the reference shows them, and a grid of points where there are none of these.

    Args:
        step: pixels between the points of the grid. earlier: what `follow` made of a window in which the reference is
        view number `view`; None: no such window.
    """
    valid, moves = said.valid[0], motion.moves
    height, width = valid.shape
    uv = _grid(height, width, step).to(valid.device)
    kept, which = uv[:0], torch.zeros(0, dtype=torch.long, device=uv.device)
    if earlier is not None:
        old, moving, visible = (
            torch.from_numpy(x).to(uv.device)
            for x in (earlier["track_uv"][view], earlier["track_moving"], earlier["track_visible"][view])
        )
        row, column = pixels.indices(old, height, width)
        which = torch.nonzero(visible & valid[row, column] & (moves[row, column] == moving))[:, 0]
        kept = old[which]
        taken = torch.zeros(height // step + 1, width // step + 1, dtype=torch.bool, device=uv.device)
        taken[row[which] // step, column[which] // step] = True
        uv = uv[~taken[(uv[:, 1] / step).long(), (uv[:, 0] / step).long()]]
    row, column = pixels.indices(uv, height, width)
    uv = uv[valid[row, column]]
    return Starts(torch.cat([kept, uv]), torch.cat([which, torch.full_like(uv[:, 0], -1, dtype=torch.long)]))


def follow(said: Said, motion: Motion, intrinsics: Float[Tensor, "v 4"], picture: np.ndarray, begun: Starts) -> Arrays:
    """Tracks of points of the reference: (V, N) places, whether and where they are seen, sigma, colour.

    A point's sigma is that of its start and how far the moved points usually lie from the surface they are seen on.
    """
    row, column = pixels.indices(begun.uv, *said.depth_ray.shape[1:])
    start, sigma = said.points(0)[row, column], said.sigma[0][row, column]
    points = start + motion.flow[:, row, column]
    answers = [seen(said, intrinsics, points[v], sigma, v) for v in range(len(points))]
    uv, visible = (torch.stack(x) for x in zip(*answers, strict=True))
    uv, visible = torch.cat([begun.uv[None], uv[1:]]), torch.cat([torch.ones_like(visible[:1]), visible[1:]])
    distance = said.depth_ray[0][row, column]
    off = torch.stack([_off(said, points[v], uv[v], visible[v], v) for v in range(len(points))])
    made = {
        "points": points, "visible": visible, "uv": uv, "moving": motion.moves[row, column],
        "sigma": torch.hypot(sigma, off[:, None].expand_as(visible)) * distance, "continues": begun.continues,
    }  # fmt: skip
    arrays = {f"track_{name}": x.cpu().numpy() for name, x in made.items()}
    return arrays | {"track_colour": picture[row.cpu().numpy(), column.cpu().numpy()]}


def _off(said: Said, points: Tensor, uv: Tensor, visible: Bool[Tensor, "n"], view: int) -> Float[Tensor, ""]:
    """Usual distance of points from the surface of a view on which they are seen, over their depth."""
    if view == 0 or not bool(visible.any()):
        return points.new_zeros(())
    height, width = said.depth_ray.shape[1:]
    row, column = pixels.indices(uv[visible], height, width)
    z = se3.apply(se3.inverse(said.window_from_cam[view]).to(points.dtype), points[visible])[:, 2]
    surface = (said.depth_ray[view] * said.rays[view][..., 2])[row, column]
    return NORMAL * (surface / z - 1).abs().median()


def _grid(height: int, width: int, step: int) -> Float[Tensor, "n 2"]:
    """uv of every step-th pixel."""
    return pixels.centres(height, width)[step // 2 :: step, step // 2 :: step].reshape(-1, 2)


def _opened(mask: Bool[Tensor, "h w"]) -> Bool[Tensor, "h w"]:
    """Without what is thinner than three pixels."""
    x = mask[None, None].float()
    return functional.max_pool2d(-functional.max_pool2d(-x, 3, 1, 1), 3, 1, 1)[0, 0] > 0


def _closed(mask: Bool[Tensor, "h w"]) -> Bool[Tensor, "h w"]:
    """With the gaps filled that lie between points that were carried over."""
    x = mask[None, None].float()
    reach = _CLOSING // 2
    return -functional.max_pool2d(-functional.max_pool2d(x, _CLOSING, 1, reach), _CLOSING, 1, reach)[0, 0] > 0
