"""Exports: what is written reads back to the same scene, here and in the tools it is written for."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from worldline.errors import FormatError, InputError, OutputError
from worldline.geometry import camera as pinhole
from worldline.geometry import se3
from worldline.geometry.camera import Camera
from worldline.io.formats import colmap, export, formats, npz, ply, png_depth, tum
from worldline.scene.motion import Flow, WorldTracks
from worldline.scene.scene import CameraSigma, Scene, Step
from worldline.scene.store import load, save

T, H, W, N = 5, 24, 32, 40
ORIGINAL = (96, 72)


def random_poses(count: int, seed: int = 0, step: float = 0.05) -> np.ndarray:
    """A path that starts at the identity."""
    steps = step * torch.randn(count - 1, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    path = [torch.eye(4, dtype=torch.float64)]
    for motion in se3.exp(steps):
        path.append(path[-1] @ motion)
    return torch.stack(path).numpy()


@pytest.fixture(scope="module")
def scene() -> Scene:
    rng = np.random.default_rng(0)
    moving = np.zeros((T, H, W), np.uint8)
    moving[:, 5:10, 6:12] = 1
    valid = np.ones((T, H, W), dtype=bool)
    valid[:, :2] = False
    tracks = WorldTracks(
        points_world=np.broadcast_to(rng.uniform([-1, -0.8, 3], [1, 0.8, 5], (N, 3)), (T, N, 3)).astype(np.float32),
        visible=rng.random((T, N)) < 0.8,
        sigma=np.full((T, N), 0.01, np.float32),
        colour=rng.integers(0, 255, (N, 3), dtype=np.uint8),
        moving=np.arange(N) < 5,
        query_frame=np.zeros(N, np.int32),
    )
    smooth = cv2.resize(rng.integers(0, 255, (3, 4, 3), dtype=np.uint8), (W, H))
    return Scene(
        times_s=1311868164.363181 + np.arange(T) / 29.97,
        camera=Camera(np.array([40.0, 41.0, 15.5, 12.5]), W, H),
        world_from_cam=random_poses(T),
        depth_z=np.where(valid, rng.uniform(2, 6, (T, H, W)), 0).astype(np.float32),
        depth_sigma=np.full((T, H, W), 0.1, np.float32),
        valid=valid,
        moving=moving,
        image=np.stack([np.roll(smooth, t, axis=1) for t in range(T)]),
        camera_sigma=CameraSigma(np.linspace(0.01, 0.02, T), np.full(T, 0.001), 0.03),
        tracks=tracks,
        flow=Flow(1, rng.normal(size=(T, H, W, 3)).astype(np.float32), valid),
        static_points=rng.normal(size=(30, 3)).astype(np.float32),
        static_colour=rng.integers(0, 255, (30, 3), dtype=np.uint8),
        metric=True,
        metric_source="given",
        health={"trust": np.linspace(0, 1, T)},
        name="kitchen",
        original_from_stored=np.diag([3.0, 3.0, 1.0]),
        original_size=ORIGINAL,
        notes=("a note", "another"),
        history=(Step("cameras", {"iterations": 3}, {"cost": 0.5}),),
    )


@pytest.fixture(scope="module")
def stored(scene: Scene, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """The same scene with its maps still on disk."""
    return load(save(scene, tmp_path_factory.mktemp("stored") / "scene"))


ONE_OF_EACH = {"colmap": "out", "npz": "out.npz", "ply": "out.ply", "png-depth": "out", "tum": "out.tum"}


def assert_same_camera_sigma(again: Scene, scene: Scene) -> None:
    assert again.camera_sigma is not None and scene.camera_sigma is not None
    for name, value in vars(scene.camera_sigma).items():
        np.testing.assert_array_equal(getattr(again.camera_sigma, name), value)


def test_the_uncertainty_of_the_cameras_is_stored(stored: Scene, scene: Scene) -> None:
    assert_same_camera_sigma(stored, scene)


def written(path: Path) -> dict[str, bytes]:
    files = [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.is_file())
    return {p.name: p.read_bytes() for p in files}


def test_every_format_is_tested_here() -> None:
    assert formats() == sorted(ONE_OF_EACH)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_a_scene_on_disk_exports_like_one_in_memory(scene: Scene, stored: Scene, tmp_path: Path, name: str) -> None:
    a = export(scene, tmp_path / "memory" / ONE_OF_EACH[name], format=name)
    b = export(stored, tmp_path / "disk" / ONE_OF_EACH[name], format=name)
    if name != "npz":  # its archive holds the time of writing
        assert written(a) == written(b)
    assert [p.name for p in a.parent.iterdir()] == [a.name]


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_existing_output_is_kept_unless_asked(scene: Scene, tmp_path: Path, name: str) -> None:
    target = export(scene, tmp_path / ONE_OF_EACH[name], format=name)
    before = written(target)
    other = replace(
        scene,
        depth_z=scene.depth_z * 0.9,
        times_s=scene.times_s + 1,
        static_points=scene.points_world(0)[3],
        static_colour=np.zeros((W, 3), np.uint8),
    )
    with pytest.raises(OutputError, match="already exists"):
        export(other, target, format=name)
    assert written(target) == before
    export(other, target, format=name, overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == [target.name]
    assert written(target) != before


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_overwriting_never_takes_what_is_not_an_export(scene: Scene, tmp_path: Path, name: str) -> None:
    files = name not in ("colmap", "png-depth")
    (tmp_path / "holiday").mkdir()
    (tmp_path / "holiday" / "photo.jpg").write_text("precious")
    (tmp_path / "letter").write_text("precious")
    with pytest.raises(OutputError, match="choose another name"):
        export(scene, tmp_path / "holiday", format=name, overwrite=True)
    if not files:
        with pytest.raises(OutputError, match="is a file"):
            export(scene, tmp_path / "letter", format=name, overwrite=True)
    assert set(written(tmp_path).values()) == {b"precious"}


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_output_that_cannot_be_written_is_an_output_error(scene: Scene, tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(OutputError, match="cannot write"):
        export(scene, tmp_path / "file" / ONE_OF_EACH[name], format=name)


@pytest.mark.parametrize("name", ONE_OF_EACH)
def test_an_export_that_fails_leaves_the_old_output(
    scene: Scene, tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    target = export(scene, tmp_path / ONE_OF_EACH[name], format=name)
    before = written(target)
    monkeypatch.setattr("worldline.scene.atomic.replace_path", full_disk)
    with pytest.raises(OutputError, match="No space left"):
        export(scene, target, format=name, overwrite=True)
    assert written(target) == before
    assert [p.name for p in tmp_path.iterdir()] == [target.name]


def test_the_suffix_chooses_and_an_unknown_one_lists_what_exists(scene: Scene, tmp_path: Path) -> None:
    for suffix in (".ply", ".tum", ".txt", ".npz"):
        assert export(scene, tmp_path / f"a{suffix}").is_file()
    for name in ("scene.xyz", "folder"):
        with pytest.raises(InputError, match=r"\.npz, \.ply, \.tum, \.txt, or name the format colmap or png-depth"):
            export(scene, tmp_path / name)
    with pytest.raises(InputError, match="no format 'usd'; choose one of colmap, npz, ply, png-depth, tum"):
        export(scene, tmp_path / "a.usd", format="usd")
    with pytest.raises(InputError, match="no option 'scale'"):
        export(scene, tmp_path / "b.ply", scale=3)


READERS = {
    "a.ply": ("a.ply", ply.read_points),
    "a.tum": ("a.tum", tum.read),
    "a.npz": ("a.npz", npz.read),
    "depth/000001.png": ("depth", png_depth.read),
    "depth/depth.json": ("depth", png_depth.read),
    "colmap/sparse/0/cameras.txt": ("colmap/sparse/0", colmap.read_model),
    "colmap/sparse/0/images.txt": ("colmap/sparse/0", colmap.read_model),
    "colmap/sparse/0/points3D.txt": ("colmap/sparse/0", colmap.read_model),
}


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused_but_never_crash(scene: Scene, tmp_path: Path, name: str) -> None:
    export(scene, tmp_path / "depth", format="png-depth")
    export(scene, tmp_path / "colmap", format="colmap")
    for suffix in ("ply", "tum", "npz"):
        export(scene, tmp_path / f"a.{suffix}")
    rng = np.random.default_rng(0)
    good, (what, read) = (tmp_path / name).read_bytes(), READERS[name]
    refused = 0
    for _ in range(40):
        bad = bytearray(good[: rng.integers(1, len(good) + 1)])
        for at in rng.integers(0, min(len(bad), 1500), rng.integers(0, 8)):
            bad[at] = rng.integers(256)
        (tmp_path / name).write_bytes(bad)
        try:
            read(tmp_path / what)
        except FormatError as error:
            refused += 1
            assert "\n" not in str(error)
    assert refused > 10


# PLY


def test_ply_of_the_static_structure(scene: Scene, tmp_path: Path) -> None:
    points, colours = ply.read_points(export(scene, tmp_path / "a.ply"))
    np.testing.assert_array_equal(points, scene.static_points)
    np.testing.assert_array_equal(colours, scene.static_colour)


def test_ply_of_one_frame_and_of_all_frames(scene: Scene, tmp_path: Path) -> None:
    points, colours = ply.read_points(export(scene, tmp_path / "a.ply", frame=2))
    assert scene.image is not None
    np.testing.assert_array_equal(points, scene.points_world(2)[scene.valid[2]])
    np.testing.assert_array_equal(colours, scene.image[2][scene.valid[2]])
    folder = export(scene, tmp_path / "all", format="ply")
    assert sorted(p.name for p in folder.iterdir()) == [*(f"frame_{t:05d}.ply" for t in range(T)), "static.ply"]
    np.testing.assert_array_equal(ply.read_points(folder / "frame_00002.ply")[0], points)
    with pytest.raises(InputError, match="no frame 9"):
        export(scene, tmp_path / "b.ply", frame=9)


def test_ply_without_structure_takes_the_static_pixels(scene: Scene, tmp_path: Path) -> None:
    bare = replace(scene, static_points=None, static_colour=None)
    points, _ = ply.read_points(export(bare, tmp_path / "a.ply"))
    assert len(points) == int((scene.valid & (scene.moving == 0)).sum())
    empty = replace(bare, valid=np.zeros_like(scene.valid))
    with pytest.raises(InputError, match="no valid static point"):
        export(empty, tmp_path / "b.ply")


def test_ply_in_independent_readers(scene: Scene, tmp_path: Path) -> None:
    plyfile = pytest.importorskip("plyfile", reason="plyfile is not installed")
    trimesh = pytest.importorskip("trimesh", reason="trimesh is not installed")
    path = export(scene, tmp_path / "a.ply")
    vertices = plyfile.PlyData.read(path)["vertex"]
    np.testing.assert_array_equal(np.stack([vertices[a] for a in "xyz"], -1), scene.static_points)
    np.testing.assert_array_equal(np.stack([vertices[c] for c in ("red", "green", "blue")], -1), scene.static_colour)
    np.testing.assert_allclose(trimesh.load(path).vertices, scene.static_points)


def test_ply_that_is_not_one_is_refused(scene: Scene, tmp_path: Path) -> None:
    path = export(scene, tmp_path / "a.ply")
    data = path.read_bytes()
    for bad in (b"", b"ply\nformat ascii 1.0\n", data[:-7], data.replace(b"property float z\n", b"")):
        path.write_bytes(bad)
        with pytest.raises(FormatError):
            ply.read_points(path)


def test_points_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not finite"):
        ply.write_points(tmp_path / "a.ply", np.full((1, 3), np.nan, np.float32), np.zeros((1, 3), np.uint8))


# TUM


def test_tum_reads_back_exactly(scene: Scene, tmp_path: Path) -> None:
    trajectory = tum.read(export(scene, tmp_path / "a.tum"))
    np.testing.assert_array_equal(trajectory.times_s, scene.times_s)
    np.testing.assert_allclose(trajectory.world_from_cam, scene.world_from_cam, atol=1e-14)
    assert trajectory.notes == ()


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.001, 3.0))
def test_any_rotation_survives_tum(tmp_path_factory: pytest.TempPathFactory, seed: int, step: float) -> None:
    poses = random_poses(6, seed, step)[1:]
    path = tmp_path_factory.getbasetemp() / "any.tum"
    tum.write_trajectory(path, tum.Trajectory(np.arange(5.0), poses))
    np.testing.assert_allclose(tum.read(path).world_from_cam, poses, atol=1e-12)


def test_tum_in_evo(scene: Scene, tmp_path: Path) -> None:
    pytest.importorskip("evo", reason="evo is not installed")
    from evo.tools import file_interface

    path = export(scene, tmp_path / "a.txt")
    trajectory = file_interface.read_tum_trajectory_file(str(path))
    np.testing.assert_allclose(np.stack(trajectory.poses_se3), scene.world_from_cam, atol=1e-12)
    np.testing.assert_array_equal(trajectory.timestamps, scene.times_s)


def scalar_first(path: Path) -> Path:
    rows = [line.split() for line in path.read_text().splitlines()[1:]]
    path.write_text("\n".join(" ".join([*r[:4], r[7], *r[4:7]]) for r in rows))
    return path


def test_scalar_first_files_are_recognised_and_said(scene: Scene, tmp_path: Path) -> None:
    path = scalar_first(export(scene, tmp_path / "a.tum"))
    trajectory = tum.read(path)
    np.testing.assert_allclose(trajectory.world_from_cam, scene.world_from_cam, atol=1e-12)
    assert "scalar first" in trajectory.notes[0]
    assert not np.allclose(tum.read(path, order="xyzw").world_from_cam, scene.world_from_cam)


def test_the_quaternion_order_can_be_given(tmp_path: Path) -> None:
    poses = random_poses(6)[1:]
    tum.write_trajectory(tmp_path / "a.tum", tum.Trajectory(np.arange(5.0), poses))
    path = scalar_first(tmp_path / "a.tum")
    np.testing.assert_allclose(tum.read(path, order="wxyz").world_from_cam, poses, atol=1e-12)


def test_smoothness_cannot_tell_the_quaternion_order() -> None:
    rotation = torch.from_numpy(random_poses(30, seed=3)[:, :3, :3])
    misread = se3.rotation_from_wxyz(se3.xyzw_from_wxyz(se3.quaternion_wxyz(rotation)))
    turns = [se3.so3_log(r[:-1].mT @ r[1:]).diff(dim=0).norm(dim=-1) for r in (rotation, misread)]
    assert not torch.allclose(rotation, misread, atol=0.1)
    world_turns = se3.so3_log(rotation[1:] @ rotation[:-1].mT).diff(dim=0).norm(dim=-1)
    torch.testing.assert_close(turns[1], world_turns)


@pytest.mark.parametrize(
    "text", ["", "# only\n", "1 2 3\n", "0 0 0 0 0 0 0 0\n", "0 0 0 0 0 0 0 nan\n", "a b c d e f g h"]
)
def test_tum_that_is_not_one_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.tum").write_text(text)
    with pytest.raises(FormatError, match=r"a\.tum"):
        tum.read(tmp_path / "a.tum")


# npz


def test_npz_holds_everything(scene: Scene, stored: Scene, tmp_path: Path) -> None:
    again = npz.read(export(stored, tmp_path / "a.npz"))
    for name in ("times_s", "world_from_cam", "depth_z", "depth_sigma", "valid", "moving", "image", "static_points"):
        np.testing.assert_array_equal(getattr(again, name), getattr(scene, name))
    for name in ("metric", "metric_source", "name", "original_size", "notes", "history"):
        assert getattr(again, name) == getattr(scene, name)
    assert again.tracks is not None and scene.tracks is not None and again.flow is not None and scene.flow is not None
    for name, values in vars(scene.tracks).items():
        np.testing.assert_array_equal(getattr(again.tracks, name), values)
    np.testing.assert_array_equal(again.flow.displacement, scene.flow.displacement)
    np.testing.assert_array_equal(again.health["trust"], scene.health["trust"])
    assert_same_camera_sigma(again, scene)
    np.testing.assert_array_equal(again.camera.intrinsics, scene.camera.intrinsics)


def test_npz_without_the_optional_parts(scene: Scene, tmp_path: Path) -> None:
    bare = replace(
        scene, image=None, tracks=None, flow=None, static_points=None, static_colour=None, health={}, notes=()
    )
    again = npz.read(export(bare, tmp_path / "a.npz"))
    assert (again.image, again.tracks, again.flow, again.static_points, again.notes) == (None, None, None, None, ())


def test_damaged_npz_is_refused(scene: Scene, tmp_path: Path) -> None:
    path = export(scene, tmp_path / "a.npz")
    data = path.read_bytes()
    np.savez(tmp_path / "other.npz", a=np.zeros(3))
    for bad in (b"", data[: len(data) // 2], (tmp_path / "other.npz").read_bytes()):
        path.write_bytes(bad)
        with pytest.raises(FormatError):
            npz.read(path)
    with pytest.raises(InputError, match="does not exist"):
        npz.read(tmp_path / "none.npz")


# 16-bit depth


def test_png_depth_is_in_millimetres(scene: Scene, tmp_path: Path) -> None:
    folder = export(scene, tmp_path / "depth", format="png-depth")
    depth_z, said = png_depth.read(folder)
    assert (said["scale"], said["unit"]) == (1000.0, "metre")
    np.testing.assert_allclose(depth_z, scene.depth_z, atol=0.00051)
    raw = cv2.imread(str(folder / "000003.png"), cv2.IMREAD_UNCHANGED)
    assert raw is not None and raw.dtype == np.uint16
    assert (raw[~scene.valid[3]] == 0).all() and (raw[scene.valid[3]] > 0).all()


def test_png_depth_without_metres_states_its_scale(scene: Scene, tmp_path: Path) -> None:
    relative = replace(scene, metric=False, depth_z=scene.depth_z / 500)
    folder = export(relative, tmp_path / "depth", format="png-depth")
    depth_z, said = png_depth.read(folder)
    assert said["scale"] == 5_000_000
    assert "not metric" in json.loads((folder / "depth.json").read_text())["unit"]
    np.testing.assert_allclose(depth_z, relative.depth_z, atol=0.51 / said["scale"])


def test_depth_past_the_limit_names_a_scale_that_works(scene: Scene, tmp_path: Path) -> None:
    far = replace(scene, depth_z=scene.depth_z * 20)
    with pytest.raises(InputError, match=r"16 bits end at 65\.5 m with scale 1000; use scale=256 \(up to 256\.0 m\)"):
        export(far, tmp_path / "depth", format="png-depth")
    assert not list(tmp_path.iterdir())
    depth_z, _ = png_depth.read(export(far, tmp_path / "depth", format="png-depth", scale=256))
    np.testing.assert_allclose(depth_z, far.depth_z, atol=0.51 / 256)


@settings(max_examples=40, deadline=None)
@given(st.floats(1e-6, 1e6))
def test_the_chosen_scale_uses_the_range_and_fits(most: float) -> None:
    scale = png_depth._largest_scale(most)
    assert 65535 / 2.6 < scale * most <= 65535


@pytest.mark.parametrize("value", [np.nan, np.inf, -1.0, 0.0, 1e-5])
def test_depth_that_16_bits_would_garble_is_refused(scene: Scene, tmp_path: Path, value: float) -> None:
    depth_z = scene.depth_z.copy()
    depth_z[2, 10, 10] = value
    with pytest.raises(InputError):
        export(replace(scene, depth_z=depth_z), tmp_path / "depth", format="png-depth")
    assert not list(tmp_path.iterdir())


def test_values_under_invalid_pixels_do_not_matter(scene: Scene, tmp_path: Path) -> None:
    odd = replace(scene, depth_z=np.where(scene.valid, scene.depth_z, np.nan))
    depth_z, _ = png_depth.read(export(odd, tmp_path / "depth", format="png-depth"))
    assert (depth_z[~scene.valid] == 0).all()


@pytest.mark.parametrize(("module", "name"), [(png_depth, "png-depth"), (colmap, "colmap")])
def test_an_image_that_cannot_be_written_is_an_error(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, module: object, name: str
) -> None:
    monkeypatch.setattr(cv2, "imwrite", lambda *_: False)
    with pytest.raises(OutputError, match="disk full"):
        export(scene, tmp_path / "out", format=name)
    assert not list(tmp_path.iterdir())


# COLMAP


def test_colmap_model_reads_back(scene: Scene, tmp_path: Path) -> None:
    model = colmap.model_of(scene)
    again = colmap.read_model(export(scene, tmp_path / "c", format="colmap") / "sparse" / "0")
    np.testing.assert_allclose(again.cam_from_world, np.linalg.inv(scene.world_from_cam), atol=1e-12)
    np.testing.assert_array_equal(again.points_world, model.points_world)
    np.testing.assert_array_equal(again.colour, model.colour)
    np.testing.assert_array_equal(again.observations, model.observations)
    np.testing.assert_allclose(again.uv, model.uv, atol=1e-4)
    assert (again.model, again.parameters, again.names) == (model.model, model.parameters, model.names)


def test_colmap_cameras_are_those_of_the_original_images(scene: Scene, tmp_path: Path) -> None:
    model = colmap.model_of(scene)
    assert model.parameters == ((120.0, 123.0, 46.5, 37.5),)
    np.testing.assert_array_equal(model.size, [ORIGINAL])
    folder = export(scene, tmp_path / "c", format="colmap")
    for kind, names in (("images", "{:06d}.jpg"), ("masks", "{:06d}.jpg.png")):
        files = [cv2.imread(str(folder / kind / names.format(t))) for t in range(T)]
        assert all(f is not None and f.shape == (*ORIGINAL[::-1], 3) for f in files)
    assert scene.image is not None
    shrunk = cv2.resize(cv2.imread(str(folder / "images" / "000001.jpg")), (W, H), interpolation=cv2.INTER_AREA)
    assert np.abs(shrunk[..., ::-1].astype(int) - scene.image[1]).mean() < 4
    mask = cv2.imread(str(folder / "masks" / "000001.jpg.png"), cv2.IMREAD_GRAYSCALE)
    np.testing.assert_array_equal(mask == 0, np.kron(scene.moving[1], np.ones((3, 3))) > 0)


def test_a_static_point_that_is_also_a_track_is_exported_once(scene: Scene) -> None:
    tracked = colmap.model_of(replace(scene, static_points=None, static_colour=None))
    count = len(tracked.points_world)
    both = np.concatenate([tracked.points_world, tracked.points_world[:1] + 5]).astype(np.float32)
    again = colmap.model_of(replace(scene, static_points=both, static_colour=np.zeros((count + 1, 3), np.uint8)))
    assert count > 0 and len(again.points_world) == count + 1
    assert np.allclose(again.points_world[-1], both[-1])


def test_colmap_tracks_are_static_seen_twice_and_reproject(scene: Scene) -> None:
    model = colmap.model_of(scene)
    assert scene.tracks is not None and scene.static_points is not None
    tracked = len(model.points_world) - len(scene.static_points)
    image, point = model.observations.T
    assert 10 < tracked <= int((~scene.tracks.moving).sum())
    assert set(point) == set(range(tracked)) and np.bincount(point).min() >= 2
    points_cam = np.einsum("kij,kj->ki", model.cam_from_world[image, :3, :3], model.points_world[point])
    points_cam += model.cam_from_world[image, :3, 3]
    uv = pinhole.project(torch.from_numpy(points_cam), torch.tensor(model.parameters[0], dtype=torch.float64))
    np.testing.assert_allclose(uv.numpy(), model.uv, atol=1e-4)
    assert (model.error_px[:tracked] < 1e-4).all() and (model.error_px[tracked:] == -1).all()


@pytest.mark.parametrize("distortion", [(), (0.1, -0.02), (0.1, -0.02, 1e-3, 2e-3), (0.1, -0.02, 1e-3, 2e-3, 0.01)])
@pytest.mark.parametrize("per_frame", [False, True])
def test_colmap_agrees_with_pycolmap(
    scene: Scene, tmp_path: Path, distortion: tuple[float, ...], per_frame: bool
) -> None:
    pycolmap = pytest.importorskip("pycolmap", reason="pycolmap is not installed")
    k = scene.camera.frames(T) + np.arange(T)[:, None] if per_frame else scene.camera.intrinsics
    given_scene = replace(scene, camera=Camera(k, W, H, distortion))
    folder = export(given_scene, tmp_path / "c", format="colmap") / "sparse" / "0"
    theirs = pycolmap.Reconstruction(str(folder))
    assert (theirs.num_images(), theirs.num_cameras()) == (T, T if per_frame else 1)
    assert theirs.num_frames() == T and theirs.num_rigs() == theirs.num_cameras()
    assert theirs.num_points3D() == len(colmap.model_of(given_scene).points_world)
    for t in range(T):
        image = theirs.images[t + 1]
        ours = np.linalg.inv(scene.world_from_cam[t])[:3]
        np.testing.assert_allclose(image.cam_from_world().matrix(), ours, atol=1e-12)
        for seen in image.points2D:
            xyz = theirs.points3D[seen.point3D_id].xyz
            np.testing.assert_allclose(image.project_point(xyz), seen.xy, atol=1e-3)


def test_colmap_without_tracks_images_or_points(scene: Scene, tmp_path: Path) -> None:
    bare = replace(scene, image=None, tracks=None, static_points=None, static_colour=None)
    model = colmap.read_model(export(bare, tmp_path / "c", format="colmap") / "sparse" / "0")
    assert len(model.points_world) == len(model.observations) == 0
    assert model.cam_from_world.shape == (T, 4, 4)


def test_colmap_that_is_not_one_is_refused(scene: Scene, tmp_path: Path) -> None:
    folder = export(scene, tmp_path / "c", format="colmap") / "sparse" / "0"
    (folder / "cameras.txt").write_text("1 FISHEYE 10 10 1 2 3\n")
    with pytest.raises(FormatError, match="not a COLMAP text model"):
        colmap.read_model(folder)


def test_a_trajectory_out_of_order_is_sorted_and_says_so(tmp_path):
    file = tmp_path / "recorded.txt"
    file.write_text("2 2 0 0 0 0 0 1\n1 1 0 0 0 0 0 1\n2 9 0 0 0 0 0 1\n3 3 0 0 0 0 0 1\n")
    found = tum.read(file)
    assert found.times_s.tolist() == [1, 2, 3] and found.world_from_cam[:, 0, 3].tolist() == [1, 2, 3]
    assert "sorted and 1 with a repeated time left out" in found.notes[0]
