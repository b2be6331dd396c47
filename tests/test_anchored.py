"""What is known enters with its uncertainty, gives the world and its scale, and is named where it contradicts."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from worldline.cues.rigid_scene import camera_motion_of, rigid_scene
from worldline.engines.uni4d import structure
from worldline.errors import SolveFailed
from worldline.geometry.camera import Camera
from worldline.scene.journal import Journal
from worldline.scene.observations import (
    CameraMotion,
    CameraPrior,
    DepthMaps,
    KnownLengths,
    MovingMasks,
    Observations,
    PixelTracks,
    Source,
)
from worldline.scene.video import Video
from worldline.solve.structure_settings import StructureSettings

WIDTH, HEIGHT, FOCAL = 320, 240, 280.0
SOURCE = Source("test")
FEW = StructureSettings(tracks=360, lens_tracks=360)


class Cloud:
    """A static surface of points, and perhaps a drifting part of it, seen by cameras on a known path in metres."""

    def __init__(
        self, world_from_cam: np.ndarray, *, points: int = 600, noise_px: float = 0.15, movers: int = 0
    ) -> None:
        random = np.random.default_rng(0)
        self.world_from_cam, count = world_from_cam, len(world_from_cam)
        x, y = random.uniform(-0.65, 0.65, points), random.uniform(-0.5, 0.5, points)
        z = 3 + 1.2 * np.sin(5 * x + 1) + 0.6 * np.cos(6 * y)
        cloud = np.stack([x * z, y * z, z], -1)
        first = world_from_cam[0]
        cloud = np.repeat((cloud @ first[:3, :3].T + first[:3, 3])[None], count, 0)
        cloud[:, :movers] += np.linspace(0, 0.5, count)[:, None, None] * [1.0, 0.2, 0.0]
        self.points_world = cloud
        cam_from_world = np.linalg.inv(world_from_cam)
        points_cam = np.einsum("tij,tnj->tni", cam_from_world[:, :3, :3], cloud) + cam_from_world[:, None, :3, 3]
        uv = points_cam[..., :2] / points_cam[..., 2:] * FOCAL + [WIDTH / 2, HEIGHT / 2]
        uv += random.normal(0, noise_px, uv.shape)
        self.depth_z = points_cam[..., 2]
        seen = (uv > 1).all(-1) & (uv < [WIDTH - 1, HEIGHT - 1]).all(-1) & (self.depth_z > 0.1)
        sigma = np.full(seen.shape, noise_px, np.float32)
        self.tracks = PixelTracks(uv.astype(np.float32), seen, sigma, np.zeros(points, np.int64), SOURCE)
        frames = np.zeros((count, HEIGHT, WIDTH, 3), np.uint8)
        self.video = Video(frames, np.arange(count) / 10.0, "cloud")

    def depth(self, *, noise: float = 0.01, scale: float = 1.0, holes: float = 0.2) -> DepthMaps:
        """A sensor that measures only around the points, with holes and NaN."""
        random = np.random.default_rng(1)
        maps = np.zeros((len(self.depth_z), HEIGHT, WIDTH), np.float32)
        for t, n in np.argwhere(self.tracks.visible & (random.random(self.tracks.visible.shape) > holes)):
            u, v = self.tracks.uv[t, n].astype(int)
            maps[t, v - 1 : v + 2, u - 1 : u + 2] = scale * self.depth_z[t, n] * np.exp(random.normal(0, noise))
        maps[:, ::37, ::41] = np.nan
        return DepthMaps(maps, np.full_like(maps, max(noise, 1e-3)), SOURCE, metric=True, frame_scale_sigma=0.005)

    def poses(self, which: object = slice(None), *, sigma_m: float = 0.01, sigma_rad: float = 0.005) -> CameraMotion:
        """Some of the poses; the others NaN."""
        valid = np.zeros(len(self.world_from_cam), bool)
        valid[which] = True
        known = np.where(valid[:, None, None], self.world_from_cam, np.nan)
        return CameraMotion(known, valid, sigma_m, sigma_rad, SOURCE, metric=True)

    def length(self, a: int, b: int, *, stated: float = 1.0) -> KnownLengths:
        """The distance of two points (of those seen throughout) as marked in frame 0; `stated` times what it is."""
        a, b = np.flatnonzero(self.tracks.visible.all(0))[[a, b]]
        metres = np.linalg.norm(self.points_world[0, a] - self.points_world[0, b], keepdims=True) * stated
        return KnownLengths(np.array([0]), self.tracks.uv[:1, [a, b]].astype(float), metres, 0.01 * metres, SOURCE)

    def observed(self, *, focal: float = FOCAL, sigma: float = 0.0, **known: object) -> Observations:
        camera = CameraPrior(Camera.from_focal(focal, WIDTH, HEIGHT), sigma, SOURCE)
        return Observations(tracks=self.tracks, camera=camera, **known)  # type: ignore[arg-type]

    def solved(self, **known: object):
        return rigid_scene(self.video, self.observed(**known), Journal("cloud"), FEW)


def walk(
    frames: int = 10, *, travel_m: float = 0.8, turn_rad: float = 0.15, start: np.ndarray | None = None
) -> np.ndarray:
    """A camera that moves to the side and turns a little, from anywhere."""
    share = np.linspace(0, 1, frames)
    matrices = np.tile(np.eye(4), (frames, 1, 1))
    c, s = np.cos(turn_rad * share), np.sin(turn_rad * share)
    matrices[:, 0, 0], matrices[:, 0, 2], matrices[:, 2, 0], matrices[:, 2, 2] = c, s, -s, c
    matrices[:, :3, 3] = travel_m * np.stack([share, 0.2 * np.sin(6 * share), 0.3 * share], -1)
    return matrices if start is None else start @ matrices


def elsewhere() -> np.ndarray:
    """A world that is not the first camera's."""
    out = np.eye(4)
    out[:3, :3] = [[0, -1, 0], [0, 0, -1], [1, 0, 0]]
    out[:3, 3] = [120.0, -40.0, 3.0]
    return out


@pytest.fixture(scope="module")
def cloud() -> Cloud:
    return Cloud(walk(start=elsewhere()))


def local(world_from_cam: np.ndarray) -> np.ndarray:
    return np.linalg.inv(world_from_cam[0]) @ world_from_cam


def centre_error(found: np.ndarray, true: np.ndarray) -> float:
    return float(np.linalg.norm(found[:, :3, 3] - true[:, :3, 3], axis=1).max())


def test_sensor_depth_gives_the_scale(cloud: Cloud) -> None:
    found = cloud.solved(depth=cloud.depth())
    assert found.metric and found.scale_source == "sensor depth" and not found.notes
    assert centre_error(found.world_from_cam, local(cloud.world_from_cam)) < 0.01
    assert found.median_depth == pytest.approx(np.median(cloud.depth_z[cloud.tracks.visible]), rel=0.03)


def test_two_known_poses_give_the_world_and_its_scale(cloud: Cloud) -> None:
    found = cloud.solved(camera_motion=cloud.poses([0, -1], sigma_m=0.002))
    assert found.metric and found.scale_source == "known poses" and not found.notes
    assert centre_error(found.world_from_cam, cloud.world_from_cam) < 0.01
    assert np.flatnonzero(found.given).tolist() == [0, 9]


def test_one_known_pose_gives_the_world_without_a_scale(cloud: Cloud) -> None:
    found = cloud.solved(camera_motion=cloud.poses([4], sigma_m=0.002))
    assert not found.metric
    assert np.linalg.norm(found.world_from_cam[4, :3, 3] - cloud.world_from_cam[4, :3, 3]) < 0.02


def test_exact_poses_stay(cloud: Cloud) -> None:
    found = cloud.solved(camera_motion=cloud.poses(slice(0, 8), sigma_m=0.0, sigma_rad=0.0))
    assert np.allclose(found.world_from_cam[:8], cloud.world_from_cam[:8], atol=1e-9)
    assert centre_error(found.world_from_cam, cloud.world_from_cam) < 0.01


def test_noisy_poses_are_improved_by_the_images(cloud: Cloud) -> None:
    given = cloud.poses(sigma_m=0.02)
    noisy = given.world_from_cam.copy()
    noisy[:, :3, 3] += np.random.default_rng(3).normal(0, 0.02, (len(noisy), 3))
    found = cloud.solved(camera_motion=replace(given, world_from_cam=noisy))
    assert centre_error(found.world_from_cam, cloud.world_from_cam) < 0.7 * centre_error(noisy, cloud.world_from_cam)
    assert not found.notes


def test_a_known_length_gives_the_scale(cloud: Cloud) -> None:
    found = cloud.solved(lengths=cloud.length(5, 60))
    assert found.metric and found.scale_source.startswith("a known length of ")
    assert centre_error(found.world_from_cam, local(cloud.world_from_cam)) < 0.03


def test_depth_and_poses_together_stay_in_the_world_of_the_poses(cloud: Cloud) -> None:
    found = cloud.solved(depth=cloud.depth(), camera_motion=cloud.poses([2, 8], sigma_m=0.003))
    assert found.metric and not found.notes
    assert centre_error(found.world_from_cam, cloud.world_from_cam) < 0.01


@pytest.mark.parametrize("path", [walk(2), walk(8, travel_m=0.0, turn_rad=0.3), walk(8, travel_m=0.0, turn_rad=0.0)])
def test_two_frames_a_turning_and_a_standing_camera_have_cameras_from_sensor_depth(path: np.ndarray) -> None:
    cloud = Cloud(path)
    found = cloud.solved(depth=cloud.depth())
    assert found.metric and found.solved.all()
    assert centre_error(found.world_from_cam, path) < 0.015
    assert np.abs(found.world_from_cam[:, :3, :3] - path[:, :3, :3]).max() < 0.01
    cam = np.einsum("ij,nj->ni", np.linalg.inv(path[0])[:3, :3], found.points_world)
    seen = cloud.tracks.visible[0]
    assert np.median(np.abs(cam[seen, 2] / cloud.depth_z[0, seen] - 1)) < 0.03


def test_a_turning_camera_without_depth_stays_a_turning_camera() -> None:
    cloud = Cloud(walk(8, travel_m=0.0, turn_rad=0.3))
    found = cloud.solved()
    assert found.motion == "turning" and not found.metric


def test_a_wrong_focal_length_is_named(cloud: Cloud) -> None:
    turned = Cloud(walk(16, travel_m=1.0, turn_rad=0.35))
    notes = turned.solved(focal=0.85 * FOCAL).notes
    assert len(notes) == 1 and "the given focal length of 238 px contradicts" in notes[0]
    assert not turned.solved(focal=FOCAL).notes


@pytest.mark.parametrize("factor", [3.0, 1 / 3])
def test_a_focal_length_far_from_the_truth_is_named_though_nothing_else_is_known(factor: float) -> None:
    for path in (walk(16, travel_m=1.0, turn_rad=0.35), walk(24, travel_m=1.5, turn_rad=-0.25)):
        notes = Cloud(path).solved(focal=factor * FOCAL).notes
        assert len(notes) == 1 and f"the given focal length of {factor * FOCAL:.0f} px contradicts" in notes[0]


def test_a_wrong_pose_is_named_and_let_go(cloud: Cloud) -> None:
    given = cloud.poses()
    wrong = given.world_from_cam.copy()
    wrong[5, :3, 3] += [0.4, 0.0, 0.0]
    found = cloud.solved(camera_motion=replace(given, world_from_cam=wrong))
    assert any("poses of 1 of 10 frames (5)" in note for note in found.notes)
    assert centre_error(found.world_from_cam, cloud.world_from_cam) < 0.02
    assert found.pose_off.argmax() == 5 and not found.given[5]


OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])


@pytest.mark.parametrize("turn_rad", [0.08, 0.15])
@pytest.mark.parametrize(
    ("written", "name"),
    [
        (lambda poses: poses @ OPENGL, "as OpenGL axes"),
        (np.linalg.inv, "as world-to-camera,"),
        (lambda poses: OPENGL @ np.linalg.inv(poses), "as world-to-camera in OpenGL axes"),
    ],
)
def test_poses_of_another_convention_are_one_sentence_and_do_no_harm(written, name: str, turn_rad: float) -> None:
    cloud = Cloud(walk(turn_rad=turn_rad, start=elsewhere()))
    given = cloud.poses()
    found = cloud.solved(camera_motion=replace(given, world_from_cam=written(given.world_from_cam)))
    assert len(found.notes) == 1 and name in found.notes[0]
    assert found.given.all() and found.metric
    assert centre_error(found.world_from_cam, cloud.world_from_cam) < 0.02


def test_poses_that_fit_in_no_convention_are_set_aside(cloud: Cloud) -> None:
    given = cloud.poses()
    mixed = given.world_from_cam[np.random.default_rng(0).permutation(len(given.world_from_cam))]
    found = cloud.solved(camera_motion=replace(given, world_from_cam=mixed))
    assert any("as a whole" in note for note in found.notes) and not found.given.any()


def test_poses_as_they_should_be_are_read_as_they_are(cloud: Cloud) -> None:
    assert not cloud.solved(camera_motion=cloud.poses()).notes
    assert not cloud.solved(camera_motion=cloud.poses([0, 5, 9])).notes


def test_depth_in_other_units_than_the_poses_is_named(cloud: Cloud) -> None:
    found = cloud.solved(depth=cloud.depth(scale=1.3), camera_motion=cloud.poses())
    assert any("the given depth is 1.3 times" in note for note in found.notes)
    assert centre_error(found.world_from_cam, cloud.world_from_cam) < 0.02


def test_a_depth_frame_that_is_off_is_named(cloud: Cloud) -> None:
    depth = cloud.depth()
    maps = depth.depth_z.copy()
    maps[7] *= 1.25
    found = cloud.solved(depth=replace(depth, depth_z=maps))
    assert any("depth of 1 of 10 frames (7)" in note for note in found.notes)
    assert centre_error(found.world_from_cam, local(cloud.world_from_cam)) < 0.02


def test_lengths_that_contradict_each_other_or_the_depth_are_named(cloud: Cloud) -> None:
    parts = [cloud.length(5, 60), cloud.length(80, 120), cloud.length(30, 100), cloud.length(11, 90, stated=1.6)]
    joined = KnownLengths(
        *(np.concatenate([getattr(p, n) for p in parts]) for n in ("frame", "uv", "length_m", "sigma_m")), SOURCE
    )
    notes = cloud.solved(lengths=joined).notes
    assert len(notes) == 1 and "the other lengths" in notes[0]
    notes = cloud.solved(lengths=cloud.length(5, 60, stated=1.5), depth=cloud.depth()).notes
    assert len(notes) == 1 and "the sensor depth" in notes[0]


def test_known_masks_keep_movers_out_and_inverted_ones_are_named() -> None:
    cloud = Cloud(walk(10, travel_m=0.8), points=1000, movers=160)
    ids = np.zeros((10, HEIGHT, WIDTH), np.uint8)
    for t, n in np.argwhere(cloud.tracks.visible[:, :160]):
        u, v = cloud.tracks.uv[t, n].astype(int)
        ids[t, v, u] = 1
    known = np.ones(10, bool)
    known[4] = False
    found = cloud.solved(moving=MovingMasks(ids, SOURCE, known=known))
    static = found.track_rms_px[160:]
    assert np.nanmedian(static) < 0.5 < np.nanmedian(found.track_rms_px[:220])
    still = Cloud(walk(10, travel_m=0.8), points=1400)
    half = np.zeros((10, HEIGHT, WIDTH), np.uint8)
    half[:, :, : WIDTH // 2] = 1
    assert any("moves like the static scene" in n for n in still.solved(moving=MovingMasks(half, SOURCE)).notes)


def test_nothing_to_go_by_is_refused(cloud: Cloud) -> None:
    nothing = replace(cloud.tracks, visible=np.zeros_like(cloud.tracks.visible))
    with pytest.raises(SolveFailed):
        rigid_scene(cloud.video, Observations(tracks=nothing), Journal("none"), FEW)


def test_views_too_far_apart_are_refused_with_that_reason(cloud: Cloud) -> None:
    visible = np.zeros_like(cloud.tracks.visible)
    for t in range(len(visible)):
        visible[t, 60 * t : 60 * t + 65] = True
    with pytest.raises(SolveFailed, match=r"9 of 9 pairs share fewer than 16, frames 0 and 1 share 5"):
        rigid_scene(cloud.video, Observations(tracks=replace(cloud.tracks, visible=visible)), Journal("far"), FEW)


def test_the_motion_keeps_what_was_given_and_says_so(cloud: Cloud) -> None:
    motion = camera_motion_of(cloud.solved(camera_motion=cloud.poses([0, -1])))
    assert motion.metric and not motion.partial
    assert np.flatnonzero(motion.given_frames).tolist() == [0, 9]
    assert np.array_equal(motion.world_from_cam[0], cloud.world_from_cam[0])
    assert motion.sigma_m == pytest.approx(0.01)


def test_a_focal_length_known_well_is_kept_though_the_lens_bends_the_tracks() -> None:
    bent = Cloud(walk(turn_rad=0.3), points=400)
    uv = bent.tracks.uv - np.float32([WIDTH / 2, HEIGHT / 2])
    uv *= 1 - 0.25 * (uv**2).sum(-1, keepdims=True) / FOCAL**2
    seen = structure.Tracks(
        torch.from_numpy(uv + np.float32([WIDTH / 2, HEIGHT / 2])), torch.from_numpy(bent.tracks.visible),
        torch.full(bent.tracks.visible.shape, 0.3), torch.from_numpy(bent.depth_z).float().log(),
        torch.full(bent.tracks.visible.shape, 0.01), 0.005,
    )  # fmt: skip
    start = structure.Cameras(
        torch.from_numpy(bent.world_from_cam).float(), torch.tensor([FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2]),
        torch.zeros(len(bent.world_from_cam), 1),
    )  # fmt: skip

    def off(known: bool) -> float:
        found = structure.bundle_cameras(
            seen, bent.tracks.query_frame, start, structure.Bundling(), focal_sigma=0.005, focal_known=known
        )
        return abs(float(found.cameras.intrinsics[0]) / FOCAL - 1)

    assert off(known=True) < 0.005 < 0.015 < off(known=False)
