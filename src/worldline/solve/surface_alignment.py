"""Cameras held by surfaces: dense depth of one frame against the planes of another, as terms of the bundle.

Point to plane with projective association: a pixel of frame j, placed by its depth, is compared with the plane that
the depth of frame i has where the pixel falls. A pair of frames becomes one residual of nine numbers (the motion
between them, their log depth scales, the log focal length), linearised anew as the cameras move.

Its weight is measured, not claimed. Errors of a sensor go together over regions of the image, so what the pixels of a
region say is taken as one observation: the spread of the regions' pulls, not the number of pixels, is the uncertainty.

Sources: Chen and Medioni, "Object modelling by registration of multiple range images", 1992, for point to plane;
Newcombe et al., "KinectFusion", ISMAR 2011, section 3.5, for projective association; Liang and Zeger, "Longitudinal
data analysis using generalized linear models", Biometrika 1986, for the uncertainty of clustered observations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from worldline.geometry import se3
from worldline.geometry.camera import Camera, real_uv
from worldline.scene.observations import DepthMaps, MovingMasks
from worldline.solve.problem import Term
from worldline.solve.robust import GemanMcClure

MARGIN = 0.012
"""Width around a moving thing, as a share of the image's, in which depth may still be that of the thing."""


@dataclass(frozen=True)
class SurfaceSettings:
    """How surfaces are made from depth, and how they are compared.

    Attributes:
        columns: cells of the grid across the image; reach: a plane is fitted to the cells so many to either side.
        filled: least share of them with depth. bend: largest relative distance of a cell from its plane.
        doubtful: pixels whose depth is less certain (log) are left out.
        stride: every so many cells of a frame are compared with the other frame.
        facing: least cosine between a surface and the view of it. alike: between the normals of both frames.
        knee: of the bounded loss, in robust standard deviations of all residuals.
        overlap: least share of the cells compared that must meet a surface of the other frame.
        regions: across the image; errors of depth are taken to go together within one.
        dense: least share of the cells with a surface for a frame to count; most: least share of such frames.
        least: of the claimed uncertainty, what is left at least between two frames: part of what a sensor has wrong is
        wrong alike in both, and cancels.
        lens: relative standard deviation of the focal length of depth, which is not that of the colour image: how
        far it is off says nothing about the latter.
        gaps: frames are compared with those 1, 2, 4, ... frames away, up to this.
    """

    columns: int = 128
    reach: int = 4
    filled: float = 0.6
    bend: float = 0.02
    doubtful: float = 0.04
    stride: int = 3
    facing: float = 0.2
    alike: float = 0.8
    knee: float = 3.0
    overlap: float = 0.25
    regions: int = 8
    dense: float = 0.2
    most: float = 0.6
    least: float = 0.5
    lens: float = 0.03
    gaps: int = 64


class Surfaces(NamedTuple):
    """Local planes of inverse depth, linear in the pixel, on a grid over an ideal pinhole's image.

    Attributes:
        inverse_z: (T, h, w) at the centres of the cells; slope: (T, h, w, 2) change per pixel to the right and down.
        sigma: (T, h, w) standard deviation of log depth. known: (T, h, w) cells with a plane.
        cell_px: (2,) width and height of a cell in pixels.
    """

    inverse_z: Float[Tensor, "t h w"]
    slope: Float[Tensor, "t h w 2"]
    sigma: Float[Tensor, "t h w"]
    known: Bool[Tensor, "t h w"]
    cell_px: Float[Tensor, "2"]

    def dense(self, s: SurfaceSettings) -> Bool[Tensor, "t"]:
        """Frames with surfaces in enough of the image."""
        return self.known.float().mean((1, 2)) >= s.dense

    def scaled(self, log_scale: float) -> Surfaces:
        """The same surfaces in other units."""
        factor = float(np.exp(-log_scale))
        return self._replace(inverse_z=self.inverse_z * factor, slope=self.slope * factor)

    def hold(self, s: SurfaceSettings) -> bool:
        """Whether enough frames are dense for surfaces to hold the cameras."""
        return bool(self.dense(s).float().mean() >= s.most)


def may_hold(depth: DepthMaps, s: SurfaceSettings) -> bool:
    """Whether enough pixels are sure enough for surfaces; a look at some of them, before planes are fitted."""
    z, sigma = (np.asarray(m)[:, ::8, ::8] for m in (depth.depth_z, depth.sigma))
    sure = np.isfinite(z) & (z > 0) & (sigma < s.doubtful)
    return bool((sure.mean((1, 2)) >= s.dense / 2).mean() >= s.most)


def surfaces_of(
    depth: DepthMaps,
    width: int,
    height: int,
    *,
    camera: Camera | None = None,
    reference: Float[np.ndarray, "4"] | None = None,
    moving: MovingMasks | None = None,
    settings: SurfaceSettings | None = None,
) -> Surfaces:
    """Planes from depth maps; pixels that move, that are doubtful, or at edges have none.

    Args:
        width, height: of the image that the maps cover.
        camera, reference: the lens that the maps were seen through, and the pinhole on whose grid the planes are.
    """
    s = settings or SurfaceSettings()
    rows = round(s.columns * height / width)
    cell_px = np.array([width / s.columns, height / rows])
    lookup = _lookup(depth.depth_z.shape[1:], (width, height), camera, reference)
    planes = []
    for t in range(len(depth.depth_z)):
        z, sigma = np.asarray(depth.depth_z[t], np.float32), np.asarray(depth.sigma[t], np.float32)
        good = np.isfinite(z) & (z > 0) & np.isfinite(sigma) & (sigma < s.doubtful) & ~_moves(moving, t, z.shape)
        maps = np.where(good, 1 / np.where(good, z, 1), 0), np.where(good, sigma, 0), good.astype(np.float32)
        seen = [m if lookup is None else cv2.remap(m, *lookup, cv2.INTER_NEAREST) for m in maps]
        inverse_z, doubt, share = (_cells(m, (s.columns, rows)) for m in seen)
        planes.append(_planes(inverse_z, doubt, share, cell_px, s))
    inverse_z, slope, doubt, known = (torch.stack(part) for part in zip(*planes, strict=True))
    return Surfaces(inverse_z, slope, doubt, known, torch.from_numpy(cell_px))


def _lookup(
    shape: tuple[int, ...], size: tuple[int, int], camera: Camera | None, reference: Float[np.ndarray, "4"] | None
) -> tuple[np.ndarray, np.ndarray] | None:
    """For every pixel of a map as the pinhole sees it, column and row in the map as the lens sees it."""
    if camera is None or reference is None or (not any(camera.distortion) and (camera.intrinsics == reference).all()):
        return None
    rows, columns = shape
    lens = Camera(np.median(camera.intrinsics, 0), *size, camera.distortion) if camera.per_frame else camera
    scale = np.array([size[0] / columns, size[1] / rows])
    grid = np.stack(np.meshgrid(np.arange(columns) + 0.5, np.arange(rows) + 0.5), -1)
    place = real_uv(grid * scale, lens, reference) / scale - 0.5
    return place[..., 0].astype(np.float32), place[..., 1].astype(np.float32)


def _moves(moving: MovingMasks | None, t: int, shape: tuple[int, ...]) -> np.ndarray:
    """Pixels of a map that lie on something that moves, or beside it."""
    if moving is None or (moving.known is not None and not moving.known[t]):
        return np.zeros(shape, dtype=bool)
    ids = (np.asarray(moving.ids[t]) > 0).astype(np.uint8)
    mask = cv2.resize(ids, (shape[1], shape[0]), interpolation=cv2.INTER_NEAREST)
    radius = max(1, round(MARGIN * shape[1]))
    return cv2.dilate(mask, np.ones((2 * radius + 1, 2 * radius + 1), np.uint8)) > 0


def _cells(values: np.ndarray, size: tuple[int, int]) -> Float[Tensor, "h w"]:
    """Means over the cells."""
    how = cv2.INTER_AREA if values.shape[1] >= size[0] else cv2.INTER_NEAREST
    return torch.from_numpy(cv2.resize(values.astype(np.float32), size, interpolation=how))


def _planes(
    inverse_z: Tensor, sigma: Tensor, share: Tensor, cell_px: np.ndarray, s: SurfaceSettings
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Least squares plane of inverse depth around every cell, weighted by the share of a cell with depth."""
    offset = torch.arange(-s.reach, s.reach + 1, dtype=torch.float64)
    v, u = torch.meshgrid(offset * cell_px[1], offset * cell_px[0], indexing="ij")
    least = share.clamp_min(1e-6)
    value, doubt = inverse_z.double() / least, sigma / least
    design = torch.stack([torch.ones_like(u), u, v])
    kernels = torch.cat([(design[:, None] * design).flatten(0, 1), design])[:, None]
    stacked = torch.stack([share.double(), share * value])[:, None]
    weights, values = torch.nn.functional.conv2d(stacked, kernels, padding=s.reach).flatten(2)
    normal, right = weights[:9].T.unflatten(1, (3, 3)), values[9:].T
    ridge = 1e-6 * torch.diag(torch.tensor([1e-6, float(cell_px[0]) ** 2, float(cell_px[1]) ** 2], dtype=torch.float64))
    found = torch.linalg.solve(normal + ridge, right[..., None])[..., 0]
    centre, slope = found[:, 0].view(value.shape), found[:, 1:].view(*value.shape, 2)
    off = (value - centre).abs() / centre.abs().clamp_min(1e-9)
    filled = weights[0].view(value.shape) / u.numel()
    known = (filled >= s.filled) & (share > 0.5) & (centre > 0) & (off < s.bend)
    return tuple(x.float() for x in (centre, slope, doubt.clamp_min(1e-3))) + (known,)  # type: ignore[return-value]


class SurfacePairs(NamedTuple):
    """What surfaces say about pairs of frames: `root @ unknowns + offset`, in standard deviations.

    The unknowns are the motion (translation and rotation in j) and the log depth scales of i and j.

    Attributes:
        i, j: (P,) frames. i_from_j: (P, 4, 4) motion at which it was linearised; log_scale: (T,) depth scales there.
        root: (P, 8, 8), offset: (P, 8).
        scatter: robust standard deviation of the residuals in claimed ones. inflation: by how
        much more uncertain the pairs are than independent pixels of the claimed sigma would make them.
    """

    i: Int[Tensor, "p"]
    j: Int[Tensor, "p"]
    i_from_j: Float[Tensor, "p 4 4"]
    log_scale: Float[Tensor, "t"]
    root: Float[Tensor, "p 8 8"]
    offset: Float[Tensor, "p 8"]
    scatter: float
    inflation: float

    def term(self, share: float, like: Tensor, rows: Int[Tensor, "k"] | None = None) -> Term:
        """The pairs as a term of the bundle.

        Args:
            share: as in `pose_prior`. like: device and precision. rows: frames that the bundle has, if not all.
        """
        place = torch.full((len(self.log_scale),), -1, dtype=torch.long)
        kept = torch.arange(len(place)) if rows is None else rows.cpu()
        place[kept] = torch.arange(len(kept))
        use = (place[self.i] >= 0) & (place[self.j] >= 0)
        i, j = place[self.i][use].to(like.device), place[self.j][use].to(like.device)
        j_from_i = se3.inverse(self.i_from_j[use]).to(like)
        root, offset = (self.root[use] / share).to(like), (self.offset[use] / share).to(like)
        before = torch.stack([self.log_scale[self.i][use], self.log_scale[self.j][use]], -1).to(like)

        def parts(a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor) -> tuple[Tensor, Tensor]:
            moved = j_from_i @ se3.inverse(a) @ b
            scales = torch.cat([scale_a, scale_b], -1) - before
            unknowns = torch.cat([moved[:, :3, 3], _sine(moved[:, :3, :3]), scales], -1)
            return moved, (root @ unknowns[..., None])[..., 0] + offset

        def jacobian(a: Tensor, b: Tensor, scale_a: Tensor, scale_b: Tensor) -> tuple[Tensor, list[Tensor]]:
            moved, value = parts(a, b, scale_a, scale_b)
            by_a, by_b = _by_motions(j_from_i, a, b, moved)
            return value, [root[..., :6] @ by_a, root[..., :6] @ by_b, root[..., 6:7], root[..., 7:]]

        frames = ("world_from_cam", "log_depth_scale")
        uses = tuple((name, at) for name in frames for at in (i, j))
        return Term("surfaces", uses, lambda *rows: parts(*rows)[1], jacobian)


def _by_motions(j_from_i: Tensor, a: Tensor, b: Tensor, moved: Tensor) -> tuple[Tensor, Tensor]:
    """Jacobians (P, 6, 6) of the translation and the sine of `j_from_i @ inverse(a) @ b` by the motions a and b."""
    rotation, turn = moved[:, :3, :3], j_from_i[:, :3, :3]
    trace = rotation.diagonal(dim1=-2, dim2=-1).sum(-1)[:, None, None]
    sine = (trace * torch.eye(3).to(a) - rotation.transpose(-1, -2)) / 2
    seen = (se3.inverse(a) @ b)[:, :3, 3]
    by_a, by_b = a.new_zeros(len(a), 6, 6), a.new_zeros(len(a), 6, 6)
    by_a[:, :3, :3], by_a[:, :3, 3:] = -turn, turn @ se3.hat(seen)
    by_a[:, 3:, 3:] = -sine @ rotation.transpose(-1, -2) @ turn
    by_b[:, :3, :3], by_b[:, 3:, 3:] = rotation, sine
    return by_a, by_b


def _sine(rotation: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 3"]:
    """The axis of a rotation times the sine of its angle."""
    r = rotation - rotation.transpose(-1, -2)
    return torch.stack([r[..., 2, 1], r[..., 0, 2], r[..., 1, 0]], -1) / 2


def surface_pairs(
    surfaces: Surfaces,
    world_from_cam: Float[Tensor, "t 4 4"],
    solved: Bool[Tensor, "t"],
    intrinsics: Float[Tensor, "4"],
    *,
    log_scale: Float[Tensor, "t"] | None = None,
    settings: SurfaceSettings | None = None,
) -> SurfacePairs | None:
    """Surfaces of frames near each other compared under these cameras; None where no two frames overlap.

    Args:
        intrinsics: of the pinhole on whose grid the surfaces are. log_scale: by which depth is multiplied (log).
    """
    s = settings or SurfaceSettings()
    cameras, lens = world_from_cam.detach().double().cpu(), intrinsics.detach().double().cpu()
    scale = torch.zeros(len(cameras), dtype=torch.float64) if log_scale is None else log_scale.double().cpu()
    i, j = candidates(solved.cpu() & surfaces.dense(s), s)
    if len(i) == 0:
        return None
    i_from_j = se3.inverse(cameras[i]) @ cameras[j]
    parts = [_compared(surfaces, i[p], j[p], i_from_j[p], scale, lens, s) for p in torch.arange(len(i)).split(32)]
    met, square = torch.cat([p.met for p in parts]), torch.cat([p.square for p in parts])
    enough = met >= s.overlap
    if not bool(enough.any()):
        return None
    scatter = 1.4826 * float(torch.cat([p.flatten() for p in square[enough]]).nanmedian().sqrt())
    each = [_summed(p, s.knee * scatter) for p in parts]
    sums = _Sums(*(torch.cat(part)[enough] for part in zip(*each, strict=True)))
    inflation = max(s.least, _inflation(sums))
    often = max(1.0, len(sums.slope) / max(int(solved.sum()) - 1, 1))
    hessian, slope = _without_lens(sums, s.lens / inflation)
    root, offset = _rooted(hessian / (inflation**2 * often), slope / (inflation**2 * often))
    return SurfacePairs(i[enough], j[enough], i_from_j[enough], scale, root, offset, scatter, inflation)


def candidates(usable: Bool[Tensor, "t"], s: SurfaceSettings) -> tuple[Int[Tensor, "p"], Int[Tensor, "p"]]:
    """Pairs of usable frames 1, 2, 4, ... frames apart; wide ones begin less often."""
    count, pairs, gap = len(usable), [], 1
    while gap < count and gap <= s.gaps:
        first = torch.arange(0, count - gap, max(1, gap // 2))
        pairs.append(torch.stack([first, first + gap]))
        gap *= 2
    i, j = torch.cat(pairs, 1) if pairs else torch.zeros(2, 0, dtype=torch.long)
    keep = usable[i] & usable[j]
    return i[keep], j[keep]


class _Compared(NamedTuple):
    """Residuals (P, K) in claimed standard deviations with Jacobians, 0 where nothing is met; regions of the image."""

    residual: Float[Tensor, "p k"]
    jacobian: Float[Tensor, "p k 9"]
    region: Int[Tensor, "k"]
    square: Float[Tensor, "p k"]
    met: Float[Tensor, "p"]
    regions: int


def _compared(
    surfaces: Surfaces, i: Tensor, j: Tensor, i_from_j: Tensor, log_scale: Tensor, lens: Tensor, s: SurfaceSettings
) -> _Compared:
    """Points of frames j against the planes of frames i."""
    rows, columns = surfaces.known.shape[1:]
    v, u = (x.flatten() for x in torch.meshgrid(
        torch.arange(s.stride // 2, rows, s.stride), torch.arange(s.stride // 2, columns, s.stride), indexing="ij"
    ))  # fmt: skip
    mine = _plane_at(surfaces, j[:, None], v, u, lens, log_scale)
    points = mine.ray * (1 / mine.inverse_z)[..., None]
    turned = points @ i_from_j[:, :3, :3].transpose(-1, -2)
    x = turned + i_from_j[:, None, :3, 3]
    uv = x[..., :2] / x[..., 2:].clamp_min(1e-6) * lens[:2] + lens[2:]
    cell = (uv / surfaces.cell_px).floor().long()
    inside = (x[..., 2] > 0) & (cell >= 0).all(-1) & (cell[..., 0] < columns) & (cell[..., 1] < rows)
    other = _plane_at(
        surfaces, i[:, None], cell[..., 1].clamp(0, rows - 1), cell[..., 0].clamp(0, columns - 1), lens, log_scale
    )
    inside &= mine.known & other.known
    normal = torch.nn.functional.normalize(mine.plane @ i_from_j[:, :3, :3].transpose(-1, -2), dim=-1)
    alike = (normal * torch.nn.functional.normalize(other.plane, dim=-1)).sum(-1)
    facing = (other.plane * x).sum(-1) / (other.plane.norm(dim=-1) * x.norm(dim=-1)).clamp_min(1e-12)
    use = inside & (alike > s.alike) & (facing > s.facing)
    sigma = torch.hypot(mine.sigma, other.sigma)
    residual = torch.where(use, ((other.plane * x).sum(-1) - 1) / sigma, 0.0)
    jacobian = _jacobian(points, turned, x, other, i_from_j) * (use / sigma)[..., None]
    square = torch.where(use, residual.square(), torch.nan)
    shown = (mine.known).sum(-1).clamp_min(1)
    down = max(1, round(s.regions * rows / columns))
    region = torch.div(v * down, rows, rounding_mode="floor") * s.regions + u * s.regions // columns
    return _Compared(residual, jacobian, region, square, use.sum(-1) / shown, down * s.regions)


class _Planes(NamedTuple):
    """Planes `plane . x = 1` at cells (P, K): with the ray (x/z, y/z, 1) of the cell."""

    plane: Float[Tensor, "p k 3"]
    inverse_z: Float[Tensor, "p k"]
    ray: Float[Tensor, "p k 3"]
    sigma: Float[Tensor, "p k"]
    known: Bool[Tensor, "p k"]


def _plane_at(
    surfaces: Surfaces, frame: Tensor, row: Tensor, column: Tensor, lens: Tensor, log_scale: Tensor
) -> _Planes:
    at = (frame, row, column)
    nearer = (-log_scale[frame]).exp()
    inverse_z = surfaces.inverse_z[at].double() * nearer
    along = surfaces.slope[at].double() * nearer[..., None] * lens[:2]
    uv = (torch.stack([column, row], -1) + 0.5) * surfaces.cell_px
    xy = ((uv - lens[2:]) / lens[:2]).expand(along.shape)
    plane = torch.cat([along, (inverse_z - (along * xy).sum(-1))[..., None]], -1)
    ray = torch.cat([xy, torch.ones_like(xy[..., :1])], -1)
    known = surfaces.known[at]
    return _Planes(plane, torch.where(known, inverse_z, 1.0), ray, surfaces.sigma[at].double(), known)


def _jacobian(points: Tensor, turned: Tensor, x: Tensor, other: _Planes, i_from_j: Tensor) -> Float[Tensor, "p k 9"]:
    """Of plane . x - 1 by motion (in j), the log scales of i and j, and the log focal length."""
    own = other.plane @ i_from_j[:, :3, :3]
    turn = torch.linalg.cross(points, own)
    flat = torch.tensor([1.0, 1.0, 0.0], dtype=x.dtype)
    focal = (other.plane * flat * x).sum(-1) - (own * flat * points).sum(-1)
    scales = torch.stack([-(other.plane * x).sum(-1), (other.plane * turned).sum(-1), focal], -1)
    return torch.cat([own, turn, scales], -1)


class _Sums(NamedTuple):
    """Gauss-Newton sums of every pair, and of every region: its pull, and how that changes with the unknowns."""

    hessian: Float[Tensor, "p 9 9"]
    slope: Float[Tensor, "p 9"]
    pulls: Float[Tensor, "p r 9"]
    bends: Float[Tensor, "p r 9 9"]


def _summed(c: _Compared, knee: float) -> _Sums:
    """Weighted by the bounded loss, which turns at `knee` claimed standard deviations."""
    weight = GemanMcClure(max(knee, 1e-6)).weight(c.residual.square())
    order = c.region.argsort(stable=True)
    sizes = torch.bincount(c.region, minlength=c.regions).tolist()
    joint = torch.cat([c.jacobian, c.residual[..., None]], -1)[:, order]
    weighted = (c.jacobian * weight[..., None])[:, order].transpose(1, 2)
    parts = zip(weighted.split(sizes, 2), joint.split(sizes, 1), strict=True)
    sums = torch.stack([mine @ every for mine, every in parts], 1)
    total = sums.sum(1)
    return _Sums(total[..., :9], total[..., 9], sums[..., 9], sums[..., :9])


def _inflation(sums: _Sums) -> float:
    """By how much the motions of pairs are more uncertain than for independent residuals of the claimed sigma."""
    inverse = torch.linalg.pinv(sums.hessian[:, :6, :6], hermitian=True, rtol=1e-6)
    step = -inverse @ sums.slope[:, :6, None]
    left = sums.pulls[..., :6] + (sums.bends[..., :6, :6] @ step[:, None])[..., 0]
    used = (sums.bends.diagonal(dim1=-2, dim2=-1).sum(-1) > 0).sum(1).clamp_min(7)
    spread = left.transpose(-1, -2) @ left
    variance = (inverse * spread).sum((-1, -2)) / 6 * used / (used - 6)
    return float(variance.median().sqrt())


def _without_lens(sums: _Sums, sigma: float) -> tuple[Float[Tensor, "p 8 8"], Float[Tensor, "p 8"]]:
    """The sums with the focal length, which is known to `sigma`, eliminated."""
    h, g = sums.hessian, sums.slope
    gain = h[:, :8, 8] / (h[:, 8, 8] + sigma**-2)[:, None]
    return h[:, :8, :8] - gain[:, :, None] * h[:, 8, None, :8], g[:, :8] - gain * g[:, 8:]


def _rooted(hessian: Float[Tensor, "p d d"], slope: Float[Tensor, "p d"]) -> tuple[Tensor, Tensor]:
    """`root`, `offset` whose squared norm is the quadratic with this Hessian and slope, up to a constant."""
    values, vectors = torch.linalg.eigh(hessian)
    values = values.clamp_min(1e-9 * values[:, -1:].clamp_min(1e-30))
    root = values.sqrt()[..., None] * vectors.transpose(-1, -2)
    offset = (vectors.transpose(-1, -2) @ slope[..., None])[..., 0] / values.sqrt()
    return root, offset
