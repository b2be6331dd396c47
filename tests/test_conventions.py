"""One test per numbered sentence of docs/conventions.md; the number is in the name."""

import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from worldline.errors import InputError
from worldline.evaluate.alignment import align_points
from worldline.evaluate.masks import region_similarity
from worldline.evaluate.paths import path_scores
from worldline.evaluate.protocols import PROTOCOLS
from worldline.evaluate.report import evaluate
from worldline.geometry import camera, depth, doppler, pixels, se3, sim3
from worldline.geometry.camera import Camera
from worldline.scene.motion import WorldTracks
from worldline.scene.observations import Source
from worldline.scene.scene import Scene
from worldline.scene.sensor_readings import ImuSamples, RadarReturns
from worldline.scene.video import Video
from worldline.solve.radar_maps import CAM_FROM_FORWARD
from worldline.solve.strapdown import imu_motion
from worldline.synthetic import tiny_world
from worldline.synthetic.radar import radial_speed

DOC = Path(__file__).parents[1] / "docs" / "conventions.md"
K = torch.tensor([100.0, 100, 40, 30], dtype=torch.float64)


def vector(*values):
    return torch.tensor(values, dtype=torch.float64)


def motion(seed):
    return se3.exp(torch.randn(6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64))


def small_scene(**changes) -> Scene:
    shape = (3, 6, 8)
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[:, 0, 3], poses[:, 1, 3] = [0, 1, 2], [0, 0, 0.5]
    scene = Scene(
        times_s=np.arange(3.0),
        camera=Camera.from_focal(8.0, 8, 6),
        world_from_cam=poses,
        depth_z=np.full(shape, 2.0, np.float32),
        depth_sigma=np.full(shape, 0.05, np.float32),
        valid=np.ones(shape, bool),
        moving=np.zeros(shape, np.uint8),
    )
    return replace(scene, **changes)


def test_every_sentence_has_a_test_and_every_test_a_sentence():
    said = [int(n) for n in re.findall(r"^(\d+)\. ", DOC.read_text(), re.M)]
    tested = [int(n) for n in re.findall(r"^def test_(\d+)_", Path(__file__).read_text(), re.M)]
    assert said == tested == list(range(1, len(said) + 1))


def test_01_camera_axes_x_right_y_down_z_forward():
    ahead, right, below = vector(0, 0, 2), vector(0.1, 0, 2), vector(0, 0.1, 2)
    assert camera.project(ahead, K).tolist() == [40, 30]
    assert camera.project(right, K)[0] > 40 and camera.project(below, K)[1] > 30


def test_02_a_from_b_maps_b_to_a_and_chains():
    a_from_b, b_from_c, points_c = motion(1), motion(2), torch.ones(1, 3, dtype=torch.float64)
    torch.testing.assert_close(
        se3.apply(a_from_b @ b_from_c, points_c), se3.apply(a_from_b, se3.apply(b_from_c, points_c))
    )


def test_03_the_last_column_of_a_pose_is_the_camera_centre():
    scene = small_scene()
    assert scene.world_from_cam.dtype == np.float64
    np.testing.assert_array_equal(scene.centres_world[2], [2, 0.5, 0])
    origin = se3.apply(torch.from_numpy(scene.world_from_cam[2]), torch.zeros(1, 3, dtype=torch.float64))
    np.testing.assert_array_equal(origin[0], scene.centres_world[2])


def test_04_points_are_rows():
    m, x = motion(3), vector(1, 2, 3)
    torch.testing.assert_close(se3.apply(m, x[None])[0], m[:3, :3] @ x + m[:3, 3])


def test_05_quaternions_are_scalar_first_and_tum_is_scalar_last():
    half_turn_about_z = torch.diag(vector(-1, -1, 1))
    quarter = math.sqrt(0.5)
    assert se3.quaternion_wxyz(torch.eye(3, dtype=torch.float64)).tolist() == [1, 0, 0, 0]
    assert abs(se3.quaternion_wxyz(half_turn_about_z)[3]) == 1
    torch.testing.assert_close(
        se3.rotation_from_wxyz(vector(quarter, quarter, 0, 0)) @ vector(0, 1, 0), vector(0, 0, 1)
    )
    assert se3.xyzw_from_wxyz(vector(1, 2, 3, 4)).tolist() == [2, 3, 4, 1]
    assert se3.wxyz_from_xyzw(vector(2, 3, 4, 1)).tolist() == [1, 2, 3, 4]


def test_06_tangent_vectors_are_translation_first():
    moved, turned = se3.exp(vector(1, 2, 3, 0, 0, 0)), se3.exp(vector(0, 0, 0, 0, 0, 0.5))
    assert moved[:3, 3].tolist() == [1, 2, 3] and torch.equal(moved[:3, :3], torch.eye(3, dtype=torch.float64))
    assert turned[:3, 3].tolist() == [0, 0, 0] and turned[1, 0].item() == pytest.approx(math.sin(0.5))


def test_07_rotations_follow_the_right_hand():
    turned = se3.so3_exp(vector(0, 0, math.pi / 2)) @ vector(1, 0, 0)
    torch.testing.assert_close(turned, vector(0, 1, 0))


def test_08_the_logarithm_takes_the_short_way():
    assert se3.so3_log(se3.so3_exp(vector(0, 0, 4.0)))[2].item() == pytest.approx(4 - 2 * math.pi)


def test_09_a_similarity_scales_centres_and_not_rotations():
    rotation = motion(4)[:3, :3]
    s = sim3.Sim3(vector(3).squeeze(), rotation, vector(1, 0, 0))
    torch.testing.assert_close(s.apply(vector(1, 2, 3)[None])[0], 3 * rotation @ vector(1, 2, 3) + vector(1, 0, 0))
    out = s.apply_to_cameras(motion(5)[None])[0, :3, :3]
    torch.testing.assert_close(out @ out.T, torch.eye(3, dtype=torch.float64))


def test_10_pixel_centres_are_at_a_half():
    uv = pixels.centres(3, 4)
    assert uv[0, 0].tolist() == [0.5, 0.5] and uv[-1, -1].tolist() == [3.5, 2.5]
    assert pixels.inside(torch.tensor([[0.0, 0.0], [4.0, 3.0]]), 3, 4).all()
    assert not pixels.inside(torch.tensor([[-0.1, 0.0], [4.1, 3.0]]), 3, 4).any()


def test_11_u_is_the_column_and_v_the_row():
    image = torch.zeros(3, 4)
    image[2, 1] = 7
    assert pixels.sample(image, torch.tensor([1.5, 2.5])) == 7
    assert [int(i) for i in pixels.indices(torch.tensor([1.5, 2.5]), 3, 4)] == [2, 1]


def test_12_a_resize_is_a_pure_scale():
    small = Camera(K.numpy(), 80, 60).resized(40, 20)
    np.testing.assert_allclose(small.intrinsics, K.numpy() * [1 / 2, 1 / 3, 1 / 2, 1 / 3])
    corners = pixels.centres(2, 2) * torch.tensor([80 / 2, 60 / 2])
    assert corners[0, 0].tolist() == [20, 15] and corners[1, 1].tolist() == [60, 45]


def test_13_integer_centres_are_ours_minus_a_half():
    assert pixels.to_integer_centres(torch.tensor([0.5, 0.5])).tolist() == [0, 0]
    assert pixels.from_integer_centres(np.array([3.0, 4.0])).tolist() == [3.5, 4.5]


def test_14_intrinsics_are_fx_fy_cx_cy_and_the_middle_is_the_default():
    assert Camera.from_focal(100, 80, 60).intrinsics.tolist() == [100, 100, 40, 30]
    assert Camera(K.numpy(), 80, 60).matrix().tolist() == [[100, 0, 40], [0, 100, 30], [0, 0, 1]]
    per_frame = Camera(np.stack([K.numpy(), 2 * K.numpy()]), 80, 60)
    assert per_frame.at(1).tolist() == [200, 200, 80, 60]


def test_15_distortion_is_k1_k2_p1_p2_k3_on_normalised_coordinates():
    xy = vector(0.5, 0)
    assert camera.distort(xy, (0.1, 0))[0].item() == pytest.approx(0.5 * (1 + 0.1 * 0.25))
    assert camera.distort(xy, (0, 0, 0.1, 0))[1].item() == pytest.approx(0.1 * 0.25)
    assert camera.distort(xy, (0, 0, 0, 0.1))[0].item() == pytest.approx(0.5 + 0.1 * 3 * 0.25)
    assert camera.distort(xy, (0, 0, 0, 0, 0.1))[0].item() == pytest.approx(0.5 * (1 + 0.1 * 0.25**3))


def test_16_depth_z_is_along_the_optical_axis():
    points = depth.points_cam(torch.full((60, 80), 2.0, dtype=torch.float64), K)
    assert (points[..., 2] == 2).all() and points[0, 0].norm() > 2


def test_17_depth_ray_is_the_distance_from_the_centre():
    depth_z = torch.full((60, 80), 2.0, dtype=torch.float64)
    torch.testing.assert_close(depth.depth_ray_from_z(depth_z, K), depth.points_cam(depth_z, K).norm(dim=-1))


def test_18_a_pixel_that_is_not_valid_has_no_point():
    valid = np.ones((3, 6, 8), bool)
    valid[0, 1, 2] = False
    points = small_scene(valid=valid).points_world(0)
    assert np.isnan(points[1, 2]).all() and np.isfinite(points[valid[0]]).all()
    unknown = np.full((3, 6, 8), 2.0, np.float32)
    unknown[0, 0, 0], unknown[0, 0, 1] = 0, np.nan
    assert evaluate(small_scene(), small_scene(depth_z=unknown)).metrics["depth_coverage"] == 1


def test_19_sigma_of_depth_does_not_depend_on_the_scale():
    rng = np.random.default_rng(0)
    noisy = 7.0 * np.exp(0.05 * rng.standard_normal(100_000))
    assert np.log(noisy).std() == pytest.approx(0.05, rel=0.02) and noisy.std() / 7 == pytest.approx(0.05, rel=0.02)


def test_20_masks_are_zero_where_static_and_count_objects():
    one, other = np.zeros((1, 2, 2), np.uint8), np.zeros((1, 2, 2), np.uint8)
    one[0, 0], other[0, 0] = 1, 2
    assert region_similarity(one, other)[0] == 1
    assert small_scene().moving.dtype == np.uint8


@pytest.mark.usefixtures("production")
def test_21_tracks_are_frame_first_with_nan_where_nothing_is_claimed():
    points = np.zeros((3, 5, 3), np.float32)
    points[1, 2] = np.nan
    flags, sigma = np.ones((3, 5), bool), np.ones((3, 5), np.float32)
    tracks = WorldTracks(points, flags, sigma, np.zeros((5, 3), np.uint8), np.zeros(5, bool), np.zeros(5, int))
    assert len(tracks) == 5
    with pytest.raises(InputError):
        replace(tracks, visible=flags.T)


def test_22_a_scene_is_metric_only_when_it_says_so():
    scene = small_scene()
    assert not scene.metric and scene.metric_source == "unknown scale"
    assert "scale_error_pct" not in evaluate(scene, scene).metrics
    assert "scale_error_pct" in evaluate(replace(scene, metric=True), scene).metrics


def test_23_angles_are_radians_unless_named_in_degrees():
    assert se3.angle_rad(se3.so3_exp(vector(0, 0, 0.3))).item() == pytest.approx(0.3)
    assert Camera.from_fov_deg(90, 80, 60).focal == pytest.approx(40)


@pytest.mark.usefixtures("production")
def test_24_time_is_seconds_and_rises():
    frames = np.zeros((3, 4, 5, 3), np.uint8)
    assert Video(frames, [0, 0.04, 0.5]).times_s.dtype == np.float64
    for stamps in ([0, 0, 1], [1, 0, 2], [0, 1, np.nan]):
        with pytest.raises(InputError, match="strictly increasing"):
            Video(frames, stamps)


@pytest.mark.usefixtures("production")
def test_25_images_are_uint8_rgb():
    frames = np.zeros((1, 1, 3, 3), np.uint8)
    frames[0, 0] = 255 * np.eye(3)
    red, green, blue = Video(frames, [0.0]).grey()[0, 0]
    assert green > red > blue
    with pytest.raises(InputError, match="uint8"):
        Video(frames.astype(float), [0.0])


def test_26_original_from_stored_maps_uv_of_the_stored_image():
    frames = np.zeros((1, 4, 8, 3), np.uint8)
    assert np.array_equal(Video(frames, np.zeros(1)).original_from_stored, np.eye(3))
    half = Video(frames, np.zeros(1), original_from_stored=np.diag([2.0, 2, 1]), original_size=(16, 8))
    corner = half.original_from_stored @ [half.width, half.height, 1]
    assert tuple(corner[:2]) == half.original_size


def test_27_alignment_takes_the_estimate_to_the_truth_and_is_named():
    truth = np.random.default_rng(0).normal(size=(9, 3))
    found = align_points(truth / 2 - [1, 0, 0], truth)
    assert found.scale == pytest.approx(2) and found.translation == pytest.approx([2, 0, 0])
    assert evaluate(small_scene(), small_scene()).alignment["path"] == found.name == "sim3"


def test_28_depth_takes_one_median_scale_per_video():
    assert PROTOCOLS["default"].depth_alignment == "median"
    depth_z = np.full((3, 6, 8), 4.0, np.float32)
    depth_z[0] *= 2
    metrics = evaluate(small_scene(depth_z=depth_z), small_scene()).metrics
    assert metrics["depth_abs_rel"] == pytest.approx(1 / 3)


def test_29_what_is_not_defined_is_nan_and_null():
    assert math.isnan(path_scores(np.eye(4)[None], np.eye(4)[None]).rpe_t_m)
    still = small_scene(world_from_cam=np.tile(np.eye(4), (3, 1, 1)))
    assert json.loads(json.dumps(evaluate(still, still).as_json()))["metrics"]["ate_pct"] is None


def test_30_radial_speed_is_positive_for_what_moves_away():
    ahead = tiny_world(path="forward", frames=2, width=24, height=16, movers=False)
    behind = tiny_world(path="backward", frames=2, width=24, height=16, movers=False)
    assert np.nanmax(radial_speed(ahead, 0)) < 0 < np.nanmin(radial_speed(behind, 0))
    point, velocity = torch.tensor([0.0, 0, 2]), torch.tensor([5.0, 0, 3])
    assert float(doppler.radial_speed(point, velocity)) == 3
    assert float(doppler.static_speed(torch.tensor([0.0, 0, 1]), velocity)) == -3


def test_31_radars_look_along_x_with_y_left_and_z_up():
    angle = np.array([0.0, np.pi / 2, 0])
    one, none = np.ones(3), np.full(3, np.nan)
    returns = RadarReturns(
        np.zeros(3), np.zeros(3, int), angle, np.array([0.0, 0, np.pi / 2]), one, none, none, Source("radar")
    )
    np.testing.assert_allclose(returns.points_radar, np.eye(3), atol=1e-12)
    np.testing.assert_allclose(CAM_FROM_FORWARD[:3, :3], [[0, -1, 0], [0, 0, -1], [1, 0, 0]])


def test_32_an_accelerometer_at_rest_reads_upwards():
    force = np.tile([0.0, -9.81, 0], (200, 1))  # y down, as a camera has it
    samples = ImuSamples(np.arange(200) / 100, np.zeros((200, 3)), force, Source("imu"))
    found = imu_motion(samples, np.array([0.5, 1.0]))
    np.testing.assert_allclose(found.world_from_cam[0, :3, :3] @ [0, -1, 0], [0, 0, 1], atol=1e-9)


def test_33_radial_motion_is_metres_until_the_next_frame_in_time():
    seconds = doppler.intervals_s(torch.tensor([0.0, 0.1, 0.4]))
    np.testing.assert_allclose(seconds, [0.1, 0.3, 0.3], rtol=1e-6)
    along = doppler.radial_displacement(torch.tensor([2.0]), seconds[:1], torch.tensor([[0.0, 3, 4]]))
    np.testing.assert_allclose(along, [[0, 0.12, 0.16]], rtol=1e-6)
