"""The uni4d engine: evidence, cameras, bundle, structure, motion, fusion, each a resumable stage.

Source: Uni4D (arXiv 2503.21761); what differs from the release is said in each stage's file.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldline.engines.uni4d import cameras, evidence, fusion, health, structure
from worldline.engines.uni4d.evidence import Evidence, Labelling
from worldline.engines.uni4d.fusion import ControlPoints, Fusing
from worldline.engines.uni4d.structure import Bundling, Cameras, Tracks
from worldline.errors import InputError
from worldline.geometry import camera as pinhole
from worldline.geometry import se3
from worldline.geometry.camera import Camera
from worldline.scene.journal import Arrays, Journal, pack, unpack
from worldline.scene.motion import WorldTracks
from worldline.scene.observations import DepthMaps, Observations, PixelTracks
from worldline.scene.scene import Scene, Step
from worldline.scene.video import Video
from worldline.solve import nonrigid
from worldline.solve.nonrigid import MovingSamples, Weights

LEAST_SIGMA = 0.005
"""Relative depth error below which no fused pixel is claimed to be."""


@dataclass(frozen=True)
class Config:
    """Settings of every stage; the defaults are tuned on synthetic worlds with truth.

    Attributes:
        dtype: float64 or float32 of the solver; device: where it runs.
        moving_tracks: most moving tracks that are solved (longest first).
    """

    labelling: Labelling = field(default_factory=Labelling)
    bundling: Bundling = field(default_factory=Bundling)
    motion: Weights = field(default_factory=Weights)
    fusing: Fusing = field(default_factory=Fusing)
    moving_tracks: int = 20_000
    dtype: str = "float32"
    device: str = "cpu"

    @classmethod
    def tiny(cls) -> Config:
        """Small settings for tests."""
        return cls(bundling=Bundling(tracks=300, coarse_tracks=100, held_out=30), motion=Weights(outer=2, inner=4))


def build(config: Config | None = None) -> Uni4D:
    """The engine with these settings."""
    return Uni4D(config or Config())


@dataclass(frozen=True)
class Uni4D:
    """Callable engine; see `engines.Engine`."""

    config: Config
    needs: tuple[str, ...] = ("camera", "tracks", "moving", "depth")

    def __call__(self, video: Video, observed: Observations, journal: Journal) -> Scene:
        """Reconstruct.

        Raises:
            MissingObservation: camera, tracks, moving masks or depth are not there. InputError: fewer than two frames.
        """
        observed.require(self.needs)
        if len(video) < 2:
            raise InputError("a reconstruction needs at least two frames; this video has one.")
        work = _Work.of(self.config, video, observed)
        found = journal.run("cameras", work.cameras, settings=self.config)
        bundled = journal.run("bundle", lambda: work.bundle(found), settings=self.config)
        points = journal.run("structure", lambda: work.structure(bundled), settings=self.config)
        ratios = journal.run("ratios", lambda: work.ratios(bundled, points), settings=self.config)
        moved = journal.run("motion", lambda: work.motion(bundled, ratios), settings=self.config)
        fused = journal.run("fusion", lambda: fuse(work, bundled, ratios, moved), settings=self.config)
        return work.scene(found, bundled, points, ratios, moved, fused)


@dataclass(frozen=True, eq=False)
class _Work:
    """The inputs of all stages, prepared once: numpy on the host, tensors where the solver runs."""

    config: Config
    video: Video
    observed: Observations
    evidence: Evidence
    tracks: PixelTracks
    depth: DepthMaps
    intrinsics: np.ndarray
    focal_sigma: float

    @classmethod
    def of(cls, config: Config, video: Video, observed: Observations) -> _Work:
        assert observed.tracks and observed.moving and observed.depth and observed.camera
        prior = observed.camera
        tracks = _ideal(observed.tracks, prior.camera)
        labels = evidence.collect(tracks, observed.moving, video.width, video.height, config.labelling)
        intrinsics = np.asarray(prior.camera.intrinsics, dtype=np.float64)
        intrinsics = intrinsics.mean(0) if prior.camera.per_frame else intrinsics
        return cls(config, video, observed, labels, tracks, observed.depth, intrinsics, prior.focal_sigma)

    def tensor(self, array: np.ndarray) -> Tensor:
        """On the solver's device, floats in its precision."""
        out = torch.from_numpy(np.ascontiguousarray(array)).to(self.config.device)
        return out.to(getattr(torch, self.config.dtype)) if out.is_floating_point() else out

    @cached_property
    def static_tracks(self) -> tuple[Tracks, np.ndarray]:
        """The static tracks with the depth cue at their sightings, and their columns."""
        columns = np.flatnonzero((self.evidence.group == 0) & (self.evidence.static.sum(0) >= 2))
        seen = self.evidence.static[:, columns]
        log_depth, sigma = self.cue_at(seen, columns)
        least = self.config.bundling
        sigma_px = np.maximum(self.tracks.sigma_px[:, columns], least.least_sigma_px)
        return Tracks(
            self.tensor(self.tracks.uv[:, columns]), self.tensor(seen), self.tensor(sigma_px),
            self.tensor(log_depth), self.tensor(sigma), max(self.depth.frame_scale_sigma, least.least_scale_sigma),
        ), columns  # fmt: skip

    def cue_at(self, seen: np.ndarray, columns: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Log depth and its sigma, (T, k), NaN where unseen or unknown."""
        frame, track = np.nonzero(seen)
        uv = self.tracks.uv[frame, columns[track]]
        size = (self.video.width, self.video.height)
        log_depth = np.full(seen.shape, np.nan, np.float32)
        sigma = np.full(seen.shape, np.nan, np.float32)
        log_depth[frame, track] = evidence.log_depth_at(self.depth.depth_z, frame, uv, *size)
        sigma[frame, track] = evidence.nearest_at(self.depth.sigma, frame, uv, *size)
        return log_depth, sigma

    def cameras(self) -> Arrays:
        """Stage 1: chained pairs from depth, unless poses came with the observations."""
        poses = self.observed.poses
        if poses is not None and bool(poses.valid.all()):
            return {"world_from_cam": poses.world_from_cam, "outcome": pack({"from": poses.source.name})}
        tracks, _ = self.static_tracks
        assert tracks.log_depth is not None
        generator = torch.Generator().manual_seed(0)
        chained = cameras.chain_pairs(
            tracks.uv, tracks.seen, tracks.log_depth, self.tensor(self.intrinsics), generator=generator
        )
        return {
            "world_from_cam": chained.double().cpu().numpy(),
            "outcome": pack({"from": "depth and tracks, pairwise"}),
        }

    def bundle(self, found: Arrays) -> Arrays:
        """Stage 2: poses, focal and depth scales by bundle adjustment."""
        tracks, columns = self.static_tracks
        start = Cameras(
            self.tensor(found["world_from_cam"]), self.tensor(self.intrinsics),
            self.tensor(np.zeros((len(self.video), 1))),
        )  # fmt: skip
        bundled = structure.bundle_cameras(
            tracks, self.tracks.query_frame[columns], start, self.config.bundling, focal_sigma=self.focal_sigma
        )
        result = bundled.cameras
        return {
            "world_from_cam": _rigid(result.world_from_cam),
            "intrinsics": result.intrinsics.double().cpu().numpy(),
            "log_depth_scale": result.log_depth_scale.double().cpu().numpy(),
            "noise": np.array(bundled.noise),
            "outcome": pack(bundled.outcome),
        }

    def solved(self, bundled: Arrays) -> Cameras:
        """The cameras of the bundle stage as tensors."""
        names = ("world_from_cam", "intrinsics", "log_depth_scale")
        return Cameras(*(self.tensor(bundled[name]) for name in names))

    def structure(self, bundled: Arrays) -> Arrays:
        """Static points of all static tracks, and how well each fits."""
        tracks, columns = self.static_tracks
        noise = float(bundled["noise"])
        at = self.solved(bundled)
        everything = np.arange(len(columns))
        points, _ = structure.structure(tracks, everything, at, self.config.bundling, noise=noise)
        fit = structure.fit_of_tracks(tracks, everything, at, points, self.config.bundling, noise)
        return {
            "points": points.float().cpu().numpy(), "columns": columns,
            "misfit": fit.misfit.float().cpu().numpy(), "sigma": fit.sigma.float().cpu().numpy(),
        }  # fmt: skip

    def control(self, bundled: Arrays, points: Arrays) -> ControlPoints:
        """Log ratios of the static structure to the cue at all (thinned) sightings."""
        at = self.solved(bundled)
        tracks, _ = self.static_tracks
        assert tracks.log_depth is not None
        good = torch.from_numpy(np.flatnonzero(points["misfit"] < 3.0)).to(tracks.uv.device)
        frame, track = tracks.seen[:, good].nonzero(as_tuple=True)
        point = good[track]
        size = tracks.uv.new_tensor([self.video.width, self.video.height])
        # the third column of world_from_cam is the viewing direction: depth needs no full transform
        forward, centre = at.world_from_cam[:, :3, 2], at.world_from_cam[:, :3, 3]
        away = self.tensor(points["points"])[point] - centre[frame]
        z = (away * forward[frame]).sum(-1)
        log_ratio = z.clamp_min(1e-6).log() - tracks.log_depth[frame, point]
        weight = 1 / (0.01**2 + self.tensor(points["sigma"])[point] ** 2)
        ok = (z > 0) & log_ratio.isfinite()
        log_ratio = torch.where(ok, log_ratio, torch.zeros_like(log_ratio))
        place = (tracks.uv[frame, point] / size).float()
        return ControlPoints(frame, place, log_ratio.float(), (weight * ok * 0.01**2).float())

    def ratios(self, bundled: Arrays, points: Arrays) -> Arrays:
        """By how much the cue is off around every pixel, as static structure tells; kept if held-out points agree."""
        control, settings = self.control(bundled, points), self.config.fusing
        count, aspect = len(self.video), self.video.height / self.video.width
        scale = torch.from_numpy(bundled["log_depth_scale"][:, 0]).to(control.log_ratio)
        held = torch.arange(len(control.frame), device=control.frame.device) % 10 == 0
        trial = fusion.ratio_field(control.chosen(~held), count, aspect, settings)
        before, after = fusion.held_out_errors(trial, control.chosen(held), scale, settings)
        field = fusion.ratio_field(control, count, aspect, settings)
        if not after < before:
            field = fusion.RatioField(*(torch.zeros_like(x) for x in (field.value, field.support, field.spread)))
        outcome = {
            "held_out_before": round(before, 5), "held_out_after": round(after, 5),
            "kept": "result" if after < before else "start",
        }  # fmt: skip
        fields = {"field": field.value, "support": field.support, "spread": field.spread}
        return {**{k: v.cpu().numpy() for k, v in fields.items()}, "outcome": pack(outcome)}

    def motion(self, bundled: Arrays, ratios: Arrays) -> Arrays:
        """Stage 3: positions of moving tracks at all times between their first and last sighting."""
        columns = np.flatnonzero(self.evidence.group > 0)
        longest = np.argsort(-self.evidence.moving[:, columns].sum(0), kind="stable")
        columns = np.sort(columns[longest[: self.config.moving_tracks]])
        if len(columns) < 3:
            empty = np.zeros((len(self.video), 0, 3), np.float32)
            nothing = {"points": empty, "sigma": empty[..., 0], "active": empty[..., 0] > 0, "columns": columns[:0]}
            return {**nothing, "outcome": pack({"tracks": 0})}
        samples = self.moving_samples(bundled, self.evidence.moving[:, columns], columns, ratios)
        solved = nonrigid.solve_points(samples, self.motion_weights(samples))
        before, after = solved.costs
        outcome = {"tracks": len(columns), "cost_before": round(before, 1), "cost_after": round(after, 1)}
        return {
            "points": solved.points_world.permute(2, 1, 0).float().contiguous().cpu().numpy(),
            "sigma": solved.sigma.T.float().cpu().numpy(), "active": samples.active.T.cpu().numpy(),
            "columns": columns, "outcome": pack(outcome),
        }  # fmt: skip

    def motion_weights(self, samples: MovingSamples) -> Weights:
        """The configured weights are for a scene 3 units deep; knees scale with the scene."""
        size = float(samples.depth_z[samples.seen].median()) / 3.0
        w = self.config.motion
        return replace(w, smooth_knee=w.smooth_knee * size, rigid_knee=w.rigid_knee * size)

    def moving_samples(self, bundled: Arrays, seen: np.ndarray, columns: np.ndarray, ratios: Arrays) -> MovingSamples:
        """Rays, corrected depth and activity of moving tracks, (N, T)."""
        at = self.solved(bundled)
        log_depth, sigma = self.cue_at(seen, columns)
        frame, track = np.nonzero(seen)
        size = np.array([self.video.width, self.video.height], np.float32)
        place = self.tensor(self.tracks.uv[frame, columns[track]] / size)
        off = fusion.sample_field(torch.from_numpy(ratios["field"]), torch.from_numpy(frame), place.float().cpu())
        log_depth[frame, track] += off.numpy()
        known = seen & np.isfinite(log_depth)
        first, last = known.argmax(0), len(known) - 1 - known[::-1].argmax(0)
        t = np.arange(len(known))[:, None]
        active = (t >= first) & (t <= last) & known.any(0)
        rotation, centres = at.world_from_cam[:, :3, :3], at.world_from_cam[:, :3, 3]
        rays_cam = pinhole.rays_z1(self.tensor(self.tracks.uv[:, columns]), at.intrinsics)
        rays = (rotation[:, None] @ rays_cam[..., None])[..., 0].permute(2, 1, 0).contiguous()
        depth_z = self.tensor(np.exp(np.where(known, log_depth, 0.0)).T)
        depth_sigma = self.tensor(np.where(known, sigma, 1.0).T)
        return MovingSamples(
            rays_world=rays,
            centres_world=centres.T.contiguous(),
            right=rotation[:, :, 0].T.contiguous(),
            down=rotation[:, :, 1].T.contiguous(),
            focal=float(at.intrinsics[0]),
            depth_z=depth_z,
            sigma=depth_sigma,
            seen=self.tensor(known.T),
            active=self.tensor(active.T),
            group=self.tensor(self.evidence.group[columns]),
        )

    def scene(
        self, found: Arrays, bundled: Arrays, points: Arrays, ratios: Arrays, moved: Arrays, fused: Arrays
    ) -> Scene:
        """Everything in one value."""
        video, at = self.video, bundled["world_from_cam"]
        focal = bundled["intrinsics"]
        prior = self.observed.camera
        assert prior is not None and self.observed.moving is not None
        camera = Camera(focal, video.width, video.height, prior.camera.distortion)
        tracks = self.world_tracks(points, moved)
        outcome = unpack(bundled["outcome"])
        history = (
            *(Step("assumed", {}, {"note": n}) for n in (*video.notes, *self.observed.notes)),
            Step(
                "observe",
                {k: _source(getattr(self.observed, k)) for k in ("camera", "tracks", "moving", "depth", "poses")},
            ),
            Step("cameras", {}, unpack(found["outcome"])),
            Step("bundle", asdict(self.config.bundling), outcome),
            Step("motion", asdict(self.config.motion), unpack(moved["outcome"])),
            Step("fusion", asdict(self.config.fusing), unpack(ratios["outcome"])),
        )
        return Scene(
            video.times_s, camera, at, fused["depth_z"], fused["sigma"], fused["valid"], fused["moving"],
            image=np.asarray(video.frames), tracks=tracks,
            static_points=points["points"][points["misfit"] < 3.0],
            static_colour=tracks.colour[: len(points["columns"])][points["misfit"] < 3.0],
            metric=self.depth.metric,
            metric_source=f"depth from {self.depth.source.name}" if self.depth.metric else "unknown scale",
            health=health.per_frame(self, bundled, points, fused), name=video.name,
            original_from_stored=video.original_from_stored, original_size=video.original_size,
            history=history, notes=(*video.notes, *self.observed.notes),
        )  # fmt: skip

    def world_tracks(self, points: Arrays, moved: Arrays) -> WorldTracks:
        """Static tracks (one position at all times), then moving ones."""
        count = len(self.video)
        columns = np.concatenate([points["columns"], moved["columns"]])
        static = np.broadcast_to(points["points"], (count, *points["points"].shape))
        moving = np.where(moved["active"][..., None], moved["points"], np.nan)
        is_moving = np.arange(len(columns)) >= len(points["columns"])
        query = self.tracks.query_frame[columns]
        return WorldTracks(
            np.concatenate([static, moving], 1).astype(np.float32), self.tracks.visible[:, columns],
            np.concatenate([np.broadcast_to(points["sigma"], static.shape[:2]), moved["sigma"]], 1).astype(np.float32),
            _colours(self.video, self.tracks.uv[query, columns], query), is_moving, query, columns,
        )  # fmt: skip


def fuse(work: _Work, bundled: Arrays, ratios: Arrays, moved: Arrays) -> Arrays:
    """Depth, sigma, validity and masks at the video's resolution, frame by frame so that memory stays flat."""
    video, depth, masks = work.video, work.depth, work.observed.moving
    assert masks is not None
    height, width, count = video.height, video.width, len(video)
    value, support, spread = (torch.from_numpy(ratios[k]) for k in ("field", "support", "spread"))
    objects = object_fields(work, bundled, ratios, moved)
    out = {
        "depth_z": np.empty((count, height, width), np.float32), "sigma": np.empty((count, height, width), np.float32),
        "valid": np.empty((count, height, width), bool), "moving": np.zeros((count, height, width), np.uint8),
    }  # fmt: skip
    # without points nearby the frame's own scale is the best guess
    trust = support / (support + work.config.fusing.prior)
    scale = torch.from_numpy(bundled["log_depth_scale"]).float()[:, :, None]
    factor = torch.lerp(scale, value, trust).exp()
    coarse = torch.stack([factor, (spread**2 + LEAST_SIGMA**2).sqrt(), trust], 1)
    for t in range(count):
        ids = _nearest(masks.ids[t], height, width)
        cue, claimed = _resize(depth.depth_z[t], height, width), _resize(depth.sigma[t], height, width)
        ratio, improved, trusted = fusion.enlarge(coarse[t], height, width)
        for group in set(np.unique(ids)) & set(objects):
            own = fusion.enlarge(objects[group][t].exp()[None], height, width)[0]
            ratio = torch.where(torch.from_numpy(ids == group), ratio * own, ratio)
        static = torch.from_numpy(ids == 0)
        out["depth_z"][t] = cue * ratio
        out["sigma"][t] = claimed + static * trusted * (torch.minimum(improved, claimed) - claimed)
        out["valid"][t] = np.isfinite(out["depth_z"][t]) & (out["depth_z"][t] > 0)
        out["moving"][t] = np.minimum(ids, 255)
    return out


def object_fields(work: _Work, bundled: Arrays, ratios: Arrays, moved: Arrays) -> dict[int, Tensor]:
    """For every object, the log ratio left after the static field, spread from the object's own points."""
    columns = moved["columns"]
    if len(columns) == 0:
        return {}
    seen = work.evidence.moving[:, columns] & moved["active"]
    frame, track = np.nonzero(seen)
    uv = work.tracks.uv[frame, columns[track]]
    size = np.array([work.video.width, work.video.height], np.float32)
    place = torch.from_numpy(uv / size)
    cue = torch.from_numpy(evidence.log_depth_at(work.depth.depth_z, frame, uv, work.video.width, work.video.height))
    rows = torch.from_numpy(bundled["world_from_cam"])[torch.from_numpy(frame)].float()
    away = torch.from_numpy(moved["points"][frame, track]) - rows[:, :3, 3]
    z = (away * rows[:, :3, 2]).sum(-1)
    base = fusion.sample_field(torch.from_numpy(ratios["field"]), torch.from_numpy(frame), place)
    left = z.clamp_min(1e-6).log() - cue - base
    weight = (left.isfinite() & (z > 0)).float()
    left = left.nan_to_num(0.0)
    group = torch.from_numpy(work.evidence.group[columns][track])
    fields = {}
    for number in group.unique().tolist():
        m = group == number
        control = ControlPoints(torch.from_numpy(frame)[m], place[m], left[m], weight[m])
        aspect = work.video.height / work.video.width
        fields[number] = fusion.ratio_field(control, len(work.video), aspect, work.config.fusing).value
    return fields


def _ideal(tracks: PixelTracks, camera: Camera) -> PixelTracks:
    """Tracks where an ideal pinhole would have seen them."""
    if not any(camera.distortion):
        return tracks
    k = camera.at(0)
    xy = torch.from_numpy((tracks.uv - k[2:]) / k[:2])
    ideal = pinhole.undistort(xy, camera.distortion).numpy() * k[:2] + k[2:]
    return replace(tracks, uv=ideal.astype(np.float32))


def _rigid(world_from_cam: Tensor) -> np.ndarray:
    out = world_from_cam.double()
    out[:, :3, :3] = se3.nearest_rotation(out[:, :3, :3])
    return (se3.inverse(out[:1]) @ out).cpu().numpy()


def _resize(image: np.ndarray, height: int, width: int) -> Tensor:
    tensor = torch.from_numpy(np.require(image, np.float32, ["C", "W"]))
    return tensor if tensor.shape == (height, width) else fusion.enlarge(tensor[None], height, width)[0]


def _nearest(ids: np.ndarray, height: int, width: int) -> np.ndarray:
    if ids.shape == (height, width):
        return ids
    rows = (np.arange(height) * ids.shape[0]) // height
    columns = (np.arange(width) * ids.shape[1]) // width
    return ids[rows][:, columns]


def _colours(video: Video, uv: np.ndarray, frame: np.ndarray) -> np.ndarray:
    """The colour of every track in its query frame."""
    row = np.clip(uv[:, 1].astype(int), 0, video.height - 1)
    column = np.clip(uv[:, 0].astype(int), 0, video.width - 1)
    out = np.empty((len(uv), 3), np.uint8)
    for t in np.unique(frame):
        here = frame == t
        out[here] = np.asarray(video.frames[t])[row[here], column[here]]
    return out


def _source(item: Any) -> str | None:
    return None if item is None else item.source.name
