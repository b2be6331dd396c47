"""Cues: a video in, one item of Observations out. A file `cues/<kind>/<name>.py` is one cue model.

A cue file has `Config` (a frozen dataclass) and `build(config) -> Cue`. Installed packages add cues through the
entry-point group `worldline.cues`, each named like `depth/foo`. `observe` fills what an engine needs.
"""

from __future__ import annotations

import pkgutil
import sys
from collections.abc import Iterable
from dataclasses import dataclass, fields, is_dataclass, replace
from importlib import import_module
from importlib.metadata import entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Protocol, TypeAlias

from worldline.errors import InputError, MissingObservation
from worldline.scene.journal import Journal
from worldline.scene.observations import (
    CameraMotion,
    CameraPrior,
    DepthMaps,
    MovingMasks,
    Observations,
    PixelFlow,
    PixelTracks,
)
from worldline.scene.video import Video

NEEDED = ("camera", "tracks", "moving", "depth")
KINDS = (*NEEDED, "flow")
AUTO = {"camera": "selfcal", "tracks": "flow", "moving": "rigid", "depth": "motion", "flow": "chained"}
"""What "auto" means for each kind; a video that knows its focal length takes its camera from there instead."""

QUALITIES = ("fast", "default", "best")
DEFAULT_QUALITY = "default"

Item: TypeAlias = CameraPrior | PixelTracks | MovingMasks | DepthMaps | CameraMotion | PixelFlow
_FIELD_OF = {
    CameraPrior: "camera",
    PixelTracks: "tracks",
    MovingMasks: "moving",
    DepthMaps: "depth",
    CameraMotion: "camera_motion",
    PixelFlow: "flow",
}


class Cue(Protocol):
    """Makes one item of Observations from a video."""

    needs: tuple[str, ...]
    """Names of the Observations fields that must already be there."""

    def __call__(self, video: Video, observed: Observations, journal: Journal) -> Item | Observations:
        """The item, or several at once; items that are already observed are never replaced by it.

        Work kept by `journal.run` must name in its settings what it takes from `observed`: the journal knows only
        the video.
        """
        ...


Choice: TypeAlias = Any
"""A cue's name, "auto", the Config of a cue, or a Cue."""


def cue_models(kind: str) -> list[str]:
    """Names of all cues of a kind (one of KINDS): the files here and those of installed packages.

    Raises:
        InputError: no such kind.
    """
    if kind not in KINDS:
        raise InputError(f"there is no kind of cue {kind!r}; choose one of {', '.join(KINDS)}.")
    here = [m.name for m in pkgutil.iter_modules([str(Path(__file__).parent / kind)]) if not m.ispkg]
    return sorted({*here, *(name for k, name in _installed() if k == kind)})


def cue_module(kind: str, name: str) -> ModuleType:
    """The module of a cue, with `Config` and `build`.

    Raises:
        InputError: no cue of that kind and name.
    """
    point = _installed().get((kind, name))
    if point is not None:
        return point.load()
    if name not in cue_models(kind):
        raise InputError(f"there is no {kind} cue {name!r}; choose one of {', '.join(cue_models(kind))}.")
    return import_module(f"{__name__}.{kind}.{name}")


def observe(
    video: Video,
    *,
    needs: Iterable[str] = NEEDED,
    given: Observations | None = None,
    depth: Choice = "auto",
    tracks: Choice = "auto",
    moving: Choice = "auto",
    camera: Choice = "auto",
    flow: Choice = "auto",
    quality: str = DEFAULT_QUALITY,
    device: str = "auto",
    journal: Journal | None = None,
) -> Observations:
    """What is known about a video: everything `given`, and what is needed and missing made by cues.

    Each of depth, tracks, moving, camera and flow is the name of a cue (`cue_models` lists them), the Config of one, a
    Cue, or "auto". Cues that need other items get them first. `quality` (one of QUALITIES) chooses the settings of
    the cues that have several, such as `Config.fast()`. An item that is only partly given (`partial`: a mask for some
    frames, depth with holes) is handed to the cue, which completes it.

    Raises:
        InputError: a quality, a kind or name that does not exist, or cues that need each other.
        MissingObservation: something is needed that no cue makes alone.
    """
    chosen = {"depth": depth, "tracks": tracks, "moving": moving, "camera": camera, "flow": flow}
    if quality not in QUALITIES:
        raise InputError(f"there is no quality {quality!r}; choose one of {', '.join(QUALITIES)}.")
    work = _Work(video, chosen, quality, device, journal or Journal(("observe", video.name)))
    observed = given or Observations()
    for kind in needs:
        observed = work.fill(kind, observed, ())
    return observed


@dataclass(frozen=True, eq=False)
class _Work:
    video: Video
    chosen: dict[str, Choice]
    quality: str
    device: str
    journal: Journal

    def fill(self, kind: str, observed: Observations, waiting: tuple[str, ...]) -> Observations:
        """The observations with `kind` in them, made after what its cue needs."""
        if kind not in {f.name for f in fields(Observations)} - {"notes"}:
            raise InputError(f"there is no observation {kind!r}; choose from {', '.join(KINDS)}.")
        if _whole(getattr(observed, kind)):
            return observed
        if kind in waiting:
            raise InputError(f"the cues for {', '.join(waiting)} need each other; give one of them or choose another.")
        if kind not in KINDS:
            name = kind.replace("_", " ")
            raise MissingObservation(f"the {name} is needed but no cue makes it alone; pass it in `given`.")
        cue = self._cue(kind)
        for need in cue.needs:
            observed = self.fill(need, observed, (*waiting, kind))
        if _whole(getattr(observed, kind)):
            return observed
        return _merged(kind, observed, cue(self.video, observed, self.journal))

    def _cue(self, kind: str) -> Cue:
        choice = self.chosen[kind]
        if isinstance(choice, str):
            name = auto(kind, self.video) if choice == "auto" else choice
            module = cue_module(kind, name)
            return module.build(on_device(with_quality(module.Config, self.quality), self.device))
        if callable(choice):
            return choice
        if is_dataclass(choice) and not isinstance(choice, type):
            return sys.modules[type(choice).__module__].build(on_device(choice, self.device))
        raise InputError(f"{choice!r} is no {kind} cue; pass a name, the Config of a cue or a Cue.")


def auto(kind: str, video: Video) -> str:
    """The cue that "auto" stands for: a known focal length makes self-calibration needless."""
    known = (video.facts or {}).get("focal_px")
    return "exif" if kind == "camera" and known else AUTO[kind]


def with_quality(config: type, quality: str) -> Any:
    """The settings of a quality: what the `Config` makes under that name, or its defaults where it has no such."""
    return getattr(config, quality, config)()


def on_device(config: Any, device: str) -> Any:
    """The Config of a cue or an engine for a device; as it is where it has no such choice, or `device` is "auto"."""
    named = "device" in {f.name for f in fields(config)}
    return replace(config, device=device) if named and device != "auto" else config


def _whole(item: Item | None) -> bool:
    return item is not None and not getattr(item, "partial", False)


def _knows_what_was_given(made: CameraMotion | None, before: CameraMotion | None) -> bool:
    """Whether poses that came in have been completed, and checked against the images, by these."""
    return made is not None and made.given is not None and (before is None or before.given is None)


def _merged(kind: str, observed: Observations, made: Item | Observations) -> Observations:
    new = made if isinstance(made, Observations) else Observations(**{_FIELD_OF[type(made)]: made})  # type: ignore[arg-type]
    if getattr(new, kind) is None:
        raise MissingObservation(f"the {kind} cue made no {kind}; choose another of {', '.join(cue_models(kind))}.")
    completed = {kind: getattr(new, kind)}
    if _knows_what_was_given(new.camera_motion, observed.camera_motion):
        completed["camera_motion"] = new.camera_motion
    items = [(f, getattr(new, f)) for f in _FIELD_OF.values() if getattr(observed, f) is None or f in completed]
    notes = tuple(note for _, item in items if item is not None for note in item.source.notes)
    fresh = tuple(n for n in (*new.notes, *notes) if n not in observed.notes)
    return replace(new.merged(observed), **completed, notes=observed.notes + tuple(dict.fromkeys(fresh)))


def _installed() -> dict[tuple[str, str], Any]:
    points = entry_points(group="worldline.cues")
    return {(p.name.partition("/")[0], p.name.partition("/")[2]): p for p in points}
