"""Cameras that turn, stand, zoom, follow a subject, pass a wall or return: the right answer, or the right sentence."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch

from worldline.cues import observe
from worldline.cues.camera import selfcal
from worldline.geometry import se3, sim3
from worldline.scene.observations import Observations, PixelTracks
from worldline.scene.video import Video
from worldline.solve import rotation, zoom, zoom_rival
from worldline.solve.focal import Focal, prior_focal
from worldline.solve.structure import RigidStructure, rigid_structure
from worldline.solve.structure_settings import StructureSettings
from worldline.solve.track_cameras import Cameras
from worldline.solve.track_samples import TrackSamples
from worldline.synthetic import presets, truth
from worldline.synthetic.world import World

SIZE = (320, 240)
FEW = StructureSettings(tracks=400, lens_tracks=600)
NOISE_PX, DRIFT_PX = 0.15, 0.03


@cache
def clip(path: str, kind: str = "room", frames: int = 20, travel_m: float = 1.0, **options: float) -> World:
    return presets.build(kind, path, frames=frames, size=SIZE, travel_m=travel_m, **options)  # type: ignore[arg-type]


def seen(world: World, step_px: int = 16) -> PixelTracks:
    """True tracks with noise and drift, as a good tracker would give them."""
    exact = truth.pixel_tracks(world, *truth.query_grid(world, step_px, 8))
    random = np.random.default_rng(0)
    age = np.abs(np.arange(len(world))[:, None] - exact.query_frame)
    walk = np.cumsum(random.normal(size=exact.uv.shape) * DRIFT_PX, 0)
    walk -= np.take_along_axis(walk, exact.query_frame[None, :, None], 0)
    uv = exact.uv + NOISE_PX * random.normal(size=exact.uv.shape) + walk
    sigma = np.hypot(NOISE_PX, DRIFT_PX * np.sqrt(age))
    return replace(exact, uv=uv.astype(np.float32), sigma_px=sigma.astype(np.float32))


@cache
def solved(path: str, kind: str = "room", **options: float) -> tuple[World, RigidStructure]:
    world = clip(path, kind, **options)
    return world, rigid_structure(seen(world), *SIZE, settings=FEW)


def rotation_error_deg(world: World, found: RigidStructure) -> float:
    between = found.world_from_cam[:, :3, :3].transpose(0, 2, 1) @ world.world_from_cam[:, :3, :3]
    return float(torch.rad2deg(se3.angle_rad(torch.from_numpy(between))).max())


def path_error(world: World, found: RigidStructure) -> float:
    """Error of the camera centres after a similarity, as a share of the way."""
    a, b = (torch.from_numpy(c[:, :3, 3].copy()) for c in (world.world_from_cam, found.world_from_cam))
    error = (sim3.fit(a, b).apply(b) - a).norm(dim=-1)
    return float(error.square().mean().sqrt() / (a[1:] - a[:-1]).norm(dim=-1).sum())


def focal_error(world: World, found: RigidStructure) -> float:
    """Greatest error of the log focal length of any frame."""
    true = world.camera.frames(len(world))[:, 0]
    return float(np.abs(np.log(found.intrinsics_per_frame[:, 0] / true)).max())


@pytest.mark.parametrize("kind", ["room", "outdoor", "wall"])
def test_a_turning_camera_calibrates_itself_and_claims_no_depth(kind):
    world, found = solved("rotate", kind)
    assert found.motion == "turning" and not found.zooms
    assert not found.world_from_cam[:, :3, 3].any()
    assert rotation_error_deg(world, found) < 0.1
    assert focal_error(world, found) < max(0.01, 2 * found.focal_sigma)
    assert found.focal_sigma < 0.03


def test_a_standing_camera_has_no_motion_and_does_not_know_its_focal_length():
    world, found = solved("static")
    assert found.motion == "static" and found.focal_sigma == StructureSettings().focal_sigma
    assert np.array_equal(found.world_from_cam, np.tile(np.eye(4), (len(world), 1, 1)))


def test_a_zoom_of_a_standing_camera_is_no_motion():
    world, found = solved("zoom")
    assert found.motion == "turning"
    assert found.zoom[-1] == pytest.approx(1.4, rel=0.01)
    assert rotation_error_deg(world, found) < 0.1
    assert found.focal_sigma > 0.2  # how long it is cannot be seen, only how it changes


def test_a_camera_that_turns_and_zooms_is_calibrated_in_every_frame():
    world, found = solved("rotate", zoom=1.5)
    assert found.motion == "turning"
    assert focal_error(world, found) < 0.02
    assert rotation_error_deg(world, found) < 0.15


def test_a_lens_that_zooms_on_the_move_is_told_from_going_forward():
    world, found = solved("handheld", zoom=1.4)
    assert found.motion == "general"
    assert found.zoom[-1] == pytest.approx(1.4, rel=0.04)
    assert path_error(world, found) < 0.015


def test_going_forward_is_no_zoom():
    world, found = solved("dolly")
    assert found.motion == "general" and not found.zooms
    assert path_error(world, found) < 0.01


@pytest.mark.parametrize(("path", "motion"), [("rotate", "turning"), ("slide", "general")])
def test_the_camera_is_that_of_the_surroundings_of_a_subject_that_fills_half_the_picture(path, motion):
    world = clip(path, subject=True, with_movers=False)
    tracks = seen(world)
    _, found = solved(path, subject=True, with_movers=False)
    subject = on_subject(world, tracks)
    sightings = tracks.visible.sum(0)
    assert sightings[subject].sum() > 0.4 * sightings.sum()
    assert found.motion == motion
    assert rotation_error_deg(world, found) < 0.3
    assert motion == "turning" or path_error(world, found) < 0.01
    assert np.nanmedian(found.track_rms_px[subject]) > 4 * np.nanmedian(found.track_rms_px[~subject])


def on_subject(world: World, tracks: PixelTracks) -> np.ndarray:
    query = np.array([tracks.uv[f, n] for n, f in enumerate(tracks.query_frame)])
    part = np.full(len(query), -1)
    for frame in np.unique(tracks.query_frame):
        here = tracks.query_frame == frame
        part[here] = truth.anchors(world, int(frame), torch.from_numpy(query[here].astype(np.float64))).part.numpy()
    return part == len(world.parts) - 1


@pytest.mark.parametrize("path", ["slide", "handheld"])
def test_moving_past_a_single_plane_is_not_turning(path):
    world, found = solved(path, "wall")
    assert found.motion == "general"
    assert path_error(world, found) < 0.01
    assert rotation_error_deg(world, found) < 0.2


def test_a_camera_that_stands_and_then_moves_stands_and_then_moves():
    world, found = solved("pause")
    still = np.linalg.norm(found.world_from_cam[:8, :3, 3], axis=1)
    assert found.motion == "general"
    assert path_error(world, found) < 0.01
    assert still.max() < 0.01 * np.linalg.norm(found.world_from_cam[-1, :3, 3])


def test_a_camera_that_returns_comes_back_to_where_it_was():
    world, found = solved("return", frames=30)
    centres = found.world_from_cam[:, :3, 3]
    assert found.motion == "general"
    assert path_error(world, found) < 0.01
    assert np.linalg.norm(centres[-1]) < 0.02 * np.linalg.norm(centres, axis=1).max()


@pytest.mark.parametrize("path", ["rotate", "handheld"])
def test_a_recorded_focal_length_is_refined_by_the_images_within_its_doubt(path):
    world = clip(path)
    true = float(world.camera.intrinsics[0])
    found = rigid_structure(seen(world), *SIZE, focal_px=1.06 * true, focal_sigma=0.05, settings=FEW)
    assert abs(np.log(found.intrinsics[0] / true)) < 0.03  # was off by six
    assert 0 < found.focal_sigma < 0.05


def test_a_zoom_is_said_with_its_factor_and_its_times():
    world, _ = solved("rotate", zoom=1.5)
    video = Video(np.zeros((len(world), SIZE[1], SIZE[0], 3), np.uint8), world.times_s, "zoom")
    config = selfcal.Config(FEW)
    observed = observe(video, needs=("camera",), given=Observations(tracks=seen(world)), camera=config)
    assert observed.camera is not None
    assert observed.camera.camera.per_frame
    assert any("zoom in by a factor of 1.5" in note and "0.0 s to 1.3 s" in note for note in observed.notes)


def test_calibration_by_turning_finds_a_focal_length_far_from_the_start():
    world = clip("rotate", with_movers=False)
    tracks = seen(world)
    uv, weight = torch.from_numpy(tracks.uv).double(), torch.from_numpy(tracks.visible).double() / NOISE_PX**2
    uv = torch.where(weight[..., None] > 0, uv, torch.zeros_like(uv))
    wrong = torch.tensor([500.0, 500.0, SIZE[0] / 2, SIZE[1] / 2], dtype=torch.float64)
    start = rotation.turning(uv, weight, wrong)
    found = rotation.calibrated(uv, weight, start, wrong, focal_sigma=0.5)
    assert float(500 * found.log_focal.exp()[0]) == pytest.approx(world.camera.intrinsics[0], rel=0.01)
    kept = rotation.calibrated(uv, weight, start, wrong, focal_sigma=0.0)
    assert float(kept.log_focal.abs().max()) < 1e-3


def notes_of(world: World) -> str:
    video = Video(np.zeros((len(world), SIZE[1], SIZE[0], 3), np.uint8), world.times_s, "zoom")
    observed = observe(video, needs=("camera",), given=Observations(tracks=seen(world)), camera=selfcal.Config(FEW))
    return " ".join(observed.notes)


@pytest.mark.parametrize(
    ("path", "options"),
    [
        ("forward", {"zoom": 2.0}),
        ("forward", {"zoom": 1 / 1.4, "with_movers": False}),
        ("backward", {"zoom": 1.4}),
        ("forward", {"zoom": 1.5, "zoom_from": 0.4, "zoom_until": 0.7}),
    ],
    ids=["in while going forward", "out while going forward", "in while going backward", "in for a part of the way"],
)
def test_a_zoom_along_the_line_of_sight_of_a_hand_is_found(path, options):
    world, found = solved(path, hand=True, **options)
    true = float(np.log(options["zoom"]))
    assert found.motion == "general" and found.zooms
    assert np.log(found.zoom[-1]) == pytest.approx(true, abs=max(0.02, 3 * found.zoom_sigma))
    assert rotation_error_deg(world, found) < 0.4
    assert path_error(world, found) < 0.02


@pytest.mark.parametrize("with_movers", [True, False])
def test_a_hand_that_goes_forward_does_not_zoom(with_movers):
    world, found = solved("forward", hand=True, with_movers=with_movers)
    assert found.motion == "general" and not found.zooms
    assert path_error(world, found) < 0.005


def test_exactly_along_the_line_of_sight_it_is_said_how_much_zoom_would_not_be_seen():
    world = clip("forward", zoom=1.2)
    notes = notes_of(world)
    assert "taken not to zoom" in notes and "--focal" in notes
    assert "the lens seems to zoom" not in notes


def test_what_is_said_of_a_zoom_has_its_range_where_it_is_hardly_seen():
    notes = notes_of(clip("backward", zoom=1.4, hand=True))
    assert "the lens seems to zoom in by a factor of" in notes and "(likely 1." in notes


def test_a_camera_that_goes_aside_hides_no_zoom():
    assert "zoom" not in notes_of(clip("handheld"))


def forward_by_hand() -> tuple[TrackSamples, Cameras, Focal]:
    """Points seen by a camera that goes straight ahead, without noise."""
    random = np.random.default_rng(0)
    points = torch.from_numpy(random.uniform([-1.5, -1, 3], [1.5, 1, 8], (60, 3)))
    ahead = torch.eye(4, dtype=torch.float64).repeat(6, 1, 1)
    ahead[:, 2, 3] = torch.linspace(0, 1, 6, dtype=torch.float64)
    focal = prior_focal(None, 0, *SIZE, FEW)
    points_cam = points - ahead[:, None, :3, 3]
    uv = points_cam[..., :2] / points_cam[..., 2:] * focal.intrinsics[:2] + focal.intrinsics[2:]
    samples = TrackSamples(uv, torch.full_like(uv[..., 0], 4.0))
    return samples, Cameras(ahead, torch.ones(6, dtype=torch.bool), focal.intrinsics, 0.0), focal


def test_straight_ahead_a_zoom_and_another_depth_make_the_same_images():
    samples, fixed, focal = forward_by_hand()
    start = zoom.Lensed(fixed, torch.zeros(6, dtype=torch.float64))
    found = zoom_rival.as_if_zoomed(samples, torch.arange(6), start, 0.1, focal, FEW)
    assert float(found.log_zoom[-1]) == pytest.approx(0.1)
    assert float(found.residual_px(samples).max()) < 0.05
    assert zoom_rival.sigmas(samples, torch.arange(6), found, focal, FEW).zoom > 0.1
    assert not zoom_rival.believed(samples, torch.arange(6), fixed, found, focal, FEW)


def test_a_zoom_that_explains_fewer_frames_is_not_believed():
    samples, fixed, focal = forward_by_hand()
    samples = samples._replace(uv=samples.uv + torch.linspace(0, 9, 6, dtype=torch.float64)[:, None, None].square())
    half = fixed._replace(solved=torch.arange(6) < 3)
    fewer = zoom.Lensed(half, torch.linspace(0, 0.4, 6, dtype=torch.float64))
    assert not zoom_rival.believed(samples, torch.arange(6), fixed, fewer, focal, FEW)
