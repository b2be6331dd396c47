"""Moving objects placed as wholes: where they touch the ground, steady over time, with a sigma that says how surely.

The inverse depth of a plane is affine in the image, so the ground around the foot of an object is fitted in it. Pieces
of an object that are apart in the image and stand on their own feet are placed one by one; what has no foot (an arm
above a table) is where the nearest piece is. What rests on another object, or is hidden by it, is between that object
and the ground that is seen under it.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import cv2
import numpy as np
from jaxtyping import Bool, Float, Int
from scipy.ndimage import gaussian_filter1d, percentile_filter

GROUND_SIGMA = 0.12
"""Standard deviation of log depth up to which a static pixel speaks about the ground."""

AT_THE_BORDER = 0.02
"""Share of the image's height: a foot nearer to the lower border may be outside."""

HORIZON = (0.02, 3.0)
"""Heights of the image between a foot and the horizon of its ground; what is fitted otherwise is no ground."""


@dataclass(frozen=True)
class Standing:
    """How surely an object is placed, in log depth.

    Attributes:
        ground: on a ground fitted around its foot. ring: at the depth of what surrounds its foot.
        nowhere: where its foot is outside the image.
        thickness: of the object, as a share of its smaller side in the image, which is its size over its depth.
        lifted: share of what the contact jumps that counts: off the ground the place is interpolated in time.
        stride_frames: frames over which an object touches the ground at least once.
        walk: what an object moves in depth from frame to frame.
        piece: least area of a piece that is placed on its own, as a share of the largest one's.
        carried: greatest area of what another object carries, as a share of its carrier's.
        mistaken: probability that a pixel at the border of an object is on the other side of it, which falls off
            over `blur_px` around it.
    """

    ground: float = 0.05
    ring: float = 0.2
    nowhere: float = 0.35
    thickness: float = 0.3
    lifted: float = 0.5
    stride_frames: int = 13
    walk: float = 0.02
    piece: float = 0.2
    carried: float = 0.25
    mistaken: float = 0.5
    blur_px: float = 1.5


class Contact(NamedTuple):
    """Inverse depth where an object touches the ground, the sigma of its log, and whether a ground is seen there."""

    inverse: float
    sigma: float
    ground: bool = False


@dataclass(eq=False)
class Piece:
    """A connected piece of an object, followed through the frames.

    Attributes:
        frames: (F,). inside: (F, h, w). inverse, sigma: (F,) where it is, and the sigma of its log; None if unknown.
        held: (F,) number of the object that its foot is on, or that hides it, else 0.
    """

    number: int
    frames: list[int]
    inside: list[np.ndarray]
    contacts: list[Contact]
    held: list[int]
    inverse: Float[np.ndarray, "f"] | None = None
    sigma: Float[np.ndarray, "f"] | None = None


def stand(
    inverse: Float[np.ndarray, "t h w"],
    sigma: Float[np.ndarray, "t h w"],
    ids: Int[np.ndarray, "t h w"],
    focal_px: float,
    settings: Standing,
) -> None:
    """Put every moving object, as a whole, at the depth of the ground where it touches it, steady over time, in place.

    Off the ground (a jump, a bounce) that place is too far, never too near: the nearer places around it count.
    `focal_px` is in pixels of the maps.
    """
    objects = [_pieces(ids, number) for number in np.unique(ids[ids > 0]).tolist()]
    for pieces in objects:
        for piece in pieces:
            for t, inside in zip(piece.frames, piece.inside, strict=True):
                piece.contacts.append(touched(inverse[t], sigma[t], inside, ids[t] > 0, settings))
                piece.held.append(_holder(ids[t], inside))
    standing = [[piece for piece in pieces if _stands(piece, pieces, settings)] for pieces in objects]
    for piece in (piece for pieces in standing for piece in pieces):
        _place(piece, settings)
    others = [piece for pieces in standing for piece in pieces]
    for piece, between in [(p, _between(p, others, settings)) for p in others if any(p.held)]:
        piece.contacts = between
        _place(piece, settings)
    for pieces, placed in zip(objects, standing, strict=True):
        for piece in pieces:
            _write(piece, placed, inverse, sigma, focal_px, settings)
    for t in range(len(ids)):
        _doubt_borders(inverse[t], sigma[t], ids[t], settings)


def _pieces(ids: Int[np.ndarray, "t h w"], number: int) -> list[Piece]:
    """The connected pieces of an object, the one of the most pixels first, followed from frame to frame."""
    found: list[Piece] = []
    last: dict[int, np.ndarray] = {}
    for t in np.flatnonzero((ids == number).any((1, 2))).tolist():
        now = _followed(last, list(_regions(ids[t] == number)), len(found))
        for k, inside in now.items():
            if k == len(found):
                found.append(Piece(number, [], [], [], []))
            found[k].frames.append(t)
            found[k].inside.append(inside)
        last = now
    return sorted(found, key=lambda piece: -_pixels(piece))


def _followed(last: dict[int, np.ndarray], regions: list[np.ndarray], fresh: int) -> dict[int, np.ndarray]:
    """Regions by piece: that of the frame before which they overlap most, else one that nothing overlaps, else new."""
    left, now, rest = dict(last), dict[int, np.ndarray](), []
    for inside in sorted(regions, key=lambda r: -np.count_nonzero(r)):
        shared = {k: np.count_nonzero(inside & before) for k, before in left.items()}
        best = max(shared, key=lambda k: shared[k], default=None)
        if best is None or not shared[best]:
            rest.append(inside)
            continue
        del left[best]
        now[best] = inside
    for inside in rest:
        k = left.popitem()[0] if left else max([fresh - 1, *now]) + 1
        now[k] = inside
    return now


def _regions(mask: Bool[np.ndarray, "h w"]) -> Iterator[Bool[np.ndarray, "h w"]]:
    count, regions = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
    yield from (regions == k for k in range(1, count))


def _pixels(piece: Piece) -> int:
    return int(sum(np.count_nonzero(inside) for inside in piece.inside))


def _stands(piece: Piece, pieces: list[Piece], settings: Standing) -> bool:
    """Whether a piece has a place of its own: the largest, and those that are not small and stand on a ground."""
    if piece is pieces[0]:
        return True
    own, main = _pixels(piece) / len(piece.frames), _pixels(pieces[0]) / len(pieces[0].frames)
    on_ground = np.mean([c.ground for c in piece.contacts]) > 0.5
    return own > settings.piece * main and bool(on_ground) and not _above(piece, pieces[0])


def _above(piece: Piece, other: Piece) -> bool:
    """Whether most of a piece's columns are those of another that reaches lower."""
    common = sorted(set(piece.frames) & set(other.frames))
    if not common:
        return False
    over = []
    for t in common:
        a, b = piece.inside[piece.frames.index(t)], other.inside[other.frames.index(t)]
        columns = a.any(0)
        lower = np.flatnonzero(b.any(1))[-1] > np.flatnonzero(a.any(1))[-1]
        over.append(lower and np.count_nonzero(b.any(0) & columns) > 0.5 * np.count_nonzero(columns))
    return float(np.mean(over)) > 0.5


def _holder(ids: Int[np.ndarray, "h w"], inside: Bool[np.ndarray, "h w"]) -> int:
    """The other object that most of what is right under a piece belongs to, else 0."""
    columns = np.flatnonzero(inside.any(0))
    foot = len(inside) - 1 - inside[::-1, columns].argmax(0)
    low = foot >= foot.max() - max(2, 0.1 * np.ptp(np.flatnonzero(inside.any(1))))
    below = ids[np.minimum(foot[low] + 2, len(ids) - 1), columns[low]]
    other = np.bincount(below[(below > 0) & (below != ids[inside][0])], minlength=1)
    return int(other.argmax()) if other.max() > 0.5 * len(below) else 0


def _between(piece: Piece, others: list[Piece], settings: Standing) -> list[Contact]:
    """Contacts of a piece where others hold or hide it: between where those are and the ground that is seen.

    What is much smaller is held: it is where the holder is.
    """
    out = []
    for k, (t, contact, holder) in enumerate(zip(piece.frames, piece.contacts, piece.held, strict=True)):
        near = [o for o in others if o.number == holder and t in o.frames]
        q, s = max((_at(o, t) for o in near), default=(0.0, 0.0))
        if q <= contact.inverse:
            out.append(contact)
            continue
        size = sum(np.count_nonzero(o.inside[o.frames.index(t)]) for o in near)
        share = 1.0 if np.count_nonzero(piece.inside[k]) < settings.carried * size else 0.5
        apart = float(np.log(q / contact.inverse))
        found = float(contact.inverse * np.exp(share * apart))
        out.append(Contact(found, float(np.hypot(max(contact.sigma, s), apart / np.sqrt(12))), contact.ground))
    return out


def _place(piece: Piece, settings: Standing) -> None:
    """Where a piece is in all its frames: a random walk in log depth through its contacts.

    The errors of contacts are alike from frame to frame, so they do not average out.
    """
    contact = np.log([c.inverse for c in piece.contacts])
    grounded = percentile_filter(contact, 80, size=settings.stride_frames, mode="nearest")
    jumps = gaussian_filter1d(np.abs(grounded - contact), 2.0, mode="nearest")
    doubt = np.hypot([c.sigma for c in piece.contacts], settings.lifted * jumps)
    steps = np.diff(piece.frames)
    pull = np.zeros((len(contact), len(contact)))
    k = np.arange(len(steps))
    stiff = 1 / (settings.walk**2 * steps)
    pull[k, k + 1] = pull[k + 1, k] = -stiff
    pull -= np.diag(pull.sum(1))
    weight = 1 / doubt**2
    share = np.linalg.solve(pull + np.diag(weight), np.diag(weight))
    away = np.abs(np.subtract.outer(piece.frames, piece.frames))
    piece.inverse = np.exp(share @ grounded)
    piece.sigma = np.sqrt((share * (doubt**2 + settings.walk**2 * away)).sum(1))


def _at(piece: Piece, frame: int) -> tuple[float, float]:
    """Inverse depth and sigma of a placed piece in a frame, or in the nearest one in which it is seen."""
    assert piece.inverse is not None and piece.sigma is not None
    k = int(np.abs(np.array(piece.frames) - frame).argmin())
    return float(piece.inverse[k]), float(piece.sigma[k])


def _write(
    piece: Piece, placed: list[Piece], inverse: np.ndarray, sigma: np.ndarray, focal_px: float, settings: Standing
) -> None:
    """Depth and sigma of a piece's pixels: its own, or those of the nearest piece of the object that has a place."""
    for t, inside in zip(piece.frames, piece.inside, strict=True):
        source = piece if piece.inverse is not None else _nearest(placed, t, inside)
        q, s = _at(source, t)
        inverse[t][inside] = q
        sigma[t][inside] = np.hypot(s, settings.thickness * smaller_side(inside) / focal_px)


def _nearest(placed: list[Piece], frame: int, inside: Bool[np.ndarray, "h w"]) -> Piece:
    there = [piece for piece in placed if frame in piece.frames]
    if len(there) < 2:
        return (there or placed)[0]
    away = cv2.distanceTransform((~inside).astype(np.uint8), cv2.DIST_L2, 3)
    return min(there, key=lambda piece: float(away[piece.inside[piece.frames.index(frame)]].min()))


def _doubt_borders(inverse: np.ndarray, sigma: np.ndarray, ids: Int[np.ndarray, "h w"], settings: Standing) -> None:
    """Around an object a pixel may still be of it: its sigma has a share of the step in depth.

    Masks are handed over a little too large, so this is about the outermost pixels within, and more of those around.
    """
    small, large = np.ones((3, 3), dtype=np.uint8), np.ones((9, 9), dtype=np.uint8)
    numbers, log = ids.astype(np.uint8), np.log(inverse)
    within = (numbers > 0) & (cv2.erode(numbers, small) == numbers)
    if not numbers.any():
        return
    away = cv2.distanceTransform((numbers == 0).astype(np.uint8), cv2.DIST_L2, 3)
    chance = settings.mistaken * np.exp(-away / settings.blur_px) * (away <= 3 * settings.blur_px) * ~within
    step = cv2.dilate(log, large) - cv2.erode(log, large)
    sigma[:] = np.hypot(sigma, np.sqrt(chance * (1 - chance)) * step)


def smaller_side(inside: Bool[np.ndarray, "h w"]) -> float:
    """Mean width of a region in pixels, or its mean height if that is less."""
    rows, columns = inside.any(1).sum(), inside.any(0).sum()
    return float(inside.sum() / max(rows, columns, 1))


def touched(
    inverse: Float[np.ndarray, "h w"],
    sigma: Float[np.ndarray, "h w"],
    inside: Bool[np.ndarray, "h w"],
    moving: Bool[np.ndarray, "h w"],
    settings: Standing,
) -> Contact:
    """The ground under the lowest part of a region.

    It is fitted to the well known static pixels around the contact, robustly; without enough of them the static ring
    around the lowest part has to do.
    """
    height, width = inverse.shape
    rows = np.flatnonzero(inside.any(1))
    foot, lowest = rows[-1], rows[-1] - max(2, round(0.05 * (rows[-1] - rows[0])))
    middle = float(np.flatnonzero(inside[lowest:].any(0)).mean())
    outside = settings.nowhere if foot >= (1 - AT_THE_BORDER) * height - 1 else 0.0
    near = cv2.dilate(moving.astype(np.uint8), np.ones((7, 7), dtype=np.uint8)) > 0
    v, u = np.nonzero((sigma < GROUND_SIGMA) & ~near)
    dv, du = (v - foot) / height, (u - middle) / width
    use = (np.abs(dv) < 0.2) & (np.abs(du) < 0.3)
    if use.sum() >= 100:
        v, u, dv, du = v[use], u[use], dv[use], du[use]
        known = inverse[v, u].astype(np.float64)
        weight = np.exp(-((dv / 0.1) ** 2)) / (sigma[v, u] * known) ** 2
        ground, _, slope = _affine(np.stack([np.ones_like(du), du, dv], 1), known, weight)
        if 0.5 < ground / np.median(known) < 2.0:
            level = not outside and HORIZON[0] * slope < ground < HORIZON[1] * slope
            return Contact(float(ground), max(settings.ground, outside), bool(level))
    ring = (cv2.dilate(inside.astype(np.uint8), np.ones((7, 7), dtype=np.uint8)) > 0) & ~moving
    ring[:lowest] = False
    if ring.any():
        around = float(np.hypot(settings.ring, np.median(sigma[ring])))
        return Contact(float(np.median(inverse[ring])), max(around, outside))
    return Contact(float(np.median(inverse[inside])), settings.nowhere)


def _affine(
    places: Float[np.ndarray, "n 3"], values: Float[np.ndarray, "n"], weight: Float[np.ndarray, "n"], steps: int = 8
) -> Float[np.ndarray, "3"]:
    """Coefficients of an affine function, by least squares reweighted with a Cauchy loss at 4 % of the values."""
    now, scale = weight, 0.04 * np.median(values)
    for _ in range(steps):
        normal = (places * now[:, None]).T @ places
        found = np.linalg.solve(normal + 1e-9 * np.trace(normal) * np.eye(3), (places * now[:, None]).T @ values)
        now = weight / (1 + ((places @ found - values) / scale) ** 2)
    return found
