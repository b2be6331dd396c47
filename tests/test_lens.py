"""The lens from tracks, its doubt, and loops: on clouds of points whose truth is known."""

from typing import Any

import numpy as np
import pytest
import torch

from worldline.cues.recognition import Recognition
from worldline.geometry import se3, sim3
from worldline.geometry.camera import Camera, real_uv
from worldline.scene.observations import PixelTracks, Source
from worldline.scene.video import Video
from worldline.solve import terms
from worldline.solve.lens import reprojection
from worldline.solve.problem import forward_jacobian
from worldline.solve.robust import Square
from worldline.solve.structure import RigidStructure, rigid_structure
from worldline.solve.structure_settings import StructureSettings

WIDTH, HEIGHT, FOCAL = 640, 480, 500.0
COUNT = 300
FEW = StructureSettings(tracks=500, lens_tracks=300, thinning=1, frames_per_key=3)
ROUGHLY = {"focal_px": 0.95 * FOCAL, "focal_sigma": 0.09}
PINHOLE = np.array([FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2])


def walk(frames: int, travel: tuple[float, float, float], turn: tuple[float, float, float]) -> np.ndarray:
    """A camera that goes along a line and turns, with some sway."""
    s = torch.linspace(0, 1, frames, dtype=torch.float64)
    sway = 0.06 * torch.stack([(7 * s).sin(), (5 * s).cos(), (6 * s).sin()], -1)
    xi = torch.cat(
        [s[:, None] * torch.tensor(travel) + sway * (1 + 0 * s[:, None]), s[:, None] * torch.tensor(turn)], -1
    )
    return (se3.inverse(se3.exp(xi[:1])) @ se3.exp(xi)).numpy()


def cloud(points: int, seed: int, *, flat: bool = False) -> np.ndarray:
    random = np.random.default_rng(seed)
    depth = np.full(points, 4.0) if flat else random.uniform(2, 9, points)
    return np.stack([random.uniform(-1.0, 1.0, points) * depth, random.uniform(-0.7, 0.7, points) * depth, depth], -1)


def projected(world_from_cam: np.ndarray, points: np.ndarray, lens: Camera) -> tuple[np.ndarray, np.ndarray]:
    cam_from_world = np.linalg.inv(world_from_cam)
    x = np.einsum("tij,nj->tni", cam_from_world[:, :3, :3], points) + cam_from_world[:, None, :3, 3]
    uv = real_uv(x[..., :2] / np.maximum(x[..., 2:], 1e-3) * PINHOLE[:2] + PINHOLE[2:], lens, PINHOLE)
    return uv, (x[..., 2] > 0.2) & (uv > 2).all(-1) & (uv < [WIDTH - 2, HEIGHT - 2]).all(-1)


def tracked(
    world_from_cam: np.ndarray,
    points: np.ndarray,
    distortion: tuple[float, ...] = (),
    *,
    noise_px: float = 0.2,
    drift_px: float = 0.05,
    seed: int = 0,
) -> PixelTracks:
    """Tracks whose errors are partly shared along them; one that leaves the image comes back as another."""
    random = np.random.default_rng(seed)
    uv, inside = projected(world_from_cam, points, Camera(PINHOLE, WIDTH, HEIGHT, distortion))
    uv = uv + np.cumsum(random.normal(0, drift_px, uv.shape), 0) + random.normal(0, noise_px, uv.shape)
    life = np.cumsum(inside & ~np.vstack([np.zeros_like(inside[:1]), inside[:-1]]), 0)
    parts = [inside & (life == k) for k in range(1, int(life.max()) + 1)]
    visible = np.concatenate([p[:, p.sum(0) > 3] for p in parts], 1)
    uv = np.concatenate([uv[:, p.sum(0) > 3] for p in parts], 1)
    sigma = np.full(visible.shape, noise_px, dtype=np.float32)
    return PixelTracks(uv.astype(np.float32), visible, sigma, visible.argmax(0).astype(np.int32), Source("test"))


def solved(tracks: PixelTracks, **known: Any) -> RigidStructure:
    return rigid_structure(tracks, WIDTH, HEIGHT, settings=FEW, **known)


def path_error(found: np.ndarray, true: np.ndarray) -> float:
    a, b = torch.from_numpy(true[:, :3, 3]), torch.from_numpy(found[:, :3, 3])
    error = (sim3.fit(a, b).apply(b) - a).norm(dim=-1)
    return float(error.square().mean().sqrt() / (a[1:] - a[:-1]).norm(dim=-1).sum())


SIDEWAYS = walk(16, (1.6, 0.2, 0.4), (0.05, -0.25, 0.1))


def test_a_lens_that_bends_is_found_with_its_focal_length() -> None:
    found = solved(tracked(SIDEWAYS, cloud(COUNT, 0), (-0.22, 0.05)), **ROUGHLY)
    k1, k2 = found.distortion
    assert abs(np.log(found.intrinsics[0] / FOCAL)) < max(0.03, 3 * found.focal_sigma)
    radius = np.linspace(0.1, 0.75, 8) ** 2
    assert np.abs((k1 + 0.22) * radius + (k2 - 0.05) * radius**2).max() < 0.012
    assert path_error(found.world_from_cam, SIDEWAYS) < 0.006


def test_a_pinhole_stays_a_pinhole() -> None:
    for seed in range(2):
        assert solved(tracked(SIDEWAYS, cloud(COUNT, seed), seed=seed), **ROUGHLY).distortion == ()


def test_distortion_that_was_undone_is_not_looked_for() -> None:
    tracks = tracked(SIDEWAYS, cloud(COUNT, 0), (-0.22, 0.05))
    assert solved(tracks, **ROUGHLY, distorts=False).distortion == ()


def test_the_focal_length_is_as_uncertain_as_it_is_wrong() -> None:
    paths = [SIDEWAYS, walk(16, (0.3, 0.1, 2.0), (0.02, 0.1, 0.05)), walk(16, (0.6, 0.1, 0.1), (0.0, 0.1, 0.02))]
    off = []
    for seed, true in enumerate(paths):
        found = solved(tracked(true, cloud(COUNT, seed), seed=seed), **ROUGHLY)
        off.append(np.log(found.intrinsics[0] / FOCAL) / found.focal_sigma)
    assert np.abs(off).max() < 3.0 and np.sqrt(np.mean(np.square(off))) > 0.05


def test_a_single_plane_leaves_the_focal_length_open() -> None:
    true = walk(16, (1.0, 0.2, 0.1), (0.0, 0.05, 0.0))
    found = solved(tracked(true, cloud(COUNT, 0, flat=True)), **ROUGHLY)
    assert found.focal_sigma == ROUGHLY["focal_sigma"]


def test_the_lens_term_has_the_derivative_that_it_claims() -> None:
    random = torch.Generator().manual_seed(0)
    points = torch.randn(6, 3, generator=random, dtype=torch.float64) + torch.tensor([0.0, 0.0, 4.0])
    samples = terms.PixelSamples(
        torch.zeros(6, dtype=torch.long), torch.arange(6), 300 + 50 * torch.randn(6, 2, generator=random).double(),
        torch.full((6,), 0.5, dtype=torch.float64),
    )  # fmt: skip
    term = reprojection(samples, torch.from_numpy(PINHOLE), Square())
    lens = torch.tensor([[0.1, -0.2, 0.05, 0.01, -0.02]], dtype=torch.float64)
    rows = [torch.eye(4, dtype=torch.float64).repeat(6, 1, 1), points]
    value, blocks = term.jacobian(*rows, lens)
    plain, expected = forward_jacobian(lambda w, p, x: term.residual(w, p, x[:1]), [*rows, lens.expand(6, -1)])
    assert torch.allclose(value, plain)
    for block, other in zip(blocks[:2], expected[:2], strict=True):
        assert torch.allclose(block, other, atol=1e-8)
    assert torch.allclose(blocks[2].sum(0), expected[2].sum(0), atol=1e-8)


class Recognised:
    """Features of a cloud that are recognised by their number."""

    def __init__(self, world_from_cam: np.ndarray, points: np.ndarray) -> None:
        uv, self.inside = projected(world_from_cam, points, Camera(PINHOLE, WIDTH, HEIGHT))
        self.seen = uv + np.random.default_rng(1).normal(0, 0.4, uv.shape)

    def uv(self, frame: int) -> np.ndarray:
        return self.seen[frame]

    def matches(self, a: int, b: int) -> np.ndarray:
        both = np.flatnonzero(self.inside[a] & self.inside[b])
        return np.stack([both, np.where(np.arange(len(both)) % 7 > 0, both, np.roll(both, 3))], 1)


def there_and_back() -> tuple[np.ndarray, np.ndarray]:
    s = np.concatenate([np.linspace(0, 1, 24), np.linspace(1, 0, 24)])
    true = np.repeat(np.eye(4)[None], len(s), 0)
    true[:, :3, 3] = np.stack([6 * s, 0.15 * np.sin(9 * s), 0.2 * np.sin(5 * s + np.arange(48) / 20)], -1)
    true[:, :3, 3] -= true[0, :3, 3]
    random = np.random.default_rng(3)
    depth = random.uniform(2, 5, 600)
    wide = np.stack([random.uniform(-2, 8, 600), random.uniform(-0.4, 0.4, 600) * depth, depth], -1)
    return true, wide


def turned_rad(found: np.ndarray, true: np.ndarray) -> float:
    """How far the last camera is turned against the first one, compared with the truth."""
    a, b = (np.linalg.inv(x[0, :3, :3]) @ x[-1, :3, :3] for x in (found, true))
    return float(se3.angle_rad(torch.from_numpy(a.T @ b)[None])[0])


def test_a_camera_that_returns_drifts_less_when_the_place_is_recognised() -> None:
    true, points = there_and_back()
    tracks = tracked(true, points[:220], noise_px=0.3, drift_px=0.6)
    apart = solved(tracks, focal_px=FOCAL)
    joined = solved(tracks, focal_px=FOCAL, features=Recognised(true, points))
    turned = [turned_rad(x.world_from_cam, true) for x in (apart, joined)]
    error = [path_error(x.world_from_cam, true) for x in (apart, joined)]
    assert turned[1] < 0.3 * turned[0] and error[1] < 0.7 * error[0]


def test_a_clip_that_never_returns_asks_for_no_recognition() -> None:
    class Unasked:
        def uv(self, frame: int) -> np.ndarray:
            pytest.fail("nothing is seen again, so nothing needs to be recognised")

        matches = uv

    solved(tracked(SIDEWAYS, cloud(COUNT, 0)), focal_px=FOCAL, features=Unasked())


def test_frames_of_one_place_are_recognised() -> None:
    random = np.random.default_rng(0)
    wall = np.repeat(np.repeat(random.integers(0, 255, (40, 60, 3), dtype=np.uint8), 4, 0), 4, 1)
    shifted = np.roll(wall, (8, 12), (0, 1))
    features = Recognition(Video(np.stack([wall, shifted]), np.arange(2.0), "wall"))
    pairs = features.matches(0, 1)
    gap = features.uv(1)[pairs[:, 1]] - features.uv(0)[pairs[:, 0]]
    assert len(pairs) > 50 and np.allclose(np.median(gap, 0), [12, 8], atol=0.1)
