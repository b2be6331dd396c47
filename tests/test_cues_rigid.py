"""Masks of what contradicts the rigid scene, on rendered worlds, and the parts that they are made of."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
import torch

from worldline import synthetic
from worldline.cues.camera import selfcal
from worldline.cues.edge_aware import BilateralGrid, guided
from worldline.cues.identities import IdentitySettings, identities
from worldline.cues.motion_evidence import EvidenceSettings, frame_evidence, paced
from worldline.cues.moving import rigid
from worldline.cues.optical_flow import dense_flow
from worldline.cues.parallax import FlowChain, Sightings, grip, static_hypothesis
from worldline.cues.rigid_scene import rigid_scene
from worldline.cues.static_places import sweep_of
from worldline.cues.surface_memory import MemorySettings, remembered
from worldline.geometry.camera import distort
from worldline.scene.journal import Journal
from worldline.scene.observations import CameraMotion, CameraPrior, MovingMasks, Observations, Source
from worldline.scene.video import Video
from worldline.solve.structure import RigidStructure


def world(path: str, *, movers: bool) -> tuple[synthetic.Rendered, Observations]:
    made = synthetic.tiny_world(seed=3, path=path, frames=12, width=160, height=112, movers=movers)
    rendered = synthetic.render(made)
    tracks = synthetic.observations(rendered, step_px=8, every=4).tracks
    camera = CameraPrior(rendered.scene.camera, 0.0, Source("test"))
    return rendered, Observations(tracks=tracks, camera=camera)


def masks(rendered: synthetic.Rendered, observed: Observations) -> np.ndarray:
    config = rigid.Config(evidence=EvidenceSettings(offsets=(1, 2, 3)))
    return rigid.build(config)(rendered.video, observed, Journal("test")).ids


@pytest.fixture(scope="module")
def walk() -> tuple[synthetic.Rendered, Observations]:
    return world("handheld", movers=True)


def test_movers_are_found_and_little_else(walk: tuple[synthetic.Rendered, Observations]) -> None:
    found, true = masks(*walk) > 0, np.asarray(walk[0].scene.moving) > 0
    assert (found & true).sum() / (found | true).sum() > 0.35
    assert (found & true).sum() / found.sum() > 0.8


def test_a_static_world_is_left_alone() -> None:
    assert (masks(*world("handheld", movers=False)) > 0).mean() < 0.02


def test_a_standing_camera_sees_movers_too() -> None:
    rendered, observed = world("static", movers=True)
    found, true = masks(rendered, observed) > 0, np.asarray(rendered.scene.moving) > 0
    assert (found & true).sum() / (found | true).sum() > 0.5


def test_an_object_keeps_its_number(walk: tuple[synthetic.Rendered, Observations]) -> None:
    found, true = masks(*walk), np.asarray(walk[0].scene.moving)
    largest = np.bincount(true[true > 0]).argmax()
    numbers = found[(true == largest) & (found > 0)]
    assert np.bincount(numbers).max() > 0.8 * numbers.size


def test_self_calibration_and_masks_share_one_structure(walk: tuple[synthetic.Rendered, Observations]) -> None:
    rendered, observed = walk
    journal = Journal("test")
    alone = Observations(tracks=observed.tracks)
    made = selfcal.build(selfcal.Config())(rendered.video, alone, journal)
    assert made.camera is not None and made.camera_motion is not None
    again = rigid_scene(rendered.video, made.merged(alone), journal)
    assert np.array_equal(again.world_from_cam, made.camera_motion.world_from_cam)
    assert [t.resumed for t in journal.times if t.name == "structure"] == [False, True]


def test_a_known_lens_is_taken_out_of_the_tracks(walk: tuple[synthetic.Rendered, Observations]) -> None:
    rendered, observed = walk
    scene, tracks = rendered.scene, observed.tracks
    focal, centre, lens = scene.camera.at(0)[:2], scene.camera.at(0)[2:], (-0.25, 0.05)
    bent = distort(torch.from_numpy((tracks.uv - centre) / focal), lens).numpy() * focal + centre
    motion = CameraMotion(scene.world_from_cam, np.ones(len(scene), bool), 0.0, 0.0, Source("test"))

    def median_rms_px(distortion: tuple[float, ...]) -> float:
        camera = CameraPrior(replace(scene.camera, distortion=distortion), 0.0, Source("test"))
        known = Observations(tracks=replace(tracks, uv=bent.astype(np.float32)), camera=camera, camera_motion=motion)
        return float(np.nanmedian(rigid_scene(rendered.video, known, Journal("lens")).track_rms_px))

    assert 3 * median_rms_px(lens) < median_rms_px(())


def test_static_pixels_fit_and_their_inverse_depth_is_exact() -> None:
    grid = np.stack(np.meshgrid(np.arange(8) * 10 + 5.0, np.arange(6) * 10 + 5.0), -1).astype(np.float32)
    intrinsics, inverse = np.array([100.0, 100, 40, 30]), np.linspace(0.1, 1, 48).reshape(6, 8)
    cameras = np.repeat(np.eye(4)[None], 3, 0)
    cameras[1, 0, 3], cameras[2, 1, 3] = 0.2, -0.3
    points = np.concatenate([(grid - [40, 30]) / 100, np.ones((6, 8, 1))], -1) / inverse[..., None]
    uv = np.stack([(points - c[:3, 3])[..., :2] / points[..., 2:] * 100 + [40, 30] for c in cameras[1:]])
    sightings = Sightings((1, 2), uv.astype(np.float32), np.full(uv.shape[:-1], 0.1, dtype=np.float32))
    fit = static_hypothesis(sightings, grid, cameras, 0, intrinsics)
    assert np.allclose(fit.inverse_depth, inverse, atol=1e-4) and fit.residual_px.max() < 1e-2
    moved = Sightings((1, 2), sightings.uv + np.float32([[[[0, 9]]], [[[9, 0]]]]), sightings.sigma_px)
    assert static_hypothesis(moved, grid, cameras, 0, intrinsics).residual_px.min() > 2


def test_chained_flow_adds_up_and_ends_at_the_border() -> None:
    steps = np.zeros((2, 4, 20, 30, 3), dtype=np.float16)
    steps[0, ..., 0], steps[1, ..., 0] = 3, -3
    v, u = np.mgrid[:20, :30] + 0.5
    chain = FlowChain(np.stack([u, v], -1).astype(np.float32), (20, 30), steps)
    seen = chain.follow(0, (-1, 2, 4))
    assert seen.frames == (2, 4)
    assert np.allclose(seen.uv[1, :, :15, 0], u[:, :15] + 12)
    assert np.isinf(seen.sigma_px[1, :, 20:]).all() and np.isfinite(seen.sigma_px[1, 1:-1, 1:15]).all()


@pytest.mark.parametrize(("frames", "seen"), [(2, (1,)), (3, (1,)), (6, (4,))])
def test_in_a_clip_shorter_than_the_offsets_the_neighbours_are_followed(frames: int, seen: tuple[int, ...]) -> None:
    v, u = np.mgrid[:20, :30] + 0.5
    still = np.zeros((2, frames - 1, 20, 30, 3), dtype=np.float16)
    chain = FlowChain(np.stack([u, v], -1).astype(np.float32), (20, 30), still)
    assert chain.follow(0, (-4, 4)).frames == seen


def test_the_bilateral_solver_fills_up_to_an_edge() -> None:
    image = np.zeros((40, 60, 3), dtype=np.uint8)
    image[:, 30:] = 200
    target, confidence = np.zeros((40, 60)), np.zeros((40, 60))
    target[20, 5], target[20, 55], confidence[20, 5], confidence[20, 55] = 1, 3, 1, 1
    solved = BilateralGrid.of(image).solve(target, confidence, smoothness=1.0)
    assert np.allclose(solved[:, :30], 1, atol=0.05) and np.allclose(solved[:, 30:], 3, atol=0.05)


def test_the_guided_filter_keeps_constants_and_edges_of_its_guide() -> None:
    guide = np.zeros((30, 30), dtype=np.float32)
    guide[:, 15:] = 1
    assert np.allclose(guided(guide, np.full_like(guide, 0.7), radius=3, edge=0.05), 0.7, atol=1e-4)
    noisy = guide + np.random.default_rng(0).normal(0, 0.1, guide.shape).astype(np.float32)
    smooth = guided(guide, noisy, radius=3, edge=0.05)
    assert abs(smooth[:, 14].mean()) < 0.1 and abs(smooth[:, 15].mean() - 1) < 0.1
    assert smooth[5:25, 5:10].std() < 0.04 < cv2.absdiff(noisy, guide).mean()


def chain_of(steps_u: list[float], height: int = 24, width: int = 40) -> FlowChain:
    """All pixels moving together along u, by so much from frame to frame."""
    v, u = np.mgrid[:height, :width] + 0.5
    steps = np.zeros((2, len(steps_u), height, width, 3), dtype=np.float16)
    steps[0, ..., 0], steps[1, ..., 0] = (np.array(steps_u)[:, None, None] * sign for sign in (1, -1))
    return FlowChain(np.stack([u, v], -1).astype(np.float32), (height, width), steps)


def test_a_mover_that_pauses_for_a_second_stays_one_and_what_stood_all_along_does_not_become_one() -> None:
    odds = np.full((45, 24, 40), -1.5, dtype=np.float32)
    odds[:12, 5:15, 10:20] = odds[36:, 5:15, 10:20] = 2.0
    found = remembered(chain_of([0.0] * 44), odds, 1 / 24, MemorySettings())
    assert (found[:, 7:13, 12:18] > 0).all()
    assert (found[:, :, 25:] < -2).all()


def test_texture_that_flickers_on_the_spot_is_no_object_and_a_patch_that_travels_is() -> None:
    random = np.random.default_rng(0)
    luma = np.repeat(
        cv2.GaussianBlur(random.uniform(0, 255, (1, 96, 128)).astype(np.float32)[0], (0, 0), 1.5)[None], 9, 0
    )
    luma = (luma - luma.mean()) * 4 + 128
    patch = luma[0, :24, :24].copy()
    flow = random.normal(0, 0.8, (9, 2)).cumsum(0).astype(np.float32)
    steps = np.zeros((2, 8, 96, 128, 3), dtype=np.float16)
    for t in range(9):
        luma[t, 60:90, 10:60] = cv2.GaussianBlur(random.uniform(0, 255, (30, 50)).astype(np.float32), (0, 0), 1.5)
        luma[t, 20:44, 20 + 4 * t : 44 + 4 * t] = patch[::-1]
    for t in range(8):
        steps[:, t, 60:90, 10:60, :2] = (flow[t + 1] - flow[t]) * np.array([1, -1])[:, None, None, None]
        steps[0, t, 20:44, 20 + 4 * t : 44 + 4 * t, 0] = 4
        steps[1, t, 20:44, 24 + 4 * t : 48 + 4 * t, 0] = -4
    v, u = np.mgrid[:96, :128] + 0.5
    chain = FlowChain(np.stack([u, v], -1).astype(np.float32), (96, 128), steps)
    still = standing_scene(9, (128.0, 128.0, 64.0, 48.0))
    odds = frame_evidence(chain, still, luma, 4, (0.0, 0.0), EvidenceSettings())
    assert np.median(odds[24:40, 40:56]) > 1.5
    assert (odds[62:88, 12:58] > 0).mean() < 0.05 and np.median(odds[:16, 70:]) < -1


@pytest.mark.parametrize(("step_px", "offsets"), [(1.0, (2, 6)), (6.0, (1, 3))])
def test_a_clip_too_fast_to_be_followed_far_is_looked_at_in_nearer_frames(step_px: float, offsets: tuple) -> None:
    assert paced(chain_of([step_px] * 20), EvidenceSettings(offsets=(2, 6))).offsets == offsets


def test_flow_that_slides_along_an_edge_or_over_a_plain_wall_is_no_motion() -> None:
    random = np.random.default_rng(0)
    rows = cv2.GaussianBlur(random.uniform(0, 255, (96, 1)).astype(np.float32), (1, 9), 2) * np.ones(
        (1, 128), np.float32
    )
    luma = np.repeat(rows[None], 9, 0) + random.normal(0, 1, (9, 96, 128)).astype(np.float32)
    luma[:, 40:] = 128 + random.normal(0, 1, (9, 56, 128))
    odds = frame_evidence(
        chain_of([3.0] * 8, 96, 128), standing_scene(9, (128.0, 128.0, 64.0, 48.0)), luma, 4, (0.0, 0.0),
        EvidenceSettings(),
    )  # fmt: skip
    assert (odds <= 0).mean() > 0.995 and np.median(odds[4:36, 30:100]) < -0.4


def test_an_image_holds_displacements_across_its_structure_only() -> None:
    v, u = np.mgrid[:40, :60].astype(np.float32)
    off = np.array([3.0, 4.0], dtype=np.float32) * np.ones((40, 60, 1), np.float32)
    assert np.allclose(grip(128 + 60 * np.sin(u)).squared(off)[8:-8, 8:-8], 9, rtol=0.1)
    assert np.allclose(grip(128 + 60 * np.sin(v)).squared(off)[8:-8, 8:-8], 16, rtol=0.1)
    assert np.allclose(grip(128 + 30 * (np.sin(u) + np.sin(v))).squared(off)[8:-8, 8:-8], 25, rtol=0.15)
    assert np.allclose(grip(0 * u).squared(off), 0)


def test_flow_that_is_wrong_on_a_railing_says_nothing_and_a_patch_that_leaves_its_epipolar_line_does() -> None:
    random = np.random.default_rng(0)
    far, rail, patch = (
        cv2.GaussianBlur(random.uniform(0, 255, (96, 256)).astype(np.float32), (0, 0), 1.2) * 4 - 380 for _ in range(3)
    )
    luma = np.stack([far[:, 60 - 2 * t : 188 - 2 * t] for t in range(9)])
    steps = np.zeros((2, 8, 96, 128, 3), dtype=np.float16)
    steps[..., 0] = np.array([2, -2])[:, None, None, None]
    for t in range(9):
        luma[t, 60:72] = rail[60:72, 60 - 6 * t : 188 - 6 * t]
        luma[t, 10 + 3 * t : 26 + 3 * t, 50:78] = patch[:16, :28]
    for t in range(8):
        steps[:, t, 60:72, :, 1] = np.array([3, -3])[:, None, None]
        steps[0, t, 10 + 3 * t : 26 + 3 * t, 50:78, :2] = 0, 3
        steps[1, t, 13 + 3 * t : 29 + 3 * t, 50:78, :2] = 0, -3
    v, u = np.mgrid[:96, :128] + 0.5
    chain = FlowChain(np.stack([u, v], -1).astype(np.float32), (96, 128), steps)
    scene = replace(standing_scene(9, (100.0, 100.0, 64.0, 48.0)), motion="general")
    scene.world_from_cam[:, 0, 3] = -np.arange(9) * 0.1
    odds = frame_evidence(chain, scene, luma, 4, (0.0, 1.0), EvidenceSettings())
    assert (odds[62:70, 30:100] > 0).mean() < 0.05
    assert np.median(odds[24:36, 54:74]) > 1.5 and np.median(odds[80:, 30:100]) < -1


def test_a_sweep_leads_every_pixel_to_where_the_static_point_is_in_the_other_frames() -> None:
    rendered, _ = world("handheld", movers=False)
    camera, motion = rendered.scene.camera, rendered.scene.world_from_cam
    scene = replace(standing_scene(12, tuple(camera.at(0))), motion="general", world_from_cam=motion)
    sweep = sweep_of(chain_of([0.0] * 11, 112, 160), scene, np.zeros((12, 112, 160), np.float32), 5, (2, 8))
    v, u = np.mgrid[:56, :80]
    px, q = np.stack([u, v, np.ones_like(u)], -1)[..., None], 0.37
    k = np.array([[camera.at(0)[0], 0, camera.at(0)[2]], [0, camera.at(0)[1], camera.at(0)[3]], [0, 0, 1]])
    points_cam = np.linalg.inv(k) @ (px * [[2], [2], [1]] + [[1], [1], [0]]) / q
    for frame, far, near in zip((2, 8), sweep.far, sweep.near, strict=True):
        other_from_cam = np.linalg.inv(motion[frame]) @ motion[5]
        true = k @ (other_from_cam[:3, :3] @ points_cam + other_from_cam[:3, 3:])
        found = (far + q * near) @ px
        assert np.allclose(2 * found[..., :2, 0] / found[..., 2:, 0] + 1, true[..., :2, 0] / true[..., 2:, 0])


def texture_of(random: np.random.Generator, height: int, width: int) -> np.ndarray:
    noise = cv2.GaussianBlur(random.normal(0, 1, (height, width, 3)).astype(np.float32), (0, 0), 1.5)
    return np.clip(128 + 84 * noise, 0, 255).astype(np.float32)


def masks_of(frames: list[np.ndarray]) -> np.ndarray:
    """Where something moves in frames of a camera that stands, with noise; flow as it is found in them."""
    random = np.random.default_rng(1)
    images = np.stack([np.clip(f + random.normal(0, 1.2, f.shape), 0, 255).astype(np.uint8) for f in frames])
    video = Video(images, np.arange(len(images)) / 24, name="floor")
    config = rigid.Config(evidence=EvidenceSettings(offsets=(1, 4)))
    height, width = images.shape[1:3]
    chain = FlowChain.of(dense_flow(video, Journal("floor")), height, width)
    work = rigid._Work(video, chain, images, {}, config)
    scene = standing_scene(len(images), (200.0, 200.0, width / 2, height / 2))
    return rigid.link(work, rigid.segment(work, rigid.gather(work, scene, None))) > 0


def shadowed(image: np.ndarray, centre: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """An image with a soft shadow, and where it is more than half."""
    shade = np.zeros(image.shape[:2], dtype=np.float32)
    cv2.ellipse(shade, centre, (24, 9), 0, 0, 360, 1.0, -1)
    shade = cv2.GaussianBlur(shade, (0, 0), 2.0)
    return image * (1 - 0.45 * shade[..., None]), shade > 0.5


def test_a_shadow_that_travels_over_a_textured_floor_is_not_masked_and_its_caster_is() -> None:
    random = np.random.default_rng(0)
    floor, box = texture_of(random, 112, 160), texture_of(random, 32, 20) * np.float32([1.0, 0.6, 0.5])
    frames, boxes, shadows = [], np.zeros((10, 112, 160), bool), np.zeros((10, 112, 160), bool)
    for t in range(10):
        image, shadows[t] = shadowed(floor, (66 + 4 * t, 64))
        image[34:66, 24 + 4 * t : 44 + 4 * t], boxes[t, 34:66, 24 + 4 * t : 44 + 4 * t] = box, True
        frames.append(image)
    found = masks_of(frames)
    assert found[boxes].mean() > 0.9
    assert found[shadows & ~boxes].mean() < 0.2
    assert found[~shadows & ~boxes].mean() < 0.02


def test_leaves_that_sway_on_the_spot_stay_with_the_scene() -> None:
    leaves = texture_of(np.random.default_rng(0), 112, 160)
    v, u = np.mgrid[:112, :160].astype(np.float32)
    there = np.exp(-(((u - 100) / 30) ** 4) - ((v - 50) / 28) ** 4).astype(np.float32)
    phase = 2 * np.pi * np.arange(12) / 7
    frames = [
        cv2.remap(leaves, u + 1.5 * there * np.sin(a + u / 9), v + 1.5 * there * np.cos(1.3 * a + v / 7), 1)
        for a in phase.astype(np.float32)
    ]
    found = masks_of(frames)
    assert found[:, there > 0.5].mean() < 0.2 and found[:, there < 0.1].mean() < 0.01


def standing_scene(frames: int, intrinsics: tuple[float, ...]) -> RigidStructure:
    none = np.zeros((frames, 0))
    return RigidStructure(
        np.repeat(np.eye(4)[None], frames, 0), np.ones(frames, bool), np.array(intrinsics), 0.0, "static",
        np.zeros((0, 3)), np.zeros(0), none, np.zeros(0), np.zeros(frames, dtype=int), np.ones(frames),
    )  # fmt: skip


def test_objects_have_no_specks_and_keep_their_holes() -> None:
    ids = np.zeros((60, 80), dtype=np.uint8)
    ids[10:50, 10:40] = 2
    ids[20, 20], ids[30:42, 20:30] = 0, 0
    ids[5:9, 60:64], ids[6, 61] = 3, 0
    found = rigid.solid(ids)
    assert found[20, 20] == 2 and (found[30:42, 20:30] == 0).all()
    assert found[6, 61] == 0 and (found[ids > 0] == ids[ids > 0]).all()


def test_two_objects_that_meet_and_part_keep_their_numbers() -> None:
    moving = np.zeros((20, 24, 40), dtype=bool)
    images = np.full((20, 24, 40, 3), 90, dtype=np.uint8)
    steps = np.zeros((2, 19, 24, 40, 3), dtype=np.float16)
    left = [4 + min(t, 19 - t) for t in range(20)]
    for t, x in enumerate(left):
        moving[t, 4:12, x : x + 8] = moving[t, 6:14, 20:28] = True
        images[t, 4:12, x : x + 8], images[t, 6:14, 20:28] = (200, 30, 30), (30, 30, 200)
        if t:
            steps[0, t - 1, 4:12, left[t - 1] : left[t - 1] + 8, 0] = x - left[t - 1]
            steps[1, t - 1, 4:12, x : x + 8, 0] = left[t - 1] - x
    v, u = np.mgrid[:24, :40] + 0.5
    chain = FlowChain(np.stack([u, v], -1).astype(np.float32), (24, 40), steps)
    ids = identities(chain, images, moving, {}, 1 / 24, IdentitySettings())
    assert ids[0, 8, 6] == ids[19, 8, 6] != ids[0, 8, 24] == ids[19, 8, 24]
    assert set(np.unique(ids)) == {0, 1, 2}


def test_given_masks_are_kept_and_their_numbers_carried_to_the_other_frames() -> None:
    given = np.zeros((24, 40), dtype=np.int32)
    given[6:16, 8:20] = 7
    moving = np.repeat((given > 0)[None], 6, 0)
    images = np.full((6, 24, 40, 3), 90, dtype=np.uint8)
    ids = identities(chain_of([0.0] * 5), images, moving, {3: given}, 1 / 24, IdentitySettings())
    assert np.array_equal(ids, np.repeat(given[None], 6, 0))


def test_known_frames_come_back_exactly(walk: tuple[synthetic.Rendered, Observations]) -> None:
    rendered, observed = walk
    true = np.asarray(rendered.scene.moving).astype(np.uint8)
    known = np.arange(len(true)) % 4 == 0
    partial = replace(
        observed, moving=MovingMasks(np.where(known[:, None, None], true, 0), Source("test"), known=known)
    )
    found = masks(rendered, partial)
    assert np.array_equal(found[known], true[known])
    overlap = (found > 0) & (true > 0)
    assert overlap[~known].sum() / ((found > 0) | (true > 0))[~known].sum() > 0.6
