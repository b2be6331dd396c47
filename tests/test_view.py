"""What the page, the stills and the live view show is where the scene says it is."""

import base64
import json
import re
import shutil
import socket
import subprocess
import zlib
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from view_world import RADIUS, ROOM, ball_centre, room
from worldline.errors import InputError, OutputError
from worldline.scene.scene import Scene
from worldline.view import layers as scene_layers
from worldline.view.layers import Cloud, Detail, extract, on_depth_edge, speeds
from worldline.view.page import dequantise, page, quantise
from worldline.view.server import trail_segments, view
from worldline.view.sheet import depth_colour, sheet
from worldline.view.snapshot import Viewpoint, look, snapshot, splat, stills
from worldline.view.stance import up_world

FRAMES = 6


@pytest.fixture(scope="module")
def scene() -> Scene:
    return room(FRAMES)


@pytest.fixture(scope="module")
def shown(scene) -> scene_layers.Layers:
    return extract(scene)


@pytest.fixture(scope="module")
def page_path(scene, tmp_path_factory):
    return page(scene, tmp_path_factory.mktemp("page") / "scene.html")


def _payload(path) -> tuple[dict, dict[str, np.ndarray]]:
    text = path.read_text()
    manifest = json.loads(re.search(r'id="manifest">(.*?)</script>', text, re.S).group(1))
    block = zlib.decompress(base64.b64decode(re.search(r'id="block">(.*?)</script>', text, re.S).group(1)))
    arrays = {
        name: np.frombuffer(block, at["type"], int(np.prod(at["shape"])), at["offset"]).reshape(at["shape"])
        for name, at in manifest["arrays"].items()
    }
    return manifest, arrays


# --- what is drawn


def test_static_points_lie_on_the_walls(shown):
    to_wall = np.abs(shown.static.points_world[:, None] - ROOM[None]).min((1, 2))
    assert len(shown.static) > 5000
    assert np.percentile(to_wall, 99) < 0.02 and to_wall.max() < 0.1


def test_moving_points_lie_on_the_ball_of_their_own_frame(shown):
    for k, cloud in enumerate(shown.moving):
        distance = np.linalg.norm(cloud.points_world - ball_centre(k / (FRAMES - 1)), axis=-1)
        assert len(cloud) > 50 and np.abs(distance - RADIUS).max() < 1e-3


def test_points_that_other_frames_look_through_are_dropped(scene):
    depth_z = scene.depth_z.copy()
    depth_z[2, 30:50, 60:90] = 1.0
    shown = extract(replace(scene, depth_z=depth_z, moving=np.zeros_like(scene.moving)))
    in_mid_air = np.abs(shown.static.points_world[:, None] - ROOM[None]).min((1, 2)) > 0.8
    clear = np.linalg.norm(shown.static.points_world - scene.centres_world[2], axis=-1) < 1.2
    assert not (in_mid_air & clear).any()


def test_a_slanted_plane_has_no_depth_edges_and_a_step_has(scene):
    u, v = np.meshgrid(np.arange(160), np.arange(96))
    plane = (1 / (0.2 + 0.001 * u + 0.002 * v)).astype(np.float32)
    every = np.ones_like(plane, bool)
    lens = scene.camera.at(0)
    assert not on_depth_edge(plane, every, lens, bend=0.05, grazing=0.05).any()
    step = np.where(u < 80, 2.0, 4.0).astype(np.float32)
    assert on_depth_edge(step, every, lens, bend=0.05, grazing=0.05)[:, 79:81].all()


def test_the_budget_of_points_is_kept(scene):
    shown = extract(scene, Detail(static_points=2000, moving_points=600, trails=7))
    assert 1000 < len(shown.static) <= 2000
    assert sum(map(len, shown.moving)) <= 600
    assert shown.trails.points_world.shape[1] == 7


def test_a_few_wild_depths_do_not_make_the_scene_a_dot(scene, shown):
    depth_z = scene.depth_z.copy()
    depth_z[:, ::16, ::16] = 1e5
    wild = extract(replace(scene, depth_z=depth_z))
    assert np.ptp(wild.bounds, axis=0).max() < 3 * np.ptp(shown.bounds, axis=0).max()


def test_up_is_the_normal_of_the_floor_even_when_the_camera_looks_down(scene):
    pitch = np.radians(25)
    tilt = np.eye(4)
    tilt[1:3, 1:3] = [[np.cos(pitch), -np.sin(pitch)], [np.sin(pitch), np.cos(pitch)]]
    tilted = replace(scene, world_from_cam=tilt @ scene.world_from_cam, tracks=None)
    assert np.degrees(np.arccos(extract(tilted).up_world @ (tilt[:3, :3] @ [0, -1, 0]))) < 2


def test_up_without_any_ground_is_against_the_image_y_axis():
    poses = np.tile(np.eye(4), (3, 1, 1))
    assert np.allclose(up_world(poses, np.zeros((0, 3))), [0, -1, 0])


def test_speed_of_uniform_motion_is_its_velocity_at_every_frame():
    times_s = np.array([0, 0.1, 0.3, 0.35])
    points = times_s[:, None, None] * np.array([3.0, 0, 4.0])
    assert np.allclose(speeds(points, times_s), 5.0)


def test_a_scene_without_any_depth_says_so(scene):
    with pytest.raises(InputError, match="nothing to see"):
        extract(replace(scene, valid=np.zeros_like(scene.valid)))


def test_a_scene_of_sparse_points_alone_is_shown_as_it_is(scene):
    points = np.random.default_rng(0).uniform(*ROOM, size=(500, 3)).astype(np.float32)
    shown = extract(replace(scene, valid=np.zeros_like(scene.valid), static_points=points))
    assert np.array_equal(np.unique(shown.static.points_world, axis=0), np.unique(points, axis=0))


def test_the_first_viewpoint_holds_the_cameras_and_nearly_all_points(scene, shown):
    viewpoint = look(shown, 0, "orbit", (400, 300))
    everything = np.concatenate([shown.static.points_world, scene.centres_world])
    uv, depth_z = viewpoint.project(everything)
    inside = (depth_z > 0) & (uv > 0).all(-1) & (uv < (400, 300)).all(-1)
    assert inside[-FRAMES:].all() and inside.mean() > 0.95
    assert (uv[inside].max(0) - uv[inside].min(0) > (150, 150)).any()
    head, foot = viewpoint.project(np.array([[0, -1.0, 3], [0, 1.0, 3]]))[0]
    assert head[1] < foot[1]


def test_a_still_scene_of_one_frame_can_be_shown(scene, tmp_path):
    names = ("depth_z", "depth_sigma", "moving", "image", "valid", "world_from_cam", "times_s")
    one = replace(scene, **{name: getattr(scene, name)[:1] for name in names}, tracks=None, health={})
    assert page(one, tmp_path / "one.html").stat().st_size > 0
    assert len(stills(one, tmp_path / "stills")) == 4


def test_stills_of_a_very_tall_scene_stay_small(tmp_path):
    sizes = [Image.open(path).size for path in stills(room(2, width=16, height=320), tmp_path / "stills")]
    assert max(max(size) for size in sizes) <= 2500


# --- the page


def test_a_scene_with_hardly_a_valid_pixel_can_still_be_looked_at(tmp_path):
    valid = np.zeros((3, 96, 160), bool)
    valid[:, 40, 80] = True
    scene = replace(room(3), valid=valid, tracks=None)
    page(scene, tmp_path / "page.html")
    stills(scene, tmp_path / "stills")
    assert (tmp_path / "page.html").exists() and any((tmp_path / "stills").iterdir())


def test_the_page_loads_nothing_from_anywhere(page_path):
    text = page_path.read_text()
    assert not re.search(r"https?://", text)
    assert not re.search(r"<(link|script|img)[^>]+(src|href)=[\"'](?!data:)", text)
    assert "@import" not in text and "import(" not in text and "{{" not in text


def test_markup_in_names_and_notes_stays_text(page_path):
    text = page_path.read_text()
    assert "room &lt;b&gt;" in text and "room <b>" not in text
    assert text.count("</script>") == 3
    assert _payload(page_path)[0]["notes"] == ["A note with </script> in it."]


def test_positions_in_the_page_are_those_of_the_scene(page_path, shown):
    manifest, arrays = _payload(page_path)
    bounds = np.array(manifest["bounds"])
    step = (bounds[1] - bounds[0]).max() / 65535
    decoded = dequantise(arrays["moving_position"], bounds)
    first = arrays["moving_first"]
    for k in range(FRAMES):
        mine = decoded[first[k] : first[k + 1]]
        distance = np.linalg.norm(mine - ball_centre(k / (FRAMES - 1)), axis=-1)
        assert np.abs(distance - RADIUS).max() < 1e-3 + 2 * step
    static = dequantise(arrays["static_position"], bounds)
    assert np.abs(static[:, None] - ROOM[None]).min((1, 2)).max() < 0.1
    trail = dequantise(arrays["trail_position"], bounds)
    assert np.abs(trail - shown.trails.points_world).max() < 2 * step


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_quantising_is_exact_to_half_a_step(seed):
    random = np.random.default_rng(seed)
    bounds = np.sort(random.normal(size=(2, 3)) * 10 ** random.uniform(-3, 3), axis=0)
    points = bounds[0] + random.random((50, 3)) * (bounds[1] - bounds[0])
    step = (bounds[1] - bounds[0]) / 65535
    assert (np.abs(dequantise(quantise(points, bounds), bounds) - points) <= 0.5001 * step).all()


def test_the_page_states_scale_focal_trust_and_history(page_path, scene):
    manifest, _ = _payload(page_path)
    assert manifest["metric"] is True and manifest["metric_source"] == "given"
    assert manifest["focal"] == pytest.approx(scene.camera.focal, abs=0.1)
    assert manifest["trust"] == pytest.approx(scene.health["trust"], abs=1e-3)
    assert manifest["history"][0]["name"] == "render"
    assert len(manifest["pictures"]) == len(manifest["masks"]) == FRAMES


def test_an_existing_page_is_kept_unless_asked(page_path, scene):
    before = page_path.read_bytes()
    with pytest.raises(OutputError, match="overwrite"):
        page(scene, page_path)
    assert page_path.read_bytes() == before
    assert page(scene, page_path, overwrite=True) == page_path
    assert [p.name for p in page_path.parent.iterdir()] == [page_path.name]


@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium on this machine")
def test_a_browser_draws_the_page_without_a_complaint(page_path, tmp_path):
    shot = tmp_path / "shot.png"
    flags = (
        "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
        "--disable-component-update --disable-sync --use-angle=swiftshader --enable-unsafe-swiftshader "
        "--ignore-gpu-blocklist --enable-logging=stderr --window-size=640,400 --virtual-time-budget=4000"
    ).split()
    address = f"{page_path.as_uri()}#view=camera&hide=grid,cameras,trails,picture"
    command = ["chromium", *flags, f"--user-data-dir={tmp_path / 'profile'}", f"--screenshot={shot}", address]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60)
    console = [line for line in run.stderr.splitlines() if "CONSOLE" in line and "GPU stall" not in line]
    assert not console
    middle = np.asarray(Image.open(shot).convert("RGB"))[120:300, 100:400]
    assert middle.std() > 10 and middle.mean() > 60


# --- the stills


def test_a_red_point_lands_at_its_pixel(scene):
    viewpoint = look(extract(scene), 3, "camera", (320, 192))
    point_cam = np.array([0.4, -0.2, 2.0])
    world_from_cam = scene.world_from_cam[3]
    point = world_from_cam[:3, :3] @ point_cam + world_from_cam[:3, 3]
    cloud = Cloud(point[None].astype(np.float32), np.array([[255, 0, 0]], np.uint8), np.array([0.02], np.float32))
    image, depth_z = splat(cloud, viewpoint)
    fx, fy, cx, cy = scene.camera.at(3) * 2
    row, column = np.nonzero((image == (255, 0, 0)).all(-1))
    assert abs(column.mean() + 0.5 - (fx * 0.4 / 2 + cx)) < 0.6
    assert abs(row.mean() + 0.5 - (fy * -0.2 / 2 + cy)) < 0.6
    assert depth_z[row, column] == pytest.approx(2.0)


def test_the_nearer_disc_hides_the_farther():
    lens = Viewpoint(np.eye(4), np.array([50.0, 50, 32, 32]), 64, 64)
    points = np.array([[0, 0, 1.0], [0, 0, 2.0], [0.9, 0.9, 2.0], [0, 0, -1.0]], np.float32)
    colour = np.array([[1, 0, 0], [2, 0, 0], [3, 0, 0], [4, 0, 0]], np.uint8)
    image, _ = splat(Cloud(points, colour, np.full(4, 0.04, np.float32)), lens)
    assert image[32, 32, 0] == 1 and image[54, 54, 0] == 3
    assert set(np.unique(image[(image[..., 1:] == 0).all(-1)][:, 0])) == {1, 3}


def test_the_camera_view_looks_like_the_frame(scene, shown):
    viewpoint, cloud = look(shown, 2, "camera", (160, 96)), shown.moving[2]
    both = (np.concatenate(pair) for pair in zip(vars(cloud).values(), vars(shown.static).values(), strict=True))
    drawn, _ = splat(Cloud(*both), viewpoint)
    apart = np.abs(drawn.astype(int) - scene.image[2]).mean(-1)
    mirrored = np.abs(drawn.astype(int) - scene.image[2][:, ::-1]).mean(-1)
    assert np.median(apart) < 5 and (apart < 40).mean() > 0.93
    assert np.median(mirrored) > 20


def test_from_above_ahead_is_up_and_right_is_right(shown):
    viewpoint = look(shown, 0, "top", (400, 300))
    uv, depth_z = viewpoint.project(np.array([[0, 0, 1.0], [1, 0, 1], [0, 0, 2], [0, 1, 1]]))
    assert uv[1, 0] > uv[0, 0] + 5 and abs(uv[1, 1] - uv[0, 1]) < 2
    assert uv[2, 1] < uv[0, 1] - 5 and abs(uv[2, 0] - uv[0, 0]) < 2
    assert depth_z[3] > depth_z[0]


@pytest.mark.parametrize("view_name", ["camera", "orbit", "top", "side"])
def test_every_view_has_the_size_asked_for_and_shows_the_scene(scene, tmp_path, view_name):
    path = snapshot(scene, tmp_path / "still.png", view=view_name, size=(240, 150))
    image = np.asarray(Image.open(path))
    assert image.shape == (150, 240, 3)
    assert (np.abs(image.astype(int) - (17, 19, 23)).max(-1) > 30).mean() > 0.08


@pytest.mark.usefixtures("production")
def test_wrong_frames_and_views_are_named(scene, tmp_path):
    with pytest.raises(InputError, match="0 to 5"):
        snapshot(scene, tmp_path / "still.png", frame=6)
    with pytest.raises(InputError, match="camera, orbit, top or side"):
        snapshot(scene, tmp_path / "still.png", view="below")
    assert not list(tmp_path.iterdir())


def test_near_depth_is_brighter_than_far_and_unknown_is_grey():
    depth_z, valid = np.array([[1.0, 2.0, 4.0, 3.0]]), np.array([[True, True, True, False]])
    drawn = depth_colour(depth_z, valid, 1.0, 4.0).astype(int).sum(-1)[0]
    assert drawn[0] > drawn[1] > drawn[2]
    assert drawn[3] == 38 + 41 + 47


def test_the_sheet_has_a_row_for_each_frame_and_four_columns(scene):
    two, four = sheet(scene, rows=2, cell_width=80), sheet(scene, rows=4, cell_width=80)
    assert four.shape[0] - two.shape[0] == 2 * (48 + 8)
    assert four.shape[1] == 64 + 4 * (80 + 8)


# --- the live view


def test_trails_of_the_live_view_end_at_the_present_frame(shown):
    segments, colour = trail_segments(shown, 3, length=2)
    tracks = shown.trails.points_world.shape[1]
    assert segments.shape == (2 * tracks, 2, 3) and colour.shape == (2 * tracks, 3)
    assert np.array_equal(segments[-tracks:, 1], shown.trails.points_world[3])
    assert len(trail_segments(shown, 0)[0]) == 0


def test_a_port_in_use_is_one_sentence(scene):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(InputError, match=f"port {port} is in use"):
            view(scene, port=port, block=False)


def test_the_live_view_serves_several_scenes(scene):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = view(scene, replace(scene, name="other", tracks=None), port=port, block=False)
    try:
        assert server.get_port() == port
    finally:
        server.stop()
