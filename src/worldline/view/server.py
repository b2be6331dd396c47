"""The live view: one or several scenes in the browser, served from this machine by viser."""

from __future__ import annotations

import errno
import socket
import threading
import time
import webbrowser
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
import torch
import viser
from jaxtyping import Float, Int, UInt8

from worldline.errors import InputError
from worldline.geometry import se3
from worldline.scene.scene import Scene
from worldline.view import colours, stance
from worldline.view.layers import Cloud, Detail, Layers, extract, frame_colour

_TRAIL_FRAMES = 14
_PICTURE_WIDTH = 320
_PANEL_SHARE = 0.12
_LAYERS = ("Static points", "Moving points", "Trails", "Cameras")


def view(
    *scenes: Scene, port: int = 8080, block: bool = True, open_browser: bool = False, host: str = "127.0.0.1"
) -> viser.ViserServer:
    """Serve scenes side by side at `http://localhost:PORT`, with one time slider and the layers as check boxes.

    Args:
        block: stay until interrupted; else return the running server (`server.stop()` ends it).
        host: "0.0.0.0" lets other machines look too.

    Raises:
        InputError: no scene, nothing to see in one, or the port is in use.
    """
    if not scenes:
        raise InputError("there is no scene to view; give at least one.")
    _check_port(host, port)
    layers = [extract(scene, Detail(static_points=400_000, trails=300)) for scene in scenes]
    server = viser.ViserServer(host=host, port=port, label="worldline", verbose=False)
    _furnish(server, layers)
    if open_browser:
        webbrowser.open(f"http://localhost:{port}")
    if block:
        try:
            server.sleep_forever()
        except KeyboardInterrupt:
            server.stop()
    return server


def _check_port(host: str, port: int) -> None:
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((host, port))
        except (OSError, OverflowError) as error:
            if getattr(error, "errno", None) == errno.EADDRINUSE:
                raise InputError(f"port {port} is in use; choose another, for example {port + 1}.") from error
            raise InputError(f"port {port} of {host} cannot be opened ({error}); choose another.") from error


@dataclass(eq=False)
class _Shown:
    """The nodes of one scene. `view_from_world` turns its up to +z and puts it beside its neighbours."""

    layers: Layers
    root: str
    view_from_world: Float[np.ndarray, "4 4"]
    static: list[Any]
    moving: list[Any]
    cameras: list[Any]
    present: Any
    trails: Any = None
    picture: Any = None


def _furnish(server: viser.ViserServer, layers: list[Layers]) -> None:
    server.gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False, brand_color=colours.CURRENT)
    server.scene.set_up_direction("+z")
    server.scene.set_background_image(np.full((1, 1, 3), colours.BACKGROUND, np.uint8))
    offsets = _side_by_side(layers)
    shown = [_add_scene(server, k, one, offset) for k, (one, offset) in enumerate(zip(layers, offsets, strict=True))]
    _add_controls(server, shown)

    @server.on_client_connect
    def _(client: viser.ClientHandle) -> None:
        _stand_home(client, shown)


def _side_by_side(layers: list[Layers]) -> Float[np.ndarray, "s"]:
    """Where along x the first camera of every scene stands, so that neighbours have a gap between them."""
    edges = []
    for one in layers:
        x = (_near_points(one) - one.scene.centres_world[0]) @ _upright(one)[0]
        edges.append(np.percentile(x, [2, 98]))
    gap = 0.12 * max(high - low for low, high in edges)
    starts = [0.0]
    for (_, end), (begin, _) in zip(edges[:-1], edges[1:], strict=True):
        starts.append(starts[-1] + end - begin + gap)
    return np.array(starts)


def _near_points(layers: Layers) -> Float[np.ndarray, "n 3"]:
    points = layers.static.points_world if len(layers.static) else layers.bounds
    return stance.nearby(points, layers.scene.centres_world, layers.median_depth)


def _upright(layers: Layers) -> Float[np.ndarray, "3 3"]:
    """Rotation from the scene's world to x right, y ahead, z up, as seen by the first camera."""
    up = layers.up_world
    ahead = layers.scene.world_from_cam[0, :3, 2]
    right = np.cross(ahead, up)
    right = right / max(float(np.linalg.norm(right)), 1e-9)
    return np.stack([right, np.cross(up, right), up])


def _add_scene(server: viser.ViserServer, index: int, layers: Layers, offset: float) -> _Shown:
    scene, root = layers.scene, f"/scene_{index}"
    motion = np.eye(4)
    motion[:3, :3] = _upright(layers)
    motion[:3, 3] = (offset, 0, 0) - motion[:3, :3] @ scene.centres_world[0]
    server.scene.add_frame(root, show_axes=False, wxyz=_wxyz(motion), position=motion[:3, 3])
    label_at = layers.stance.target_world + 0.5 * layers.median_depth * layers.up_world
    server.scene.add_label(f"{root}/name", scene.name, position=label_at, anchor="bottom-center")
    moving = [_add_cloud(server, f"{root}/moving/{k}", cloud) for k, cloud in enumerate(layers.moving)]
    present = _add_frustum(server, f"{root}/present", layers, int(layers.frames[0]), 1.0, colours.CURRENT, 3.0)
    return _Shown(
        layers, root, motion, _add_static(server, f"{root}/static", layers.static), moving,
        _add_path(server, f"{root}/cameras", layers), present,
    )  # fmt: skip


def _add_static(server: viser.ViserServer, name: str, cloud: Cloud) -> list[Any]:
    """One node for every size of points, for a node has only one."""
    if not len(cloud):
        return []
    octave = np.round(np.log2(cloud.radius / cloud.radius.min())).astype(int)
    parts = [octave == k for k in np.unique(octave)]
    split = [Cloud(cloud.points_world[p], cloud.colour[p], cloud.radius[p]) for p in parts]
    return [_add_cloud(server, f"{name}/{k}", part) for k, part in enumerate(split)]


def _add_cloud(server: viser.ViserServer, name: str, cloud: Cloud) -> Any:
    size = _point_size(cloud.radius)
    return server.scene.add_point_cloud(
        name,
        cloud.points_world,
        cloud.colour,
        point_size=size,
        point_shape="circle",
        precision="float32",
        point_shading="flat",
    )


def _add_frustum(
    server: viser.ViserServer,
    name: str,
    layers: Layers,
    frame: int,
    size: float,
    colour: tuple[int, int, int],
    px: float,
) -> Any:
    scene, world_from_cam = layers.scene, layers.scene.world_from_cam[frame]
    fov = 2 * np.arctan(scene.height / 2 / scene.camera.at(frame)[1])
    return server.scene.add_camera_frustum(
        name,
        float(fov),
        scene.width / scene.height,
        scale=size * layers.frustum_depth,
        thickness=px,
        thickness_units="screen",
        color=colour,
        wxyz=_wxyz(world_from_cam),
        position=world_from_cam[:3, 3],
    )


def _add_path(server: viser.ViserServer, name: str, layers: Layers) -> list[Any]:
    every = max(1, -(-len(layers.frames) // 14))
    nodes = [
        _add_frustum(server, f"{name}/{t}", layers, int(t), 0.5, colours.CAMERA, 1.0) for t in layers.frames[::every]
    ]
    eyes = layers.scene.centres_world[layers.frames]
    if len(eyes) > 1:
        segments = np.stack([eyes[:-1], eyes[1:]], 1).astype(np.float32)
        nodes.append(_add_lines(server, f"{name}/path", segments, np.array(colours.CAMERA), 2.0))
    return nodes


def _add_lines(
    server: viser.ViserServer,
    name: str,
    segments: Float[np.ndarray, "n 2 3"],
    colour: Int[np.ndarray, "*n 3"],
    px: float,
) -> Any:
    ends = np.broadcast_to(colour[..., None, :] if colour.ndim > 1 else colour, segments.shape).astype(np.uint8)
    return server.scene.add_line_segments(name, segments, ends, thickness=px, thickness_units="screen")


def trail_segments(
    layers: Layers, at: int, *, length: int = _TRAIL_FRAMES
) -> tuple[Float[np.ndarray, "n 2 3"], UInt8[np.ndarray, "n 3"]]:
    """The last `length` frames of every moving track before shown frame `at`: segments, coloured by speed."""
    if layers.trails is None or at == 0:
        return np.zeros((0, 2, 3), np.float32), np.zeros((0, 3), np.uint8)
    window = slice(max(0, at - length), at + 1)
    points, speed = layers.trails.points_world[window], layers.trails.speed[window][1:]
    segments = np.stack([points[:-1], points[1:]], 2).reshape(-1, 2, 3)
    known = np.isfinite(segments).all((1, 2))
    share = speed.ravel()[known] / max(layers.trails.fast, 1e-12)
    return segments[known], colours.speed_colour(share)


def _add_controls(server: viser.ViserServer, shown: list[_Shown]) -> None:
    last = max(len(one.layers.frames) for one in shown) - 1
    lock = threading.Lock()
    slider: Any = server.gui.add_slider("Frame", 0, max(last, 1), 1, 0, disabled=last == 0)
    play = server.gui.add_checkbox("Play", False, disabled=last == 0)
    rate = server.gui.add_slider("Frames per second", 1, 60, 1, 12)
    with server.gui.add_folder("Layers"):
        boxes = {name: server.gui.add_checkbox(name, True) for name in _LAYERS}
        size = server.gui.add_slider("Point size", 0.3, 3.0, 0.1, 1.0)
    _add_viewpoints(server, shown, slider)
    for one in shown:
        server.gui.add_markdown(_facts(one.layers))
        one.picture = server.gui.add_image(_picture(one.layers, 0), format="jpeg", jpeg_quality=75)

    def refresh(_: Any = None) -> None:
        with lock, server.atomic():
            for one in shown:
                _show(server, one, int(slider.value), {name: box.value for name, box in boxes.items()})

    def resize(_: Any) -> None:
        for one in shown:
            for node, cloud_size in _sizes(one):
                node.point_size = cloud_size * size.value

    def run() -> None:
        while play.value:
            time.sleep(1 / rate.value)
            slider.value = (int(slider.value) + 1) % (last + 1)

    slider.on_update(refresh)
    size.on_update(resize)
    play.on_update(lambda _: threading.Thread(target=run, daemon=True).start() if play.value else None)
    for box in boxes.values():
        box.on_update(refresh)
    refresh()


def _sizes(one: _Shown) -> list[tuple[Any, float]]:
    """Every cloud node with the size of its points as first made."""
    radius = one.layers.static.radius
    octave = np.round(np.log2(radius / radius.min())).astype(int) if len(radius) else np.zeros(0, int)
    parts = [_point_size(radius[octave == k]) for k in np.unique(octave)]
    moving = [_point_size(c.radius) for c in one.layers.moving]
    return [*zip(one.static, parts, strict=True), *zip(one.moving, moving, strict=True)]


def _point_size(radius: Float[np.ndarray, "n"]) -> float:
    """What viser calls point_size draws a disc of about that radius."""
    return float(np.median(radius)) if len(radius) else 0.01


def _show(server: viser.ViserServer, one: _Shown, frame: int, visible: dict[str, bool]) -> None:
    at = min(frame, len(one.layers.frames) - 1)
    for node in one.static:
        node.visible = visible["Static points"]
    for k, node in enumerate(one.moving):
        node.visible = visible["Moving points"] and k == at
    for node in (*one.cameras, one.present):
        node.visible = visible["Cameras"]
    _move_present(one, at)
    if one.trails is not None:
        one.trails.remove()
        one.trails = None
    segments, colour = trail_segments(one.layers, at)
    if visible["Trails"] and len(segments):
        one.trails = _add_lines(server, f"{one.root}/trails", segments, colour, 2.0)


def _move_present(one: _Shown, at: int) -> None:
    world_from_cam = one.layers.scene.world_from_cam[int(one.layers.frames[at])]
    one.present.wxyz, one.present.position = _wxyz(world_from_cam), world_from_cam[:3, 3]
    if one.picture is not None:
        one.picture.image = _picture(one.layers, at)


def _picture(layers: Layers, at: int) -> UInt8[np.ndarray, "h w 3"]:
    """The video frame, small."""
    image = frame_colour(layers.scene, int(layers.frames[at]))
    width = min(_PICTURE_WIDTH, image.shape[1])
    size = (width, max(1, round(width * image.shape[0] / image.shape[1])))
    return cv2.resize(image, size, interpolation=cv2.INTER_AREA)


def _add_viewpoints(server: viser.ViserServer, shown: list[_Shown], slider: Any) -> None:
    def offer(words: str, stand: Callable[[viser.ClientHandle], None]) -> None:
        server.gui.add_button(words).on_click(lambda event: stand(event.client) if event.client else None)

    offer("Reset the view", lambda client: _stand_home(client, shown))
    for one in shown:
        words = "Camera view" if len(shown) == 1 else f"Camera of {one.layers.scene.name}"
        offer(words, partial(_stand_in_camera, one=one, slider=slider))


def _stand_home(client: viser.ClientHandle, shown: list[_Shown]) -> None:
    """Where all scenes are seen at once."""
    up, ahead = np.array([0.0, 0, 1]), np.array([0.0, 1, 0])
    points = np.concatenate([_moved(one.view_from_world, _near_points(one.layers)) for one in shown])
    centres = np.concatenate([_moved(one.view_from_world, one.layers.scene.centres_world) for one in shown])
    home = stance.facing(points, centres, ahead, up)
    client.camera.up_direction = up
    away = float(np.linalg.norm(home.target_world - home.eye_world))
    beside_panel = _PANEL_SHARE * away * home.cam_from_world[0, :3]
    client.camera.position = home.eye_world + beside_panel
    client.camera.look_at = home.target_world + beside_panel
    client.camera.fov = float(np.radians(home.fov_deg))


def _moved(b_from_a: Float[np.ndarray, "4 4"], points_a: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "n 3"]:
    return points_a @ b_from_a[:3, :3].T + b_from_a[:3, 3]


def _stand_in_camera(client: viser.ClientHandle, one: _Shown, slider: Any) -> None:
    index = int(one.layers.frames[min(int(slider.value), len(one.layers.frames) - 1)])
    scene, view_from_cam = one.layers.scene, one.view_from_world @ one.layers.scene.world_from_cam[index]
    client.camera.position = view_from_cam[:3, 3]
    client.camera.look_at = view_from_cam[:3, 3] + one.layers.median_depth * view_from_cam[:3, 2]
    client.camera.fov = float(2 * np.arctan(scene.height / 2 / scene.camera.at(index)[1]))


def _facts(layers: Layers) -> str:
    scene = layers.scene
    scale = f"metric ({scene.metric_source})" if scene.metric else "scale unknown"
    facts = f"{len(scene)} frames, focal {scene.camera.focal:.0f} px, {scale}"
    return "\n\n".join([f"**{scene.name}**", facts, *scene.notes])


def _wxyz(motion: Float[np.ndarray, "4 4"]) -> Float[np.ndarray, "4"]:
    return se3.quaternion_wxyz(torch.from_numpy(np.ascontiguousarray(motion[:3, :3]))).numpy()
