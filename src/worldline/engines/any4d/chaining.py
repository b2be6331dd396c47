"""Tracks through the whole clip: those of every window, as continuations of those of earlier ones."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int

from worldline.geometry.sim3 import Sim3
from worldline.scene.journal import Arrays
from worldline.scene.motion import WorldTracks

_BY_FRAME = ("points", "sigma", "visible", "uv")
_UNKNOWN = {"points": np.nan, "sigma": np.nan, "visible": False, "uv": np.nan}


@dataclass(frozen=True, eq=False)
class PlacedTracks:
    """Tracks of one window in the world.

    Attributes:
        frames: of the window's views, the reference first, in which all tracks start; own: those that count.
        source: number of the window whose tracks go on here, -1 for none.
        arrays: points (V, N, 3), sigma, visible (V, N), uv (V, N, 2), moving (N,), colour (N, 3), continues (N,): the
        track of the source that goes on as this one, -1 for a new one.
    """

    frames: Int[np.ndarray, "v"]
    own: Sequence[int]
    source: int
    arrays: Arrays

    @classmethod
    def of(cls, frames: Sequence[int], own: Sequence[int], window: Arrays, world_from_window: Sim3) -> PlacedTracks:
        """From what a window says in its own gauge (`motion.follow`)."""
        arrays = {name.removeprefix("track_"): x for name, x in window.items() if name.startswith("track_")}
        points = world_from_window.apply(torch.from_numpy(arrays["points"].astype(np.float64))).numpy()
        sigma = arrays["sigma"] * float(world_from_window.scale)
        return cls(np.asarray(frames), own, int(window["source"]), arrays | {"points": points, "sigma": sigma})


def chained(windows: Iterable[PlacedTracks], count: int) -> WorldTracks | None:
    """One set of tracks over a clip of `count` frames; None if nothing is followed.

    A track that goes on in another window keeps the offset between the two at the frame where they meet, so that it
    does not jump.
    """
    tracks: Arrays = {}
    numbers: list[np.ndarray] = []
    for window in windows:
        continues, known = window.arrays["continues"], len(tracks.get("moving", ()))
        fresh = np.flatnonzero(continues < 0)
        number = np.empty(len(continues), dtype=int)
        number[fresh] = known + np.arange(len(fresh))
        if len(fresh) < len(number):
            old = np.flatnonzero(continues >= 0)
            number[old] = numbers[window.source][continues[old]]
            _go_on(tracks, window, number[old], old)
        tracks = _with(tracks, _begun(window, fresh, count))
        numbers.append(number)
    return _world_tracks(tracks) if tracks and len(tracks["moving"]) else None


def _go_on(tracks: Arrays, window: PlacedTracks, number: np.ndarray, column: np.ndarray) -> None:
    """Write what a window says of tracks that go on into the frames that are its own."""
    counts = np.isin(window.frames, window.own)
    offset = tracks["points"][window.frames[0], number] - window.arrays["points"][0, column]
    for name in _BY_FRAME:
        said = window.arrays[name][counts][:, column]
        tracks[name][np.ix_(window.frames[counts], number)] = said + offset if name == "points" else said


def _begun(window: PlacedTracks, which: np.ndarray, count: int) -> Arrays:
    """Tracks that start in a window, over the whole clip."""
    new: Arrays = {}
    for name in _BY_FRAME:
        said = window.arrays[name][:, which]
        dtype = bool if name == "visible" else np.float32
        new[name] = np.full((count, *said.shape[1:]), _UNKNOWN[name], dtype)
        new[name][window.frames] = said
    query = np.full(len(which), window.frames[0])
    return new | {"moving": window.arrays["moving"][which], "colour": window.arrays["colour"][which], "query": query}


def _with(tracks: Arrays, new: Arrays) -> Arrays:
    if not tracks:
        return new
    return {name: np.concatenate([tracks[name], new[name]], int(name in _BY_FRAME)) for name in new}


def _world_tracks(tracks: Arrays) -> WorldTracks:
    """Static tracks have their place at all times; moving ones where a window speaks of them."""
    every, query, moving = np.arange(len(tracks["query"])), tracks["query"], tracks["moving"]
    points, sigma = tracks["points"], tracks["sigma"]
    known = np.isfinite(points).all(-1)
    points = np.where((moving | known)[..., None], points, points[query, every])
    sigma = np.where(np.isfinite(sigma), sigma, sigma[query, every])
    return WorldTracks(
        points_world=points,
        visible=tracks["visible"] & known,
        sigma=sigma,
        colour=tracks["colour"],
        moving=moving,
        query_frame=query,
        uv=np.where(tracks["visible"][..., None], tracks["uv"], np.nan),
    )
