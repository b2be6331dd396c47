"""Surfaces hold cameras where tracks do not, as far as they tell, and what moves does not pull."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from worldline.cues.rigid_scene import rigid_scene
from worldline.geometry import se3
from worldline.geometry.camera import Camera, ideal_uv
from worldline.scene.journal import Journal
from worldline.scene.observations import (
    CameraPrior,
    DepthMaps,
    MovingMasks,
    Observations,
    PixelTracks,
    Source,
)
from worldline.scene.video import Video
from worldline.solve import terms
from worldline.solve.methods import Dense
from worldline.solve.problem import Stop, minimise, retract
from worldline.solve.structure_settings import StructureSettings
from worldline.solve.surface_alignment import SurfacePairs, SurfaceSettings, candidates, surface_pairs, surfaces_of

WIDTH, HEIGHT, FOCAL = 320, 240, 280.0
LENS = torch.tensor([FOCAL, FOCAL, WIDTH / 2, HEIGHT / 2], dtype=torch.float64)
SOURCE = Source("test")
ROOM = (((0.0, 0.0, -1.0), 3.0), ((-1.0, 0.0, -0.3), 1.6), ((1.0, 0.0, -0.2), 1.7), ((0.0, -1.0, -0.1), 1.1))
WALL = (((0.1, 0.0, -1.0), 2.5),)


def walk(frames: int, *, travel_m: float = 0.25, turn_rad: float = 0.06) -> np.ndarray:
    share = torch.linspace(0, 1, frames, dtype=torch.float64)[:, None]
    step = torch.tensor([travel_m, 0.3 * travel_m, 0.2 * travel_m, 0.4 * turn_rad, turn_rad, -0.3 * turn_rad])
    return se3.exp(share * step).numpy()


def rays(camera: Camera | None = None) -> np.ndarray:
    uv = np.stack(np.meshgrid(np.arange(WIDTH) + 0.5, np.arange(HEIGHT) + 0.5), -1)
    xy = uv if camera is None else ideal_uv(uv.reshape(-1, 2), camera, LENS.numpy()).reshape(uv.shape)
    return np.concatenate([(xy - LENS[2:].numpy()) / FOCAL, np.ones((HEIGHT, WIDTH, 1))], -1)


def depth_of(planes, world_from_cam: np.ndarray, seen: np.ndarray) -> np.ndarray:
    """Distance along the axis of the nearest plane (normal . x = -distance) of a room in every pixel."""
    maps = []
    for normal, distance in planes:
        n = np.asarray(normal) / np.linalg.norm(normal)
        along = np.einsum("hwi,tij,j->thw", seen, world_from_cam[:, :3, :3].transpose(0, 2, 1), n)
        height = distance + world_from_cam[:, :3, 3] @ n
        maps.append(np.where(along < -1e-3, -height[:, None, None] / np.minimum(along, -1e-3), np.inf))
    return np.min(maps, 0)


def sensor(z: np.ndarray, *, noise: float = 0.003, sigma: float = 0.01) -> DepthMaps:
    noisy = z * np.exp(np.random.default_rng(0).normal(0, noise, z.shape))
    noisy[:, :, :12] = 0
    return DepthMaps(noisy.astype(np.float32), np.full(z.shape, sigma, np.float32), SOURCE, True, 0.005)


def aligned(depth: DepthMaps, start: np.ndarray, *, moving: MovingMasks | None = None) -> np.ndarray:
    """Cameras that the surfaces alone give, the first one held."""
    surfaces = surfaces_of(depth, WIDTH, HEIGHT, moving=moving)
    cameras, every = torch.from_numpy(start), torch.ones(len(start), dtype=torch.bool)
    scale = torch.zeros(len(start), 1, dtype=torch.float64)
    for _ in range(8):
        pairs = surface_pairs(surfaces, cameras, every, LENS)
        assert pairs is not None
        parts = [pairs.term(1.0, cameras), terms.motion_prior(cameras, torch.zeros(1, dtype=torch.long), 1e-6, 1e-6)]
        state = {"world_from_cam": cameras, "log_depth_scale": scale}
        cameras = minimise(state, parts, {"world_from_cam"}, Dense(), Stop(10)).state["world_from_cam"]
    return cameras.numpy()


def disturbed(world_from_cam: np.ndarray, *, metres: float = 0.04, rad: float = 0.03) -> np.ndarray:
    step = torch.from_numpy(np.random.default_rng(1).normal(0, 1, (len(world_from_cam), 6)))
    step = step * torch.tensor([metres] * 3 + [rad] * 3)
    step[0] = 0
    return world_from_cam @ se3.exp(step).numpy()


def off(found: np.ndarray, true: np.ndarray) -> tuple[float, float]:
    """Largest errors: metres, radians."""
    error = torch.from_numpy(np.linalg.inv(true) @ found)
    return float(error[:, :3, 3].norm(dim=-1).max()), float(se3.angle_rad(error[:, :3, :3]).max())


@pytest.fixture(scope="module")
def room() -> tuple[np.ndarray, np.ndarray]:
    path = walk(5)
    return path, depth_of(ROOM, path, rays())


def test_a_corner_fixes_the_whole_motion(room) -> None:
    path, z = room
    metres, rad = off(aligned(sensor(z), disturbed(path)), path)
    assert metres < 0.004 and rad < 0.002


def mover(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """A board that comes nearer and passes through the view, and where it is."""
    ids = np.zeros(z.shape, np.uint8)
    for t in range(len(z)):
        ids[t, 60:200, 90 + 15 * t : 190 + 15 * t] = 1
    near = 1.2 - 0.06 * np.arange(len(z))[:, None, None]
    return np.where(ids > 0, near, z), ids


def test_what_moves_does_not_pull(room) -> None:
    path, z = room
    hidden, _ = mover(z)
    metres, rad = off(aligned(sensor(hidden), disturbed(path, metres=0.02, rad=0.01)), path)
    assert metres < 0.008 and rad < 0.004


def test_known_movers_have_no_surface(room) -> None:
    _, z = room
    hidden, ids = mover(z)
    masks = MovingMasks(ids, SOURCE)
    surfaces = surfaces_of(sensor(hidden), WIDTH, HEIGHT, moving=masks)
    assert not surfaces.known[0, 30:70, 40:72].any() and surfaces.known[0, 30:70, 90:120].all()


def test_a_single_plane_says_nothing_about_motion_along_it() -> None:
    path = walk(2)
    surfaces = surfaces_of(sensor(depth_of(WALL, path, rays())), WIDTH, HEIGHT)
    pairs = surface_pairs(surfaces, torch.from_numpy(path), torch.ones(2, dtype=torch.bool), LENS)
    assert pairs is not None
    doubt = torch.linalg.eigvalsh(pairs.root[0, :, :6].T @ pairs.root[0, :, :6]).rsqrt()
    assert int((doubt < 0.005).sum()) == 3 and int((doubt > 0.05).sum()) == 3


def test_edges_have_no_surface() -> None:
    z = np.full((1, HEIGHT, WIDTH), 3.0)
    z[:, :, 160:] = 2.0
    surfaces = surfaces_of(sensor(z, noise=0), WIDTH, HEIGHT)
    assert not surfaces.known[0, 10:80, 62:66].any() and surfaces.known[0, 10:80, 70:120].all()


def test_a_lens_is_undone() -> None:
    lens = Camera(np.array([FOCAL, FOCAL, 150.0, 128.0]), WIDTH, HEIGHT, (-0.2, 0.05, 0.0, 0.0))
    z = depth_of(WALL, walk(1), rays(lens))
    surfaces = surfaces_of(sensor(z, noise=0), WIDTH, HEIGHT, camera=lens, reference=LENS.numpy())
    true = 1 / depth_of(WALL, walk(1), rays())[0]
    row, column = 48, 80
    u, v = (column + 0.5) * WIDTH / 128, (row + 0.5) * HEIGHT / 96
    assert float(surfaces.inverse_z[0, row, column]) == pytest.approx(true[int(v), int(u)], rel=3e-3)


def test_errors_that_go_together_count_once(room) -> None:
    path, z = room
    waves = 0.02 * np.sin(np.linspace(0, 9, WIDTH)) * np.sin(np.linspace(0, 7, HEIGHT))[:, None]
    phase = np.random.default_rng(2).normal(0, 1, (len(z), 1, 1))
    every, cameras = torch.ones(len(path), dtype=torch.bool), torch.from_numpy(path)
    clean, warped = (
        surface_pairs(surfaces_of(sensor(d), WIDTH, HEIGHT), cameras, every, LENS) for d in (z, z * (1 + waves * phase))
    )
    assert clean is not None and warped is not None
    assert clean.inflation < 1 < warped.inflation


def test_sparse_depth_does_not_hold(room) -> None:
    _, z = room
    sparse = np.zeros_like(z)
    sparse[:, ::9, ::9] = z[:, ::9, ::9]
    assert surfaces_of(sensor(z), WIDTH, HEIGHT).hold(SurfaceSettings())
    assert not surfaces_of(sensor(sparse), WIDTH, HEIGHT).hold(SurfaceSettings())


def test_pairs_reach_from_neighbours_to_distant_frames() -> None:
    usable = torch.ones(40, dtype=torch.bool)
    usable[7] = False
    i, j = candidates(usable, SurfaceSettings())
    assert set((j - i).tolist()) == {1, 2, 4, 8, 16, 32}
    assert 7 not in i and 7 not in j and len(i) < 4 * 40


def test_the_jacobian_is_that_of_the_residual() -> None:
    random = torch.Generator().manual_seed(0)

    def numbers(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random, dtype=torch.float64)

    cameras, i, j = se3.exp(0.3 * numbers(4, 6)), torch.tensor([0, 1, 2]), torch.tensor([1, 2, 3])
    near = se3.inverse(cameras[i]) @ cameras[j] @ se3.exp(0.05 * numbers(3, 6))
    pairs = SurfacePairs(i, j, near, torch.zeros(4, dtype=torch.float64), numbers(3, 8, 8), numbers(3, 8), 1.0, 1.0)
    term = pairs.term(0.7, cameras)
    state = {"world_from_cam": cameras, "log_depth_scale": 0.1 * numbers(4, 1)}
    rows = term.gather(state)
    _, exact = term.linearise(state)
    for k, (row, block) in enumerate(zip(rows, exact, strict=True)):
        for direction in range(block.shape[-1]):
            step = torch.zeros(len(row), block.shape[-1], dtype=torch.float64)
            step[:, direction] = 1e-6
            ahead, behind = (term.residual(*rows[:k], retract(row, x), *rows[k + 1 :]) for x in (step, -step))
            assert torch.allclose((ahead - behind) / 2e-6, block[..., direction], atol=1e-7)


def test_few_tracks_on_a_wall_leave_the_turn_to_its_depth() -> None:
    """Thirty poor tracks in one corner of a room: cameras come from its walls."""
    path, random = walk(4), np.random.default_rng(4)
    z = depth_of(ROOM, path, rays())
    uv = np.empty((4, 40, 2))
    uv[0] = random.uniform([60, 40], [130, 110], (40, 2))
    seen = rays()[uv[0, :, 1].astype(int), uv[0, :, 0].astype(int)]
    points = seen * z[0, uv[0, :, 1].astype(int), uv[0, :, 0].astype(int)][:, None]
    for t in range(4):
        x = (points - path[t, :3, 3]) @ path[t, :3, :3]
        uv[t] = x[:, :2] / x[:, 2:] * FOCAL + LENS[2:].numpy() + random.normal(0, 0.7, (40, 2))
    tracks = PixelTracks(
        uv.astype(np.float32), np.ones((4, 40), bool), np.full((4, 40), 0.7, np.float32), np.zeros(40, np.int64), SOURCE
    )
    video = Video(np.zeros((4, HEIGHT, WIDTH, 3), np.uint8), np.arange(4) / 10, "room")
    camera = CameraPrior(Camera.from_focal(FOCAL, WIDTH, HEIGHT), 0.0, SOURCE)
    depth = sensor(z)
    settings = StructureSettings(tracks=40, lens_tracks=40)

    def error(sigma: float) -> float:
        doubtful = replace(depth, sigma=np.full(z.shape, sigma, np.float32))
        observed = Observations(tracks=tracks, camera=camera, depth=doubtful)
        found = rigid_scene(video, observed, Journal("room"), settings).world_from_cam
        return off(np.linalg.inv(found[:1]) @ found, path)[1]

    assert error(0.01) < 0.006 and error(0.01) < 0.5 * error(0.05)
