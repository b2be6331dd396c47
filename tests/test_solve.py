"""The solver against truth, finite differences, a dense twin and scipy."""

import pytest
import torch
from scipy import optimize

from worldline.errors import SolveFailed
from worldline.geometry import camera, se3
from worldline.solve import bundle, terms
from worldline.solve.methods import Dense
from worldline.solve.problem import Stop, Term, forward_jacobian, minimise, retract, total_cost
from worldline.solve.robust import Cauchy, GemanMcClure, Huber, Square
from worldline.solve.schur import Schur


def world(frames=6, count=40, noise_px=0.0, seed=0, dtype=torch.float64):
    g = torch.Generator().manual_seed(seed)
    points = torch.rand(count, 3, generator=g, dtype=dtype) * torch.tensor([4.0, 3, 3]) + torch.tensor([-2, -1.5, 3])
    xi = torch.randn(frames, 6, generator=g, dtype=dtype) * torch.tensor([0.3, 0.3, 0.3, 0.05, 0.05, 0.05])
    xi[0] = 0
    world_from_cam = se3.exp(xi)
    k = torch.tensor([400.0, 400, 320, 240], dtype=dtype)
    frame, point = torch.meshgrid(torch.arange(frames), torch.arange(count), indexing="ij")
    keep = torch.rand(frames, count, generator=g) < 0.8
    frame, point = frame[keep], point[keep]
    uv = camera.project(terms.in_camera(world_from_cam[frame], points[point]), k)
    uv = uv + noise_px * torch.randn(uv.shape, generator=g, dtype=dtype)
    samples = terms.PixelSamples(frame, point, uv, torch.ones(len(uv), dtype=dtype))
    return samples, world_from_cam, k, points, g


def disturbed(world_from_cam, points, g, size=0.05):
    step = size * torch.randn(len(world_from_cam), 6, generator=g, dtype=points.dtype)
    step[0] = 0
    return retract(world_from_cam, step), points + size * torch.randn(points.shape, generator=g, dtype=points.dtype)


@pytest.mark.parametrize("loss", [Square(), GemanMcClure(2.0), Cauchy(2.0), Huber(1.5)])
def test_a_loss_weight_is_the_slope_of_its_cost(loss):
    square = torch.linspace(0.01, 30, 50, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(loss.cost(square).sum(), square)
    torch.testing.assert_close(loss.weight(square.detach()), slope)


@pytest.mark.parametrize("kind", ["reprojection", "log_depth"])
def test_analytic_jacobians_equal_forward_mode(kind):
    samples, world_from_cam, k, points, _ = world(noise_px=1.0)
    state = {
        "world_from_cam": world_from_cam,
        "points": points,
        "log_focal": torch.full((1, 1), 0.05, dtype=torch.float64),
        "log_depth_scale": torch.full((6, 1), 0.1, dtype=torch.float64),
    }
    ones = torch.ones(len(samples), dtype=torch.float64)
    term = terms.reprojection(samples, k) if kind == "reprojection" else terms.log_depth(samples, ones, 0.3 * ones)
    value, blocks = term.linearise(state)
    rows = [r.expand(len(value), *r.shape[1:]) for r in term.gather(state)]
    expected, expected_blocks = forward_jacobian(term.residual, rows)
    torch.testing.assert_close(value, expected)
    for block, twin in zip(blocks, expected_blocks, strict=True):
        torch.testing.assert_close(block, twin)


def test_terms_of_points_alone_equal_the_full_terms():
    samples, world_from_cam, k, points, g = world(noise_px=1.0)
    points = points + 0.1 * torch.randn(points.shape, generator=g, dtype=points.dtype)
    state = {
        "world_from_cam": world_from_cam,
        "points": points,
        "log_focal": torch.zeros(1, 1, dtype=torch.float64),
        "log_depth_scale": torch.full((6, 1), 0.1, dtype=torch.float64),
    }
    seen, sigma = torch.rand(len(samples), generator=g, dtype=torch.float64), torch.ones(len(samples)).double()
    pairs = [
        (terms.reprojection(samples, k), terms.reprojection_of_points(samples, world_from_cam, k, Square())),
        (
            terms.log_depth(samples, seen, sigma),
            terms.log_depth_of_points(samples, world_from_cam, seen + 0.1, sigma, Square()),
        ),
    ]
    for full, alone in pairs:
        (value, blocks), (same, own) = full.linearise(state), alone.linearise(state)
        torch.testing.assert_close(same, value)
        torch.testing.assert_close(alone.residual(points[samples.point]), value)
        torch.testing.assert_close(own[0], blocks[1])


@pytest.mark.parametrize("kind", ["motion prior", "baseline", "prior"])
def test_analytic_jacobians_of_priors_equal_forward_mode(kind):
    g = torch.Generator().manual_seed(5)
    cams = se3.exp(torch.randn(4, 6, generator=g, dtype=torch.float64) * 0.5)
    moved = retract(cams, 0.3 * torch.randn(4, 6, generator=g, dtype=torch.float64))
    if kind == "motion prior":
        term = terms.motion_prior(cams, torch.tensor([0, 2, 3]), 0.1, 0.2)
    elif kind == "baseline":
        term = bundle.baseline_prior(cams, torch.tensor([3]))
    else:
        term = terms.prior("log_focal", torch.ones(1, 1, dtype=torch.float64), 0.1)
    state = {"world_from_cam": moved, "log_focal": torch.full((1, 1), 0.2, dtype=torch.float64)}
    value, blocks = term.linearise(state)
    expected, twins = forward_jacobian(term.residual, term.gather(state))
    torch.testing.assert_close(value, expected)
    for block, twin in zip(blocks, twins, strict=True):
        torch.testing.assert_close(block, twin, atol=1e-9, rtol=1e-6)


def test_forward_jacobian_equals_finite_differences():
    g = torch.Generator().manual_seed(3)
    rows = [se3.exp(torch.randn(5, 6, generator=g, dtype=torch.float64)) for _ in range(3)]
    residual = terms.steady_motion(7, torch.ones(6, dtype=torch.float64)).residual
    _, blocks = forward_jacobian(residual, rows)
    step = torch.zeros(5, 6, dtype=torch.float64)
    step[:, 4] = 1e-6
    plus, minus = (
        residual(rows[0], retract(rows[1], step), rows[2]),
        residual(rows[0], retract(rows[1], -step), rows[2]),
    )
    torch.testing.assert_close(blocks[1][..., 4], (plus - minus) / 2e-6, atol=1e-6, rtol=1e-6)


def test_schur_takes_the_same_step_as_the_dense_system():
    samples, world_from_cam, k, points, g = world(noise_px=0.5)
    start_cams, start_points = disturbed(world_from_cam, points, g)
    state = {
        "world_from_cam": start_cams,
        "points": start_points,
        "log_focal": torch.zeros(1, 1, dtype=torch.float64),
        "log_depth_scale": torch.zeros(6, 1, dtype=torch.float64),
    }
    z = terms.in_camera(world_from_cam[samples.frame], points[samples.point])[:, 2]
    parts = [
        terms.reprojection(samples, k, GemanMcClure(20.0)),
        terms.log_depth(samples, z.log(), torch.full_like(z, 0.1)),
        terms.prior("log_depth_scale", state["log_depth_scale"], 0.05),
        terms.prior("log_focal", state["log_focal"], 0.1),
        terms.motion_prior(start_cams, torch.zeros(1, dtype=torch.long), 1e-3, 1e-3),
        terms.steady_motion(6, torch.ones(6, dtype=torch.float64)),
    ]
    free = frozenset(state)
    for damping in (1e-4, 1.0):
        dense, predicted = Dense().prepare(state, parts, free)(state).step(damping)
        schur, predicted_schur = Schur("points", group=7).prepare(state, parts, free)(state).step(damping)
        for name in free:
            torch.testing.assert_close(schur[name], dense[name], rtol=1e-4, atol=1e-6)
        assert predicted_schur == pytest.approx(predicted, rel=1e-6)


def test_bundle_adjustment_finds_the_true_cameras_points_and_focal():
    samples, world_from_cam, k, points, g = world()
    start_cams, start_points = disturbed(world_from_cam, points, g)
    z = terms.in_camera(world_from_cam[samples.frame], points[samples.point])[:, 2]
    depth = bundle.DepthSamples(z.log(), torch.full_like(z, 0.1), 0.05)
    wrong = k * torch.tensor([1.1, 1.1, 1, 1])
    stop = Stop(steps=60, tolerance=1e-12)
    found = bundle.adjust(samples, start_cams, wrong, start_points, focal_sigma=0.3, depth=depth, stop=stop)
    assert found.solution.reason in ("converged", "no decrease")
    torch.testing.assert_close(found.intrinsics, k, rtol=1e-3, atol=0)
    torch.testing.assert_close(found.world_from_cam, world_from_cam, rtol=0, atol=2e-3)


def test_bundle_adjustment_matches_scipy_on_the_same_problem():
    samples, world_from_cam, k, points, g = world(frames=4, count=15, noise_px=0.5)
    start_cams, start_points = disturbed(world_from_cam, points, g, 0.02)
    found = bundle.adjust(samples, start_cams, k, start_points, loss=Square(), stop=Stop(80, 1e-14))

    def residual(x):
        x = torch.from_numpy(x)
        cams = torch.cat([start_cams[:1], retract(start_cams[1:], x[:18].view(3, 6))])
        uv = camera.project(terms.in_camera(cams[samples.frame], x[18:].view(-1, 3)[samples.point]), k)
        return (uv - samples.uv).flatten().numpy()

    start = torch.cat([torch.zeros(18, dtype=torch.float64), start_points.flatten()]).numpy()
    reference = optimize.least_squares(residual, start, method="trf", xtol=1e-14, ftol=1e-14)
    assert float(found.square.sum()) == pytest.approx(2 * reference.cost, rel=1e-4)


def test_outlying_sightings_do_not_move_the_cameras():
    samples, world_from_cam, k, points, g = world(noise_px=0.2)
    bad = torch.rand(len(samples), generator=g) < 0.1
    spoiled = terms.PixelSamples(
        samples.frame, samples.point, torch.where(bad[:, None], samples.uv + 80, samples.uv), samples.sigma_px
    )
    start_cams, start_points = disturbed(world_from_cam, points, g, 0.01)
    errors = []
    for loss in (GemanMcClure(4.0), Square()):
        found = bundle.adjust(spoiled, start_cams, k, start_points, loss=loss, stop=Stop(60, 1e-10))
        relative = found.world_from_cam[1:, :3, 3] / found.world_from_cam[-1, :3, 3].norm()
        truth = world_from_cam[1:, :3, 3] / world_from_cam[-1, :3, 3].norm()
        errors.append(float((relative - truth).norm(dim=-1).mean()))
    assert errors[0] < 0.02 and errors[0] < errors[1] / 5


def test_the_start_is_never_changed_and_costs_only_fall():
    samples, world_from_cam, k, points, g = world(noise_px=0.5)
    start_cams, start_points = disturbed(world_from_cam, points, g)
    before = start_cams.clone(), start_points.clone()
    found = bundle.adjust(samples, start_cams, k, start_points)
    assert torch.equal(before[0], start_cams) and torch.equal(before[1], start_points)
    costs = found.solution.costs
    assert all(b < a for a, b in zip(costs, costs[1:], strict=False))


def test_a_run_that_hits_the_step_limit_is_not_called_converged():
    samples, world_from_cam, k, points, g = world(noise_px=0.5)
    start_cams, start_points = disturbed(world_from_cam, points, g, 0.2)
    found = bundle.adjust(samples, start_cams, k, start_points, stop=Stop(steps=1))
    assert found.solution.reason == "step limit"


def test_the_solution_does_not_depend_on_how_points_are_grouped():
    samples, world_from_cam, k, points, g = world(noise_px=0.5)
    cams, pts = disturbed(world_from_cam, points, g)
    state = {"world_from_cam": cams, "points": pts, "log_focal": torch.zeros(1, 1, dtype=torch.float64)}
    parts = [terms.reprojection(samples, k), terms.motion_prior(cams, torch.arange(2), 1e-6, 1e-6)]
    a, b = (minimise(state, parts, {"world_from_cam", "points"}, Schur("points", group=n)) for n in (5, 1000))
    assert a.costs[-1] == pytest.approx(b.costs[-1], rel=1e-9)


def test_any_function_can_be_a_term():
    state = {"x": torch.tensor([[3.0, -1.0]], dtype=torch.float64)}
    rosenbrock = Term("banana", (("x", None),), lambda x: torch.stack([10 * (x[:, 1] - x[:, 0] ** 2), 1 - x[:, 0]], -1))
    found = minimise(state, [rosenbrock], {"x"}, Dense(), Stop(200, 1e-16))
    torch.testing.assert_close(found.state["x"], torch.ones(1, 2, dtype=torch.float64), atol=1e-4, rtol=0)
    assert total_cost(found.state, [rosenbrock]) < 1e-8


def test_a_bundle_without_any_sighting_fails_in_one_sentence():
    samples, world_from_cam, k, points, _ = world()
    none = samples.chosen(torch.zeros(len(samples), dtype=torch.bool))
    with pytest.raises(SolveFailed, match="nothing static is tracked"):
        bundle.adjust(none, world_from_cam, k, points[:0])
