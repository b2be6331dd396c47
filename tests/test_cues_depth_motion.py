"""Depth from the motion of the camera, against the exact depth of rendered worlds."""

from dataclasses import replace

import numpy as np
import pytest

from worldline import synthetic
from worldline.cues import standing
from worldline.cues.depth import motion
from worldline.scene.journal import Journal
from worldline.scene.observations import CameraMotion, DepthMaps, Observations, Source

CONFIG = motion.Config(side=160, offsets=(1, 2, 4, 6))


def observe(path: str) -> tuple[synthetic.Rendered, Observations]:
    made = synthetic.tiny_world(seed=3, path=path, frames=10, width=160, height=112)
    rendered = synthetic.render(made)
    exact = synthetic.observations(rendered, step_px=10, every=4)
    known = np.ones(10, dtype=bool)
    motion = CameraMotion(rendered.scene.world_from_cam, known, 0.0, 0.0, Source("test"), metric=True)
    return rendered, replace(exact, depth=None, camera_motion=motion)


def depth_of(rendered: synthetic.Rendered, observed: Observations, config: motion.Config) -> DepthMaps:
    made = motion.build(config)(rendered.video, observed, Journal("test"))
    assert made.depth is not None
    return made.depth


@pytest.fixture(scope="module")
def walk() -> tuple[synthetic.Rendered, Observations]:
    return observe("handheld")


@pytest.fixture(scope="module")
def walked(walk: tuple[synthetic.Rendered, Observations]) -> DepthMaps:
    return depth_of(*walk, CONFIG)


def relative_error(rendered: synthetic.Rendered, maps: DepthMaps) -> tuple[np.ndarray, np.ndarray]:
    """|d / d* - 1| and whether the pixel is static and has a depth."""
    true = np.asarray(rendered.scene.depth_z)
    static = (true > 0) & (np.asarray(rendered.scene.moving) == 0)
    scale = np.median(true[static] / maps.depth_z[static])
    return np.abs(maps.depth_z * scale / np.where(true > 0, true, 1) - 1), static


def test_static_depth_is_right_where_it_says_so(
    walk: tuple[synthetic.Rendered, Observations], walked: DepthMaps
) -> None:
    error, static = relative_error(walk[0], walked)
    sure = static & (walked.sigma < np.median(walked.sigma[static]))
    assert error[sure].mean() < 0.05 and error[static].mean() < 0.12


def test_sigma_ranks_the_errors(walk: tuple[synthetic.Rendered, Observations], walked: DepthMaps) -> None:
    error, static = relative_error(walk[0], walked)
    low, high = np.quantile(walked.sigma[static], [0.3, 0.8])
    assert np.median(error[static & (walked.sigma < low)]) < np.median(error[static & (walked.sigma > high)])


def test_depth_has_the_scale_of_the_known_poses(
    walk: tuple[synthetic.Rendered, Observations], walked: DepthMaps
) -> None:
    true, static = np.asarray(walk[0].scene.depth_z), relative_error(walk[0], walked)[1]
    assert np.median(true[static] / walked.depth_z[static]) == pytest.approx(1, abs=0.05)


def test_depth_is_positive_and_finite_everywhere(walked: DepthMaps) -> None:
    assert np.isfinite(walked.depth_z).all() and (walked.depth_z > 0).all()
    assert np.isfinite(walked.sigma).all() and walked.sigma.min() >= CONFIG.model_sigma


def test_movers_are_placed_with_a_large_sigma(walk: tuple[synthetic.Rendered, Observations], walked: DepthMaps) -> None:
    moving = np.asarray(walk[0].scene.moving) > 0
    assert walked.sigma[moving].min() >= CONFIG.standing.ground
    assert np.median(walked.sigma[moving]) > 2 * np.median(walked.sigma[~moving])
    assert np.median(np.abs(np.log(walked.depth_z / walk[0].scene.depth_z))[moving]) < 0.5


def test_without_parallax_depth_is_a_guess_and_says_so() -> None:
    rendered, observed = observe("rotate")
    maps = depth_of(rendered, replace(observed, camera_motion=None), CONFIG)
    assert maps.source.notes == (motion.NO_PARALLAX,)
    assert maps.sigma.min() >= 0.3 and np.median(maps.sigma) >= CONFIG.guess_sigma
    assert np.median(maps.depth_z[:, 0]) > np.median(maps.depth_z[:, -1])


def test_depth_may_be_smaller_than_the_video(walk: tuple[synthetic.Rendered, Observations]) -> None:
    maps = depth_of(*walk, replace(CONFIG, side=80))
    assert maps.depth_z.shape == (10, 56, 80)


def test_a_mover_stands_on_the_ground_below_it() -> None:
    inverse = np.repeat(np.linspace(0.1, 1, 40, dtype=np.float32)[:, None], 40, 1)
    ids = np.zeros((1, 40, 40), dtype=np.uint8)
    ids[0, 10:30, 15:25] = 1
    stack, sigma = inverse[None].copy(), np.full((1, 40, 40), 0.1, dtype=np.float32)
    standing.stand(stack, sigma, ids, 40.0, standing.Standing())
    assert stack[0, 10:30, 15:25].std() < 1e-6 and stack[0, 20, 20] == pytest.approx(inverse[29, 0], rel=0.1)


def sensed(rendered: synthetic.Rendered, share: float, sigma: float = 0.01) -> DepthMaps:
    """The exact depth with noise in a share of the pixels."""
    random = np.random.default_rng(0)
    true = np.asarray(rendered.scene.depth_z)
    known = (random.random(true.shape) < share) & (true > 0) & np.isfinite(true)
    noisy = np.where(known, true * np.exp(sigma * random.normal(size=true.shape)), 0).astype(np.float32)
    return DepthMaps(noisy, np.full(true.shape, sigma, np.float32), Source("sensor"), metric=True)


def test_known_depth_stays_as_it_is_and_completes_the_rest(walk: tuple[synthetic.Rendered, Observations]) -> None:
    rendered, observed = walk
    given = sensed(rendered, 0.03)
    maps = depth_of(rendered, replace(observed, depth=given), CONFIG)
    known = given.depth_z > 0
    assert np.array_equal(maps.depth_z[known], given.depth_z[known]) and maps.metric
    error = np.abs(np.log(maps.depth_z / np.asarray(rendered.scene.depth_z)))[~known]
    assert np.median(error) < 0.03 and 0.3 < np.median(error / maps.sigma[~known]) < 1.2


def test_without_parallax_a_sensor_alone_is_completed() -> None:
    rendered, observed = observe("rotate")
    given = sensed(rendered, 0.05)
    maps = depth_of(rendered, replace(observed, camera_motion=None, depth=given), CONFIG)
    known = given.depth_z > 0
    error = np.abs(np.log(maps.depth_z / np.asarray(rendered.scene.depth_z)))[~known]
    assert np.median(error) < 0.06 and motion.NO_PARALLAX not in maps.source.notes


def test_a_mover_whose_foot_is_outside_the_image_is_hardly_placed() -> None:
    inverse = np.repeat(np.linspace(0.1, 1, 40, dtype=np.float32)[:, None], 40, 1)[None]
    sigma = np.full((1, 40, 40), 0.1, dtype=np.float32)
    found = []
    for bottom in (30, 40):
        ids = np.zeros((1, 40, 40), dtype=np.uint8)
        ids[0, 10:bottom, 15:25] = 1
        doubt = sigma.copy()
        standing.stand(inverse.copy(), doubt, ids, 400.0, standing.Standing())
        found.append(doubt[0, 15, 20])
    assert found[1] > 2 * found[0]
