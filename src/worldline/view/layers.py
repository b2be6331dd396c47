"""What there is to see in a scene: a static cloud, moving points per frame, trails, cameras, and where to stand.

The page, the stills and the live view all draw these. Maps are read one frame at a time, so memory does not grow
with the clip. World axes are OpenCV's (y down unless `Layers.up_world` says otherwise).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8

from worldline.errors import InputError
from worldline.geometry import camera, pixels, se3
from worldline.scene.lazy import LazyArray
from worldline.scene.motion import WorldTracks
from worldline.scene.scene import Scene
from worldline.view.fusion import VoxelFusion, coarsen
from worldline.view.stance import Stance, floor_height, home, up_world

_FINER = 1.5
"""The first fusion has voxels this many times finer than the points are apart; the second evens them out."""


@dataclass(frozen=True)
class Detail:
    """How much of a scene is shown, and which pixels are left out.

    Attributes:
        static_points, moving_points: most points of the static cloud, and of all moving clouds together.
        trails: most tracks drawn. frames: most frames shown; longer clips show every k-th.
        fused_pixels: most pixels that enter the static fusion. carve_frames: frames that vote on floating points.
        sigma_over_median: pixels more uncertain than this many times the median are left out.
        sigma_always_kept: standard deviation of log depth below which a pixel is never too uncertain.
        bend: second difference of inverse depth, relative, above which a pixel lies on a depth edge.
        grazing: cosine of the angle between surface and ray below which a pixel lies on a depth edge.
        far: points further than this many median depths from every camera are left out.
    """

    static_points: int = 260_000
    moving_points: int = 170_000
    trails: int = 400
    frames: int = 240
    fused_pixels: int = 5_000_000
    carve_frames: int = 12
    sigma_over_median: float = 2.5
    sigma_always_kept: float = 0.08
    bend: float = 0.05
    grazing: float = 0.06
    far: float = 12.0


@dataclass(frozen=True, eq=False)
class Cloud:
    """Points with colours; `radius` (units of the scene) is how large a disc closes the gaps to the neighbours."""

    points_world: Float[np.ndarray, "n 3"]
    colour: UInt8[np.ndarray, "n 3"]
    radius: Float[np.ndarray, "n"]

    def __len__(self) -> int:
        return len(self.points_world)


@dataclass(frozen=True, eq=False)
class Trails:
    """Moving points followed over the shown frames; NaN where no position is claimed.

    Attributes:
        points_world: (F, N, 3). seen: (F, N), false where the point is hidden from the camera.
        speed: (F, N) units of the scene per second.
    """

    points_world: Float[np.ndarray, "f n 3"]
    seen: Bool[np.ndarray, "f n"]
    speed: Float[np.ndarray, "f n"]

    @property
    def fast(self) -> float:
        """The speed at the fast end of the colour scale: the 95th percentile."""
        known = self.speed[np.isfinite(self.speed)]
        return float(np.percentile(known, 95)) if known.size else 0.0


@dataclass(frozen=True, eq=False)
class Layers:
    """All that is drawn of one scene.

    Attributes:
        frames: (F,) indices of the scene's frames that are shown. `moving` has one cloud for each.
        stance: where to stand to see it all. bounds: (2, 3) corners of the box around what is shown.
        up_world: unit vector. floor: height along `up_world` of the ground under the scene.
        median_depth: of the static pixels, units of the scene.
    """

    scene: Scene
    frames: Int[np.ndarray, "f"]
    static: Cloud
    moving: tuple[Cloud, ...]
    trails: Trails | None
    stance: Stance
    bounds: Float[np.ndarray, "2 3"]
    up_world: Float[np.ndarray, "3"]
    floor: float
    median_depth: float
    detail: Detail = field(default_factory=Detail)

    @property
    def frustum_depth(self) -> float:
        """How deep a drawn camera is, units of the scene."""
        spread = np.linalg.norm(np.ptp(self.scene.centres_world, axis=0))
        return float(np.clip(0.12 * spread, 0.05 * self.median_depth, 0.09 * self.median_depth))

    def frustum_world(self, frame: int) -> Float[np.ndarray, "5 3"]:
        """Apex and the four image corners (clockwise from the top left) of the camera of one frame."""
        shape = self.scene.camera
        corners = np.array([[0, 0], [shape.width, 0], [shape.width, shape.height], [0, shape.height]], dtype=float)
        rays = camera.rays_z1(torch.from_numpy(corners), torch.from_numpy(shape.at(frame).copy()))
        cam = torch.cat([torch.zeros(1, 3, dtype=rays.dtype), rays * self.frustum_depth])
        return se3.apply(torch.from_numpy(self.scene.world_from_cam[frame]), cam).numpy()


def extract(scene: Scene, detail: Detail | None = None) -> Layers:
    """Everything to draw of a scene.

    Raises:
        InputError: the scene has no valid depth and no static points, so there is nothing to see.
    """
    detail = detail or Detail()
    shown = np.unique(np.linspace(0, len(scene) - 1, min(len(scene), detail.frames)).round().astype(int))
    limits = _Limits.of(scene, detail)
    static, moving, up = _clouds(scene, shown, limits, detail)
    trails = _trails(scene, shown, detail)
    everything = np.concatenate([static.points_world, *(cloud.points_world for cloud in moving)])
    seen = everything if len(everything) else np.asarray(scene.centres_world, dtype=np.float32)
    floor = floor_height(static.points_world if len(static) else seen, scene.centres_world, up)
    around = np.concatenate([seen, scene.centres_world.astype(np.float32), _near_points(trails, seen)])
    return Layers(
        scene=scene,
        frames=shown,
        static=static,
        moving=moving,
        trails=trails,
        stance=home(scene, seen, up, limits.median_depth),
        bounds=np.stack([around.min(0), around.max(0)]),
        up_world=up,
        floor=floor,
        median_depth=limits.median_depth,
        detail=detail,
    )


def _near_points(trails: Trails | None, seen: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "k 3"]:
    """Positions on trails, those far outside of what is seen left out."""
    if trails is None:
        return np.zeros((0, 3), np.float32)
    points, margin = trails.points_world.reshape(-1, 3), 0.25 * np.ptp(seen, axis=0)
    return points[((points > seen.min(0) - margin) & (points < seen.max(0) + margin)).all(-1)]


def frame_colour(scene: Scene, frame: int) -> UInt8[np.ndarray, "h w 3"]:
    """The picture of one frame; where the scene carries none, its depth in grey."""
    if scene.image is not None:
        return np.asarray(scene.image[frame])
    depth_z = np.asarray(scene.depth_z[frame], dtype=np.float32)
    near = 1 / np.maximum(depth_z, 1e-6) * (depth_z > 0)
    shade = 60 + 170 * near / max(float(np.percentile(near, 98)), 1e-12)
    return np.repeat(shade.clip(60, 230).astype(np.uint8)[..., None], 3, -1)


def speeds(points_world: Float[np.ndarray, "f n 3"], times_s: Float[np.ndarray, "f"]) -> Float[np.ndarray, "f n"]:
    """Speed of every track at every frame from its neighbours in time, scene units per second; NaN where unknown."""
    if len(times_s) < 2:
        return np.full(points_world.shape[:2], np.nan, dtype=np.float32)
    step = np.linalg.norm(np.diff(points_world, axis=0), axis=-1) / np.diff(times_s)[:, None]
    before, after = np.concatenate([step[:1], step]), np.concatenate([step, step[-1:]])
    mean = (before + after) / 2
    return np.where(np.isfinite(mean), mean, np.where(np.isfinite(before), before, after)).astype(np.float32)


@dataclass(frozen=True)
class _Limits:
    """Thresholds that depend on the whole scene."""

    sigma_static: float
    sigma_moving: float
    median_depth: float

    @classmethod
    def of(cls, scene: Scene, detail: Detail) -> _Limits:
        """From a coarse grid of pixels of at most 12 frames."""
        frames = np.unique(np.linspace(0, len(scene) - 1, min(len(scene), 12)).round().astype(int))
        step = max(1, scene.width // 160)
        at = (slice(None, None, step), slice(None, None, step))
        maps = [[np.asarray(a[t])[at].ravel() for a in _maps(scene)] for t in frames]
        depth_z, sigma, valid, moving = (np.concatenate(m) for m in zip(*maps, strict=True))
        valid = valid & (depth_z > 0)

        def limit(which: Bool[np.ndarray, "n"]) -> float:
            middle = float(np.nanmedian(sigma[which])) if which.any() else 0.0
            return max(detail.sigma_always_kept, detail.sigma_over_median * middle)

        still, moves = valid & (moving == 0), valid & (moving != 0)
        if not valid.any() and (scene.static_points is None or not len(scene.static_points)):
            raise InputError(f"scene {scene.name!r} has no valid depth, so there is nothing to see; reconstruct again.")
        if valid.any():
            middle = float(np.median(depth_z[still if still.any() else valid]))
        else:
            middle = float(np.median(np.linalg.norm(scene.static_points - scene.centres_world.mean(0), axis=-1)))
        return cls(limit(still), limit(moves), middle)


def _maps(scene: Scene) -> tuple[LazyArray, LazyArray, LazyArray, LazyArray]:
    return scene.depth_z, scene.depth_sigma, scene.valid, scene.moving


@dataclass(frozen=True, eq=False)
class _Frame:
    """The maps of one frame, read once, with what may be drawn of them."""

    index: int
    depth_z: Float[np.ndarray, "h w"]
    sigma: Float[np.ndarray, "h w"]
    moving: Bool[np.ndarray, "h w"]
    good: Bool[np.ndarray, "h w"]
    colour: UInt8[np.ndarray, "h w 3"]


def _read(scene: Scene, frame: int, limits: _Limits, detail: Detail) -> _Frame:
    depth_z, sigma, valid, ids = (np.asarray(a[frame]) for a in _maps(scene))
    moving = ids != 0
    depth_z = np.ascontiguousarray(depth_z, dtype=np.float32)
    usable = valid & (depth_z > 0) & np.isfinite(depth_z)
    sure = sigma <= np.where(moving, limits.sigma_moving, limits.sigma_static)
    smooth = ~on_depth_edge(depth_z, usable, scene.camera.at(frame), bend=detail.bend, grazing=detail.grazing)
    good = usable & sure & smooth & (depth_z < detail.far * limits.median_depth)
    return _Frame(frame, depth_z, sigma, moving, good & _away_from_rim(moving), frame_colour(scene, frame))


def on_depth_edge(
    depth_z: Float[np.ndarray, "h w"],
    valid: Bool[np.ndarray, "h w"],
    intrinsics: Float[np.ndarray, "4"],
    *,
    bend: float,
    grazing: float,
) -> Bool[np.ndarray, "h w"]:
    """Pixels that float between a near and a far surface.

    A plane is linear in inverse depth over the image, so a second difference betrays an edge whatever the slant; a
    blurred edge is a ramp, and a ramp is a surface seen at a grazing angle.
    """
    height, width = depth_z.shape
    near = np.where(valid, 1 / np.maximum(depth_z, 1e-9), 0).astype(np.float32)
    second = np.array([[1, 0, -2, 0, 1]], dtype=np.float32)
    bent = np.maximum(np.abs(cv2.filter2D(near, -1, second)), np.abs(cv2.filter2D(near, -1, second.T))) > bend * near
    fx, fy, cx, cy = (float(v) for v in intrinsics)
    slope_x = cv2.Sobel(near, -1, 1, 0, scale=fx / 8)
    slope_y = cv2.Sobel(near, -1, 0, 1, scale=fy / 8)
    uv = pixels.centres(height, width)
    x, y = ((uv[0, :, 0] - cx) / fx).numpy()[None], ((uv[:, 0, 1] - cy) / fy).numpy()[:, None]
    along = near - slope_x * x - slope_y * y
    normal2 = slope_x * slope_x + slope_y * slope_y + along * along
    slanted = near * near < grazing**2 * normal2 * (x * x + y * y + 1)
    bent[:2], bent[-2:], bent[:, :2], bent[:, -2:] = False, False, False, False
    hole = cv2.dilate((~valid).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
    return bent | slanted | hole


def _away_from_rim(moving: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Not within a pixel or two of where moving meets static: masks are soft there, and colours mixed."""
    if not moving.any():
        return np.ones_like(moving)
    mask, kernel = moving.astype(np.uint8), np.ones((3, 3), np.uint8)
    return cv2.dilate(mask, kernel, iterations=2) == cv2.erode(mask, kernel)


def _points(
    scene: Scene, frame: _Frame, row: Int[np.ndarray, "n"], column: Int[np.ndarray, "n"]
) -> Float[np.ndarray, "n 3"]:
    uv = pixels.from_integer_centres(np.stack([column, row], -1).astype(np.float32))
    intrinsics = torch.from_numpy(scene.camera.at(frame.index).astype(np.float32))
    depth_z = torch.from_numpy(frame.depth_z[row, column])
    points_cam = camera.unproject(torch.from_numpy(uv), depth_z, intrinsics, scene.camera.distortion)
    world_from_cam = torch.from_numpy(scene.world_from_cam[frame.index].astype(np.float32))
    return se3.apply(world_from_cam, points_cam).numpy()


def _clouds(
    scene: Scene, shown: Int[np.ndarray, "f"], limits: _Limits, detail: Detail
) -> tuple[Cloud, tuple[Cloud, ...], Float[np.ndarray, "3"]]:
    """One pass over the frames: the fused static cloud, the moving clouds, and which way is up."""
    stride = max(1, int(np.ceil(np.sqrt(len(shown) * scene.width * scene.height / detail.fused_pixels))))
    apart_px = max(1.0, 0.55 * stride) if len(shown) > 2 * stride else stride
    step = apart_px / scene.camera.focal
    fusion = VoxelFusion.around(scene.centres_world, step=step / _FINER, nearest=limits.median_depth / 16)
    moving, voters, normals = [], [], []
    votes = set(shown[np.linspace(0, len(shown) - 1, min(len(shown), detail.carve_frames)).round().astype(int)])
    for t in shown:
        frame = _read(scene, int(t), limits, detail)
        row, column = _grid(frame.good & ~frame.moving, stride, int(t))
        points = _points(scene, frame, row, column)
        weight = 1 / (np.maximum(frame.sigma[row, column], 0.005) * frame.depth_z[row, column]) ** 2
        fusion.add(points, frame.colour[row, column], weight)
        moving.append(_moving_cloud(scene, frame, detail.moving_points // len(shown)))
        if t in votes:
            voters.append(frame)
            normals.append(_normals(scene, frame))
    up = up_world(scene.world_from_cam, np.concatenate(normals))
    return _static_cloud(scene, fusion, voters, detail), tuple(moving), up


def _grid(mask: Bool[np.ndarray, "h w"], stride: int, phase: int) -> tuple[np.ndarray, np.ndarray]:
    """Every stride-th pixel of a mask, starting elsewhere in every frame."""
    first_row, first_column = (phase // stride) % stride, phase % stride
    row, column = np.nonzero(mask[first_row::stride, first_column::stride])
    return row * stride + first_row, column * stride + first_column


def _moving_cloud(scene: Scene, frame: _Frame, budget: int) -> Cloud:
    mask = frame.good & frame.moving
    stride = max(1, int(np.ceil(np.sqrt(mask.sum() / max(budget, 1)))))
    row, column = _grid(mask, stride, 0)
    radius = 0.75 * stride * frame.depth_z[row, column] / scene.camera.focal
    return Cloud(_points(scene, frame, row, column), frame.colour[row, column], radius.astype(np.float32))


def _normals(scene: Scene, frame: _Frame) -> Float[np.ndarray, "n 3"]:
    """World normals of a coarse grid of static patches, for finding the ground."""
    step = max(2, scene.width // 100)
    row, column = _grid(frame.good & ~frame.moving, step, 0)
    keep = (row + step < scene.height) & (column + step < scene.width)
    row, column = row[keep], column[keep]
    here, right, below = (_points(scene, frame, row + i * step, column + j * step) for i, j in ((0, 0), (0, 1), (1, 0)))
    normal = np.cross(right - here, below - here)
    near = frame.depth_z[row, column]
    flat = np.maximum(np.abs(right - here).max(-1), np.abs(below - here).max(-1)) < 0.2 * near
    flat &= frame.good[row + step, column] & frame.good[row, column + step]
    length = np.linalg.norm(normal, axis=-1, keepdims=True)
    return (normal / np.maximum(length, 1e-12))[flat & (length[:, 0] > 0)]


def _static_cloud(
    scene: Scene,
    fusion: VoxelFusion,
    voters: list[_Frame],
    detail: Detail,
) -> Cloud:
    points, colour, weight = fusion.result()
    if not len(points) and scene.static_points is not None:
        return _sparse_cloud(scene, detail)
    keep = ~_seen_through(scene, points, voters)
    fused = coarsen(points[keep], colour[keep], weight[keep], fusion, _FINER * fusion.step, detail.static_points)
    points, colour, _ = fused.result()
    return Cloud(points, colour, 0.85 * fused.voxel(points))


def _sparse_cloud(scene: Scene, detail: Detail) -> Cloud:
    points = np.asarray(scene.static_points, dtype=np.float32)
    pick = np.random.default_rng(0).permutation(len(points))[: detail.static_points]
    colour = np.full((len(points), 3), 180, np.uint8) if scene.static_colour is None else scene.static_colour
    radius = np.full(len(pick), 0.004 * np.linalg.norm(np.ptp(points, axis=0)), np.float32)
    return Cloud(points[pick], np.asarray(colour)[pick], radius)


def _seen_through(scene: Scene, points_world: Float[np.ndarray, "n 3"], voters: list[_Frame]) -> Bool[np.ndarray, "n"]:
    """Points that more frames look through (they see a surface behind) than agree with."""
    through = np.zeros(len(points_world), np.int16)
    points = torch.from_numpy(points_world)
    for frame in voters:
        height, width = frame.depth_z.shape
        cam_from_world = se3.inverse(torch.from_numpy(scene.world_from_cam[frame.index])).to(points.dtype)
        points_cam = se3.apply(cam_from_world, points)
        uv = camera.project(points_cam, torch.from_numpy(scene.camera.at(frame.index).astype(np.float32)))
        hit = ((points_cam[:, 2] > 0) & pixels.inside(uv, height, width)).nonzero()[:, 0]
        row, column = (i.numpy() for i in pixels.indices(uv[hit], height, width))
        index = hit.numpy()
        counts = frame.good[row, column] & ~frame.moving[row, column]
        row, column, index = row[counts], column[counts], index[counts]
        behind = np.log(frame.depth_z[row, column] / points_cam[:, 2].numpy()[index])
        slack = np.maximum(3 * frame.sigma[row, column], 0.05)
        through[index] += (behind > slack).astype(np.int16) - (np.abs(behind) <= slack)
    return through > 0


def _trails(scene: Scene, shown: Int[np.ndarray, "f"], detail: Detail) -> Trails | None:
    tracks: WorldTracks | None = scene.tracks
    if tracks is None:
        return None
    claimed = np.isfinite(tracks.points_world).all(-1).sum(0) >= 2
    chosen = np.flatnonzero(tracks.moving & claimed)
    if not len(chosen):
        return None
    chosen = np.sort(np.random.default_rng(0).permutation(chosen)[: detail.trails])
    points = np.asarray(tracks.points_world)[shown][:, chosen].astype(np.float32)
    return Trails(points, np.asarray(tracks.visible)[shown][:, chosen], speeds(points, scene.times_s[shown]))
