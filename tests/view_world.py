"""A box room with a ball that crosses it, in closed form: the depth of every pixel is exact."""

import numpy as np

from worldline.geometry.camera import Camera
from worldline.scene.motion import WorldTracks
from worldline.scene.scene import Scene, Step

ROOM = np.array([[-3.0, -1.6, -1.5], [3.0, 1.4, 6.0]])
RADIUS = 0.6


def ball_centre(share: float) -> np.ndarray:
    return np.array([-1.6 + 3.2 * share, 0.8 - 2.2 * share * (1 - share), 3.2])


def room(frames: int = 6, width: int = 160, height: int = 96) -> Scene:
    shape = Camera.from_fov_deg(70, width, height)
    shares = np.linspace(0, 1, frames)
    poses = np.stack([_world_from_cam(s) for s in shares])
    drawn = [_frame(shape, pose, ball_centre(s)) for pose, s in zip(poses, shares, strict=True)]
    depth_z, image, moving = (np.stack(maps) for maps in zip(*drawn, strict=True))
    return Scene(
        times_s=np.arange(frames) / 10,
        camera=shape,
        world_from_cam=poses,
        depth_z=depth_z.astype(np.float32),
        depth_sigma=np.full(depth_z.shape, 0.01, np.float32),
        valid=np.ones(depth_z.shape, bool),
        moving=moving,
        image=image,
        tracks=_tracks(shares),
        metric=True,
        metric_source="given",
        health={"trust": np.linspace(1, 0.3, frames)},
        name="room <b>",
        history=(Step("render", {"frames": frames}, {"ok": True}),),
        notes=("A note with </script> in it.",),
    )


def _world_from_cam(share: float) -> np.ndarray:
    angle = np.radians(14) * np.sin(2 * np.pi * share)
    motion = np.eye(4)
    motion[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    motion[:3, 3] = [0.9 * np.sin(np.pi * share), -0.1 * share, 0.8 * share]
    return motion


def _frame(shape: Camera, world_from_cam: np.ndarray, centre: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    fx, fy, cx, cy = shape.intrinsics
    u, v = np.meshgrid(np.arange(shape.width) + 0.5, np.arange(shape.height) + 0.5)
    ray = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones_like(u)], -1) @ world_from_cam[:3, :3].T
    eye = world_from_cam[:3, 3]
    walls = np.where(ray > 0, ROOM[1] - eye, ROOM[0] - eye) / np.where(ray == 0, 1e-12, ray)
    depth_z, wall = walls.min(-1), walls.argmin(-1)
    image = _wall_colour(
        eye + ray * depth_z[..., None], wall * 2 + (np.take_along_axis(ray, wall[..., None], -1)[..., 0] > 0)
    )
    a, b, c = (ray * ray).sum(-1), ray @ (eye - centre), (eye - centre) @ (eye - centre) - RADIUS**2
    root = b * b - a * c
    hit = np.where(root > 0, (-b - np.sqrt(np.maximum(root, 0))) / a, np.inf)
    ball = hit < depth_z
    normal = (eye + ray * np.where(ball, hit, 0)[..., None] - centre) / RADIUS
    light = np.clip(0.35 + 0.65 * (normal @ np.array([-0.4, -0.8, -0.45])), 0.15, 1)
    stripes = np.where(np.sin(9 * normal[..., 1]) > 0, 1.0, 0.65)
    image[ball] = (light * stripes)[ball, None] * np.array([235, 96, 60])
    return np.where(ball, hit, depth_z), image.clip(0, 255).astype(np.uint8), ball.astype(np.uint8)


def _wall_colour(points: np.ndarray, wall: np.ndarray) -> np.ndarray:
    base = np.array([[96, 140, 150], [150, 120, 96], [225, 225, 220], [140, 110, 80], [90, 90, 95], [176, 186, 170]])
    check = ((np.floor(points / 0.5 + 1e-6).astype(int).sum(-1)) % 2)[..., None]
    grain = 10 * np.sin(7 * points.sum(-1, keepdims=True)) * np.sin(5 * points[..., :1])
    return base[wall] * np.where(check, 1.0, 0.8) + grain


def _tracks(shares: np.ndarray, count: int = 60) -> WorldTracks:
    directions = np.random.default_rng(0).normal(size=(count, 3))
    directions[:, 2] = -np.abs(directions[:, 2])
    surface = RADIUS * directions / np.linalg.norm(directions, axis=-1, keepdims=True)
    points = np.stack([ball_centre(s) + surface for s in shares]).astype(np.float32)
    return WorldTracks(
        points_world=points,
        visible=np.ones(points.shape[:2], bool),
        sigma=np.full(points.shape[:2], 0.01, np.float32),
        colour=np.full((count, 3), 200, np.uint8),
        moving=np.ones(count, bool),
        query_frame=np.zeros(count, int),
    )
