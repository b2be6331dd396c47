"""Stage 1: camera motion from the depth cue and static tracks, all consecutive pairs in one problem, then chained.

Source: Uni4D (arXiv 2503.21761) stage 1 asks the same of sliding windows by Adam; here every pair is solved at once
by second-order steps with a bounded loss.
"""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from worldline.geometry import camera, se3
from worldline.solve import terms
from worldline.solve.methods import Dense
from worldline.solve.problem import Stop, Term, minimise
from worldline.solve.robust import GemanMcClure


def chain_pairs(
    uv: Float[Tensor, "t n 2"],
    seen: Bool[Tensor, "t n"],
    log_depth: Float[Tensor, "t n"],
    intrinsics: Float[Tensor, "4"],
    *,
    per_pair: int = 400,
    generator: torch.Generator | None = None,
) -> Float[Tensor, "t 4 4"]:
    """World-from-camera of every frame, world = first camera, from depth unprojected into the next frame and back.

    A pair with fewer than six common tracks keeps the motion of the pair before it.
    """
    common = seen[:-1] & seen[1:] & log_depth[:-1].isfinite() & log_depth[1:].isfinite()
    score = torch.rand(common.shape, generator=generator, dtype=torch.float32).to(uv.device) * common
    value, chosen = score.topk(min(per_pair, score.shape[1]), dim=1)
    pair, column = (value > 0).nonzero(as_tuple=True)
    track = chosen[pair, column]

    def at(frame: Tensor) -> tuple[Tensor, Tensor]:
        pixel = uv[frame, track]
        return pixel, camera.unproject(pixel, log_depth[frame, track].exp(), intrinsics)

    uv_a, points_a = at(pair)
    uv_b, points_b = at(pair + 1)
    # b's points seen from a fit `b_from_a` as a camera's pose in b's frame; a's points need its inverse
    state = {"b_from_a": torch.eye(4, dtype=uv.dtype, device=uv.device).repeat(len(common), 1, 1)}
    for scale in (8.0, 2.0):
        loss = GemanMcClure(scale)
        parts = [
            _seen_from_a(pair, points_b, uv_a, intrinsics, loss),
            _seen_from_b(pair, points_a, uv_b, intrinsics, loss),
        ]
        state = dict(minimise(state, parts, state, Dense(), Stop(steps=6, tolerance=1e-3)).state)
    fed = torch.bincount(pair, minlength=len(common)) >= 6
    return _accumulate(_repeat_where_starved(se3.inverse(state["b_from_a"]), fed))


def _seen_from_a(pair: Tensor, points_b: Tensor, uv_a: Tensor, intrinsics: Tensor, loss: GemanMcClure) -> Term:
    samples = terms.PixelSamples(pair, torch.arange(len(pair), device=pair.device), uv_a, torch.ones_like(uv_a[:, 0]))
    whole = terms.reprojection(samples, intrinsics, loss)
    assert whole.jacobian is not None
    full, zero = whole.jacobian, points_b.new_zeros(1, 1)

    def jacobian(b_from_a: Tensor) -> tuple[Tensor, list[Tensor]]:
        residual, blocks = full(b_from_a, points_b, zero)
        return residual, [blocks[0]]

    uses = (("b_from_a", pair),)
    return Term("b seen from a", uses, lambda m: whole.residual(m, points_b, zero), jacobian, loss)


def _seen_from_b(pair: Tensor, points_a: Tensor, uv_b: Tensor, intrinsics: Tensor, loss: GemanMcClure) -> Term:
    focal, centre = intrinsics[:2], intrinsics[2:]

    def residual(b_from_a: Tensor) -> Tensor:
        x = se3.apply(b_from_a, points_a[:, None])[:, 0]
        return x[:, :2] / x[:, 2:].clamp_min(terms.NEAREST) * focal + centre - uv_b

    def jacobian(b_from_a: Tensor) -> tuple[Tensor, list[Tensor]]:
        x = se3.apply(b_from_a, points_a[:, None])[:, 0]
        inverse_z = 1 / x[:, 2:].clamp_min(terms.NEAREST)
        xy = x[:, :2] * inverse_z
        along = torch.zeros(len(x), 2, 3, dtype=x.dtype, device=x.device)
        along[:, 0, 0], along[:, 1, 1] = (focal * inverse_z).unbind(-1)
        along[:, :, 2] = -focal * inverse_z * xy
        along = along @ b_from_a[:, :3, :3]
        return xy * focal + centre - uv_b, [torch.cat([along, -along @ se3.hat(points_a)], -1)]

    return Term("a seen from b", (("b_from_a", pair),), residual, jacobian, loss)


def _repeat_where_starved(a_from_b: Tensor, fed: Tensor) -> Tensor:
    index = torch.where(fed, torch.arange(len(fed), device=fed.device), torch.zeros_like(fed, dtype=torch.long))
    return a_from_b[index.cummax(0).values]


def _accumulate(a_from_b: Tensor) -> Tensor:
    """Poses from consecutive motions, in double precision so that the chain does not drift by rounding."""
    cameras = [torch.eye(4, dtype=torch.float64, device=a_from_b.device)]
    for step in a_from_b.double():
        cameras.append(cameras[-1] @ step)
    out = torch.stack(cameras)
    out[:, :3, :3] = se3.nearest_rotation(out[:, :3, :3])
    return out.to(a_from_b.dtype)
