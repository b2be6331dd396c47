"""Focal length and radial distortion from tracks: one bundle adjustment, and how far its answer can be believed.

The distortion is that of OpenCV with k1 and k2; the principal point stays where it is. What is claimed for the lens
is the covariance that the scatter of the tracks themselves shows, tracks of one family counting as one observation:
the errors along a track, of tracks that are neighbours, and of tracks of one time go together.

Sources: Triggs et al., "Bundle adjustment: a modern synthesis", 2000, section 6, for the reduced system; Liang and
Zeger, "Longitudinal data analysis using generalized linear models", Biometrika 1986, for the covariance.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from worldline.solve import bundle, terms
from worldline.solve.methods import Layout, normal_equations
from worldline.solve.problem import State, Stop, Term, minimise
from worldline.solve.robust import Cauchy, Loss, Square
from worldline.solve.schur import Schur
from worldline.solve.terms import PixelSamples

LENS = 5
"""Numbers of a lens: log of the focal length over the one at the start, k1, k2, and the principal point's offset."""


@dataclass(frozen=True)
class LensPrior:
    """What is known of a lens before the tracks are looked at (standard deviations; 0 keeps a number).

    Attributes:
        focal: of the log focal length, about `log_focal`. distortion: of k1 and k2, about 0.
        centre: of the principal point, as a share of the focal length; it is never estimated, but its doubt is part
        of that of the others.
    """

    focal: float
    distortion: float
    centre: float
    log_focal: float = 0.0

    def free(self) -> Float[Tensor, "1 5"]:
        """Spread of what is estimated, nearly 0 for what is kept."""
        spread = [self.focal, self.distortion, self.distortion, 0, 0]
        return torch.tensor([spread], dtype=torch.float64).clamp_min(1e-6)


class LensFit(NamedTuple):
    """Cameras, points and lens that explain sightings best.

    `lens` is (log of the focal length over the one at the start, k1, k2), `covariance` (3, 3) its own; `square` the
    squared, whitened error of every sighting.
    """

    world_from_cam: Float[Tensor, "t 4 4"]
    points: Float[Tensor, "n 3"]
    lens: Float[Tensor, "3"]
    covariance: Float[Tensor, "3 3"]
    square: Float[Tensor, "m"]


def fit_lens(
    samples: PixelSamples,
    world_from_cam: Float[Tensor, "t 4 4"],
    points: Float[Tensor, "n 3"],
    intrinsics: Float[Tensor, "4"],
    prior: LensPrior,
    families: Int[Tensor, "f n"],
    *,
    loss: Loss | None = None,
    stop: Stop | None = None,
) -> LensFit:
    """Bundle adjustment with focal length, k1 and k2 among the unknowns.

    Args:
        samples: sightings in pixels of the real camera.
        families: of every point, by several rules; errors of one family go together, and what each rule says adds up.
    """
    seen = reprojection(samples, intrinsics, loss or Cauchy(3.0))
    state: State = {"world_from_cam": world_from_cam, "points": points, "lens": points.new_zeros(1, LENS)}
    mean = points.new_tensor([[prior.log_focal if prior.focal > 0 else 0.0, 0, 0, 0, 0]])
    first = torch.zeros(1, dtype=torch.long)
    held = [
        terms.motion_prior(world_from_cam, first, 1e-6, 1e-6),
        *bundle.held_size(world_from_cam),
        terms.prior("lens", mean, prior.free()),
    ]
    found = minimise(state, [seen, *held], set(state), Schur("points"), stop or Stop(20)).state
    doubt = _covariance(seen, held, found, prior, families)
    return LensFit(found["world_from_cam"], found["points"], found["lens"][0, :3], doubt, seen.squares(found))


def reprojection(samples: PixelSamples, intrinsics: Float[Tensor, "4"], loss: Loss) -> Term:
    """`terms.reprojection` through a lens (1, 5), see `LENS`; the principal point's offset is in focal lengths."""
    ideal = terms.reprojection(samples, intrinsics, Square())
    assert ideal.jacobian is not None
    linear, sigma, focal = ideal.jacobian, samples.sigma_px[:, None], intrinsics[:2]
    zero = samples.uv.new_zeros(1, 1)

    def through(straight: Tensor, lens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The whitened residual, and the normalised coordinates with their squared radius."""
        xy = (straight * sigma + samples.uv - intrinsics[2:]) / focal
        radius = xy.square().sum(-1, keepdim=True)
        scale, bend = lens[0, 0].exp(), 1 + radius * (lens[0, 1] + radius * lens[0, 2])
        uv = (xy * bend * scale + lens[:, 3:]) * focal + intrinsics[2:]
        return (uv - samples.uv) / sigma, xy, radius

    def residual(world_from_cam: Tensor, points: Tensor, lens: Tensor) -> Tensor:
        return through(ideal.residual(world_from_cam, points, zero), lens)[0]

    def jacobian(world_from_cam: Tensor, points: Tensor, lens: Tensor) -> tuple[Tensor, list[Tensor]]:
        straight, (by_camera, by_point, _) = linear(world_from_cam, points, zero)
        value, xy, radius = through(straight, lens)
        scale, bend = lens[0, 0].exp(), 1 + radius * (lens[0, 1] + radius * lens[0, 2])
        slope = 2 * (lens[0, 1] + 2 * radius * lens[0, 2])
        blocks = []
        for block in (by_camera, by_point):
            outward = (xy / focal)[:, :, None] * block
            turned = (xy * focal)[:, :, None] * outward.sum(1, keepdim=True)
            blocks.append(scale * (bend[..., None] * block + slope[..., None] * turned))
        offset = scale * xy * focal / sigma
        centre = torch.diag_embed((focal / sigma).expand_as(xy))
        columns = torch.stack([offset * bend, offset * radius, offset * radius.square()], -1)
        return value, [*blocks, torch.cat([columns, centre], -1)]

    uses = (("world_from_cam", samples.frame), ("points", samples.point), ("lens", None))
    return Term("reprojection through a lens", uses, residual, jacobian, loss)


def _covariance(
    seen: Term, held: list[Term], state: State, prior: LensPrior, families: Int[Tensor, "f n"]
) -> Float[Tensor, "3 3"]:
    """Covariance of the lens at a minimum, cameras and points free to follow it.

    Every sighting pulls the answer by a known amount; the pulls of a family of points add up to one draw of it. The
    prior, and a principal point that is off, pull it too.
    """
    layout = Layout.of(state, ["lens", "world_from_cam"])
    residual, blocks = seen.linearise(state)
    root = seen.loss.weight(residual.square().sum(-1)).sqrt()[:, None]
    residual, (by_camera, by_point, by_lens) = residual * root, (block * root[..., None] for block in blocks)
    frame, point = _rows(seen, 0), _rows(seen, 1)
    kept = torch.cat([by_lens, by_camera], -1)
    columns = torch.cat([_columns(layout, "lens", None, frame), _columns(layout, "world_from_cam", frame, frame)], -1)
    coupling, follow = _eliminated(by_point, kept, columns, point, families.shape[1], layout.total)
    reduced = normal_equations(state, held, layout)[0]
    reduced.view(-1).index_add_(0, _pairs(columns, layout.total), (kept.transpose(-1, -2) @ kept).flatten())
    reduced -= coupling.flatten(0, 1).T @ follow.flatten(0, 1)
    reduced.diagonal().mul_(1 + 1e-9).add_(1e-6)  # frames that see nothing
    answer = torch.linalg.solve(reduced, torch.eye(layout.total).to(reduced)[:, :3])
    moved = kept @ answer[columns] - by_point @ (follow @ answer)[point]
    pull = (moved * residual[..., None]).sum(1)
    draws = torch.cat([pull.new_zeros(int(f.max()) + 1, 3).index_add_(0, f[point], pull) for f in families])
    known = answer[:3].T @ (answer[:3] / prior.free()[0, :3, None] ** 2)
    answer[3:LENS] = 0
    off = prior.centre * answer.T @ reduced[:, 3:LENS]
    return draws.T @ draws + known + off @ off.T


def _rows(term: Term, argument: int) -> Tensor:
    rows = term.uses[argument][1]
    assert rows is not None
    return rows


def _columns(layout: Layout, name: str, rows: Tensor | None, like: Tensor) -> Tensor:
    return layout.columns(name, rows, like.device).expand(len(like), -1)


def _pairs(columns: Int[Tensor, "m d"], total: int) -> Tensor:
    """Places of the products of all columns of a row in a flat (total, total) matrix."""
    return (columns[:, :, None] * total + columns[:, None]).flatten()


def _eliminated(
    by_point: Tensor, kept: Tensor, columns: Tensor, point: Tensor, count: int, total: int
) -> tuple[Float[Tensor, "n 3 c"], Float[Tensor, "n 3 c"]]:
    """Coupling of every point with the kept unknowns, and how far the point moves against a unit of each."""
    own = by_point.new_zeros(count, 9).index_add_(0, point, (by_point.transpose(-1, -2) @ by_point).flatten(1))
    diagonal = own[:, ::4].amax(-1).clamp_min(1e-12)
    own = own.view(count, 3, 3) + 1e-9 * diagonal[:, None, None] * torch.eye(3).to(own)
    place = (point[:, None, None] * 3 + torch.arange(3)[:, None]) * total + columns[:, None]
    coupling = by_point.new_zeros(count * 3 * total)
    coupling.index_add_(0, place.flatten(), (by_point.transpose(-1, -2) @ kept).flatten())
    coupling = coupling.view(count, 3, total)
    return coupling, torch.linalg.solve(own, coupling)
