"""Geometry: group axioms, exp and log at their hard places, derivatives, round trips, invariances."""

import math

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.errors import InputError
from worldline.geometry import camera, depth, pixels, rays, se3, sim3
from worldline.geometry.camera import Camera

quick = settings(max_examples=25, deadline=None)
seeds = st.integers(0, 2**31)
directions = st.tuples(*[st.floats(-1, 1)] * 3).filter(lambda v: math.hypot(*v) > 0.1)


def normal(seed, *shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def close(a, b, atol=1e-9):
    torch.testing.assert_close(a, b, atol=atol, rtol=1e-9)


def rotation_vector(direction, angle):
    v = torch.tensor(direction, dtype=torch.float64)
    return angle * v / v.norm()


# rigid motions


@quick
@given(seeds)
def test_motions_form_a_group(seed):
    a, b, c = se3.exp(normal(seed, 3, 6))
    eye = torch.eye(4, dtype=torch.float64)
    close((a @ b) @ c, a @ (b @ c))
    close(a @ se3.inverse(a), eye)
    close(se3.inverse(a) @ a, eye)
    close(se3.inverse(a @ b), se3.inverse(b) @ se3.inverse(a))
    close(torch.det((a @ b)[:3, :3]), torch.tensor(1.0, dtype=torch.float64))


@quick
@given(seeds)
def test_a_composed_motion_acts_like_one_after_the_other(seed):
    a, b = se3.exp(normal(seed, 2, 6))
    points = normal(seed + 1, 7, 3)
    close(se3.apply(a @ b, points), se3.apply(a, se3.apply(b, points)))
    distance = torch.cdist(points, points)
    close(torch.cdist(se3.apply(a, points), se3.apply(a, points)), distance, 1e-7)


@quick
@given(
    directions,
    st.sampled_from([0.0, 1e-12, 1e-9, 1e-6, 9e-4, 1.1e-3, 0.1, 1.0, 3.0, 3.14, math.pi - 1e-6, math.pi - 1e-9]),
)
def test_log_undoes_exp_from_zero_to_pi(direction, angle):
    phi = rotation_vector(direction, angle)
    close(se3.so3_log(se3.so3_exp(phi)), phi, 1e-7)
    xi = torch.cat([torch.tensor([1.0, -2, 3], dtype=torch.float64), phi])
    close(se3.log(se3.exp(xi)), xi, 1e-6)


@quick
@given(directions)
def test_log_at_pi_gives_one_of_the_two_vectors_of_that_rotation(direction):
    rotation = se3.so3_exp(rotation_vector(direction, math.pi))
    phi = se3.so3_log(rotation)
    assert phi.norm().item() == pytest.approx(math.pi)
    close(se3.so3_exp(phi), rotation, 1e-7)


@quick
@given(directions, st.floats(3.2, 6.2))
def test_log_takes_the_short_way(direction, angle):
    phi = se3.so3_log(se3.so3_exp(rotation_vector(direction, angle)))
    close(phi, rotation_vector(direction, angle - 2 * math.pi), 1e-7)


@pytest.mark.parametrize("scale", [1e-8, 1e-4, 1.0])
def test_exp_is_the_matrix_exponential(scale):
    xi = scale * normal(3, 6)
    generator = torch.zeros(4, 4, dtype=torch.float64)
    generator[:3, :3], generator[:3, 3] = se3.hat(xi[3:]), xi[:3]
    close(se3.exp(xi), torch.linalg.matrix_exp(generator), 1e-12)


@pytest.mark.parametrize("scale", [0.0, 1e-5, 0.9])
def test_the_derivative_of_exp_agrees_with_finite_differences(scale):
    xi = (scale * normal(5, 6)).requires_grad_()
    exact = torch.autograd.functional.jacobian(se3.exp, xi.detach())
    h = 1e-6 * torch.eye(6, dtype=torch.float64)
    numeric = torch.stack([(se3.exp(xi + e) - se3.exp(xi - e)) / 2e-6 for e in h], -1).detach()
    assert exact.isfinite().all()
    close(exact, numeric, 1e-7)


def test_the_derivative_of_log_is_finite_at_zero_and_right_elsewhere():
    at_zero = torch.autograd.functional.jacobian(se3.so3_log, torch.eye(3, dtype=torch.float64))
    assert at_zero.isfinite().all()
    through = torch.autograd.functional.jacobian(lambda x: se3.log(se3.exp(x)), 0.7 * normal(6, 6))
    close(through, torch.eye(6, dtype=torch.float64), 1e-7)


@quick
@given(directions, st.floats(0, math.pi))
def test_the_angle_is_exact_also_for_tiny_rotations(direction, angle):
    for a in (angle, 1e-9 * angle):
        assert se3.angle_rad(se3.so3_exp(rotation_vector(direction, a))).item() == pytest.approx(a, rel=1e-6, abs=1e-15)


@quick
@given(seeds)
def test_hat_is_the_cross_product(seed):
    a, b = normal(seed, 2, 3)
    close(se3.hat(a) @ b, torch.linalg.cross(a, b))


@quick
@given(seeds)
def test_quaternions_go_round_and_both_signs_are_one_rotation(seed):
    rotation = se3.so3_exp(3 * normal(seed, 5, 3))
    q = se3.quaternion_wxyz(rotation)
    close(q.norm(dim=-1), torch.ones(5, dtype=torch.float64))
    close(se3.rotation_from_wxyz(q), rotation)
    close(se3.rotation_from_wxyz(-3 * q), rotation)
    close(se3.wxyz_from_xyzw(se3.xyzw_from_wxyz(q)), q)


@quick
@given(seeds, st.floats(0.1, 10))
def test_the_nearest_rotation_of_a_scaled_rotation_is_itself(seed, scale):
    rotation = se3.so3_exp(normal(seed, 3))
    close(se3.nearest_rotation(scale * rotation), rotation)
    other = se3.nearest_rotation(normal(seed, 3, 3))
    assert torch.det(other).item() == pytest.approx(1)


@quick
@given(seeds, st.floats(0, 1))
def test_interpolation_meets_its_ends_and_is_the_same_backwards(seed, share):
    a, b = se3.exp(0.8 * normal(seed, 2, 6))
    s = torch.tensor(share, dtype=torch.float64)
    close(se3.interpolate(a, b, s), se3.interpolate(b, a, 1 - s), 1e-7)
    close(se3.interpolate(a, b, torch.tensor(0.0, dtype=torch.float64)), a)
    close(se3.interpolate(a, b, torch.tensor(1.0, dtype=torch.float64)), b, 1e-7)


def test_float32_stays_float32_and_batches_are_free():
    xi = normal(1, 2, 3, 6).float()
    motion = se3.exp(xi)
    assert motion.dtype == torch.float32 and motion.shape == (2, 3, 4, 4)
    torch.testing.assert_close(se3.log(motion), xi, atol=1e-4, rtol=1e-4)


# similarities


@quick
@given(seeds, st.floats(0.01, 100))
def test_the_fit_finds_a_similarity_and_its_scale(seed, scale):
    points = normal(seed, 20, 3)
    true = sim3.Sim3(torch.tensor(scale, dtype=torch.float64), se3.so3_exp(normal(seed, 3)), normal(seed + 1, 3))
    found = sim3.fit(true.apply(points), points)
    close(found.rotation, true.rotation, 1e-8)
    torch.testing.assert_close(found.scale, true.scale, rtol=1e-9, atol=0)
    torch.testing.assert_close(found.apply(points), true.apply(points), rtol=1e-8, atol=1e-8)


@quick
@given(seeds)
def test_no_near_similarity_fits_better_than_the_fit(seed):
    a, b = normal(seed, 2, 10, 3)
    weight = normal(seed + 2, 10).abs() + 0.1

    def cost(s):
        return (weight * (s.apply(b) - a).square().sum(-1)).sum().item()

    best = sim3.fit(a, b, weight=weight)
    turn, shift = se3.so3_exp(0.01 * normal(seed + 3, 3)), 0.01 * normal(seed + 4, 3)
    for other in (
        best._replace(scale=1.01 * best.scale),
        best._replace(rotation=turn @ best.rotation),
        best._replace(translation=best.translation + shift),
    ):
        assert cost(best) <= cost(other)


@quick
@given(seeds)
def test_weights_of_zero_leave_points_out(seed):
    a, b = normal(seed, 2, 12, 3)
    weight = torch.ones(12, dtype=torch.float64)
    weight[8:] = 0
    for x, y in zip(sim3.fit(a, b, weight=weight), sim3.fit(a[:8], b[:8]), strict=True):
        close(x, y)


@pytest.mark.parametrize("flat", [0, 1, 2])
def test_the_fit_of_mirrored_planar_linear_or_equal_points_is_still_a_rotation(flat):
    points = normal(4, 10, 3)
    points[:, 2 - flat :] = 0
    found = sim3.fit(-points, points)
    assert torch.det(found.rotation).item() == pytest.approx(1)
    close(found.rotation @ found.rotation.T, torch.eye(3, dtype=torch.float64))
    assert torch.isfinite(sim3.fit(points[:1], points[:1]).translation).all()


def test_poses_move_like_their_points():
    pose = se3.exp(normal(1, 6))
    s = sim3.Sim3(torch.tensor(2.0, dtype=torch.float64), se3.so3_exp(normal(2, 3)), normal(3, 3))
    points_cam = normal(4, 5, 3)
    close(se3.apply(s.apply_to_cameras(pose), 2 * points_cam), s.apply(se3.apply(pose, points_cam)))


# cameras


@quick
@given(seeds)
def test_unproject_undoes_project(seed):
    points = normal(seed, 9, 3)
    points[:, 2] = points[:, 2].abs() + 0.5
    intrinsics = torch.tensor([500.0, 510, 320, 240], dtype=torch.float64)
    close(camera.unproject(camera.project(points, intrinsics), points[:, 2], intrinsics), points)


@quick
@given(seeds, st.floats(0.1, 10))
def test_projection_ignores_the_distance_along_the_ray(seed, factor):
    points = normal(seed, 9, 3)
    points[:, 2] = points[:, 2].abs() + 0.5
    intrinsics = torch.tensor([500.0, 510, 320, 240], dtype=torch.float64)
    torch.testing.assert_close(camera.project(factor * points, intrinsics), camera.project(points, intrinsics))


def test_project_is_the_matrix_of_the_camera():
    cam = Camera.from_fov_deg(60, 640, 480)
    point = torch.tensor([0.3, -0.2, 2.0], dtype=torch.float64)
    homogeneous = torch.from_numpy(cam.matrix()) @ point
    close(camera.project(point, torch.from_numpy(cam.at(0))), homogeneous[:2] / homogeneous[2])
    assert cam.fov_deg == pytest.approx(60)


@quick
@given(seeds, st.sampled_from([2, 4, 5]))
def test_undistort_undoes_distort(seed, count):
    k = (0.1 * normal(seed, 5).clamp(-1, 1)).tolist()
    distortion = tuple(k[i] / (1 if i < 2 else 10) for i in range(count))
    xy = 0.4 * normal(seed + 1, 20, 2).clamp(-1, 1)
    close(camera.undistort(camera.distort(xy, distortion), distortion), xy, 1e-7)
    close(camera.distort(xy, ()), xy)


@pytest.mark.parametrize("distortion", [(), (0.2, -0.1), (-0.25, 0.06, 1e-3, -1e-3, 0.01)])
def test_pixels_of_a_zooming_real_camera_go_to_one_pinhole_and_back(distortion):
    random = np.random.default_rng(0)
    focal = np.linspace(400, 900, 5)[:, None]
    lens = camera.Camera(np.hstack([focal, focal, np.full((5, 2), [320, 240])]), 640, 480, distortion)
    reference = np.array([500.0, 510, 300, 200])
    points = random.uniform([-0.3, -0.2, 1], [0.3, 0.2, 3], (5, 7, 3))
    seen = camera.distort(torch.from_numpy(points[..., :2] / points[..., 2:]), distortion).numpy()
    seen = seen * lens.intrinsics[:, None, :2] + lens.intrinsics[:, None, 2:]
    ideal = camera.ideal_uv(seen, lens, reference)
    expected = points[..., :2] / points[..., 2:] * reference[:2] + reference[2:]
    assert np.allclose(ideal, expected, atol=1e-5)
    assert np.allclose(camera.real_uv(ideal, lens, reference), seen, atol=1e-5)


def test_points_of_a_distorting_lens_project_back_to_their_pixels():
    distortion, intrinsics = (0.2, -0.1, 1e-3, 2e-3), torch.tensor([60.0, 60, 40, 30], dtype=torch.float64)
    points = depth.points_cam(torch.full((60, 80), 2.0, dtype=torch.float64), intrinsics, distortion)
    uv = camera.distort(points[..., :2] / points[..., 2:], distortion) * intrinsics[:2] + intrinsics[2:]
    close(uv, pixels.centres(60, 80, dtype=torch.float64), 1e-6)


def test_undistorting_far_outside_of_the_image_stays_finite():
    xy = torch.tensor([[3.0, 2.0], [30.0, -20.0], [1e4, 0.0]])
    ideal = camera.undistort(xy, (0.18, -0.29))
    assert bool((ideal.norm(dim=-1) <= 2.001 * xy.norm(dim=-1)).all())


def test_distortion_agrees_with_opencv():
    distortion = (0.2, -0.1, 0.003, -0.002, 0.05)
    xy = 0.5 * normal(1, 30, 2)
    eye, points = torch.eye(3).numpy(), torch.cat([xy, torch.ones(30, 1)], -1).numpy()
    expected, _ = cv2.projectPoints(points, (0, 0, 0), (0, 0, 0), eye.astype(float), distortion)
    close(camera.distort(xy, distortion), torch.from_numpy(expected[:, 0]))


def test_a_resized_camera_sees_the_same_rays():
    cam = Camera.from_focal(500.0, 640, 480)
    small = cam.resized(160, 96)
    uv = torch.tensor([100.0, 200], dtype=torch.float64)
    scaled = uv * torch.tensor([160 / 640, 96 / 480], dtype=torch.float64)
    close(camera.rays_z1(uv, torch.from_numpy(cam.at(0))), camera.rays_z1(scaled, torch.from_numpy(small.at(0))))


@pytest.mark.parametrize("bad", [[1, 2, 3], [-1, 1, 0, 0], [1, math.nan, 0, 0], [[[1, 1, 0, 0]]]])
@pytest.mark.usefixtures("production")
def test_intrinsics_that_are_none_are_refused(bad):
    with pytest.raises(InputError):
        Camera(bad, 10, 10)
    with pytest.raises(InputError, match="distortion"):
        Camera([1, 1, 0, 0], 10, 10, (0.1,))


# pixels, depth, rays


def test_sampling_at_centres_gives_the_pixels_and_between_them_the_mean():
    image = normal(1, 5, 7)
    uv = pixels.centres(5, 7, dtype=torch.float64)
    close(pixels.sample(image, uv), image)
    close(pixels.sample(image, uv[:, :-1] + torch.tensor([0.5, 0.0])), (image[:, 1:] + image[:, :-1]) / 2)
    row, column = pixels.indices(uv, 5, 7)
    close(image[row, column], image)
    assert pixels.inside(uv, 5, 7, margin=0.5).all() and not pixels.inside(uv, 5, 7, margin=0.6).all()


@quick
@given(seeds)
def test_sampling_a_linear_image_is_exact_inside(seed):
    a, b, c = normal(seed, 3)
    uv = pixels.centres(6, 8, dtype=torch.float64)
    image = a * uv[..., 0] + b * uv[..., 1] + c
    at = 0.5 + torch.rand(20, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * torch.tensor(
        [7, 5]
    )
    close(pixels.sample(image, at), at @ torch.stack([a, b]) + c)


@pytest.mark.parametrize("size", [(5, 7), (1, 7), (5, 1), (1, 1)])
def test_sampling_frames_equals_sampling_each_frame(size):
    maps = normal(2, 3, *size)
    frame = torch.tensor([0, 1, 2, 1])
    uv = 8 * torch.rand(4, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    expected = torch.stack([pixels.sample(maps[f], x) for f, x in zip(frame, uv, strict=True)])
    close(pixels.sample_frames(maps, frame, uv), expected)


def test_sampling_keeps_channels_and_clamps_outside():
    image = normal(3, 4, 5, 2)
    far = torch.tensor([[-9.0, -9.0], [99.0, 99.0]], dtype=torch.float64)
    close(pixels.sample(image, far), torch.stack([image[0, 0], image[-1, -1]]))


@quick
@given(seeds)
def test_depth_along_the_axis_and_along_the_ray_convert_both_ways(seed):
    intrinsics = torch.tensor([6.0, 7, 4, 3], dtype=torch.float64)
    depth_z = normal(seed, 6, 8).abs() + 0.1
    depth_ray = depth.depth_ray_from_z(depth_z, intrinsics)
    close(depth.depth_z_from_ray(depth_ray, intrinsics), depth_z)
    points = depth.points_cam(depth_z, intrinsics)
    close(points[..., 2], depth_z)
    close(points.norm(dim=-1), depth_ray)


def test_world_points_are_camera_points_moved_by_the_pose():
    intrinsics = torch.tensor([6.0, 7, 4, 3], dtype=torch.float64)
    depth_z, pose = normal(1, 6, 8).abs() + 0.1, se3.exp(normal(2, 6))
    moved = depth.points_world(depth_z, intrinsics, pose)
    close(se3.apply(se3.inverse(pose), moved.reshape(-1, 3)), depth.points_cam(depth_z, intrinsics).reshape(-1, 3))


@quick
@given(seeds)
def test_rays_to_a_point_meet_in_it_and_a_ray_of_no_weight_does_not_matter(seed):
    centres, points = normal(seed, 4, 3), 5 * normal(seed + 1, 6, 3)
    directions = torch.nn.functional.normalize(points - centres[:, None], dim=-1)
    weight = torch.ones(4, 6, dtype=torch.float64)
    weight[3], directions[3] = 0, torch.nn.functional.normalize(normal(seed + 2, 6, 3), dim=-1)
    found, spread = rays.nearest_points(centres, directions, weight)
    close(found[spread > 1e-3], points[spread > 1e-3], 1e-4)


def test_parallel_rays_determine_nothing_and_say_so():
    centres = torch.tensor([[0.0, 0, 0], [1, 0, 0]], dtype=torch.float64)
    directions = torch.tensor([0.0, 0, 1], dtype=torch.float64).expand(2, 1, 3)
    points, spread = rays.nearest_points(centres, directions, torch.ones(2, 1, dtype=torch.float64))
    assert spread.item() == pytest.approx(0, abs=1e-12) and points.isfinite().all()
