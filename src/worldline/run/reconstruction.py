"""One reconstruction: read, observe, engine, scene; as a value, or into a folder that survives interruption."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import worldline
from worldline import cues
from worldline.engines import engine_module
from worldline.errors import InputError
from worldline.io.video_files import read_video, video_key
from worldline.run import output_folder
from worldline.run.engine_settings import adjusted, files_named
from worldline.run.known import Known, check, known_key, observations
from worldline.run.refining.joint import refined_jointly
from worldline.run.run_record import run_record
from worldline.run.stage_log import log_text
from worldline.scene.atomic import write_whole, written_whole
from worldline.scene.journal import Journal, Progress, content_key, file_key
from worldline.scene.observations import Observations
from worldline.scene.scene import Scene, Step
from worldline.scene.store import load, save
from worldline.scene.video import Video

DEFAULT_ENGINE = "uni4d"
DEFAULT_MAX_SIDE = 1024

FRAME_FACTS = ("files", "frame_numbers", "clip_frames", "clock")
"""What a scene's history keeps of `Video.facts`, so that files can be matched to its frames again."""

Product = Callable[[Scene, Path], Any]
"""Makes one file or folder from a scene, for example a page: `(scene, path) -> None`."""


@dataclass(frozen=True)
class Reading:
    """Which frames of the input are used, and how large: every n-th, a span in seconds, a cap on count and side.

    Attributes:
        topics: of a log, texts `ROLE=NAME` for topics in place of those that would be chosen (`worldline inspect`).
    """

    every: int = 1
    start_s: float | None = None
    end_s: float | None = None
    max_frames: int | None = None
    max_side: int | None = DEFAULT_MAX_SIDE
    topics: tuple[str, ...] = ()


@dataclass(frozen=True)
class Request:
    """What to reconstruct. Everything here changes the result, so all of it is in the run's key.

    Attributes:
        source: a video file, a folder of images or a log.
        quality: "fast", "default" or "best"; settings: texts NAME=VALUE that change the engine's settings of it.
        commercial: whether weights are refused whose licence does not clearly allow commercial use.
        refined: whether the engine's scene is then made consistent with the images, as `wl.refine` does.
        known: what is known of the clip already, as files and numbers.
    """

    source: Path
    engine: str = "auto"
    quality: str = cues.DEFAULT_QUALITY
    settings: tuple[str, ...] = ()
    commercial: bool = False
    refined: bool = False
    known: Known = Known()
    reading: Reading = Reading()


@dataclass(frozen=True)
class Finished:
    """Where a run's results are, its record (the content of run.json), and whether it was there before."""

    out: Path
    record: Mapping[str, Any]
    found: bool

    @property
    def scene(self) -> Scene:
        """The scene on disk, its maps read lazily."""
        return load(self.out / "scene")


def reconstruct(
    video_or_path: Video | str | Path,
    observed: Observations | None = None,
    *,
    engine: str = "auto",
    config: Any = None,
    quality: str = cues.DEFAULT_QUALITY,
    device: str = "auto",
    journal: Journal | None = None,
) -> Scene:
    """Reconstruct a scene from a video (or its path) and whatever is already known about it.

    Args:
        observed: known depth, tracks, masks, camera or poses; what the engine needs beyond them is made from the video.
        engine: a name from `worldline.engines()`; config: that engine's `Config`, or None for that of the quality.
        quality: "fast", "default" or "best"; every cue and engine says in its `Config` what it means by that.
        device: "auto", "cpu" or "cuda", for cues and engines that have the choice.
        journal: keeps the stages in a folder so that they can be resumed; None writes nothing.

    Raises:
        InputError: the input cannot be used, or has fewer than two frames. SolveFailed: nothing could be solved.
    """
    journal = journal or Journal("in memory")
    video = video_or_path
    if not isinstance(video, Video):
        video = read_video(Path(video), max_side=DEFAULT_MAX_SIDE)
    module = engine_module(DEFAULT_ENGINE if engine == "auto" else engine)
    settings = cues.with_quality(module.Config, quality) if config is None else config
    solve = module.build(cues.on_device(settings, device))
    _require_motion(video, solve.least_frames)
    known = cues.observe(
        video,
        needs=(*solve.needs, *solve.wants(video)),
        given=observed,
        quality=quality,
        device=device,
        journal=journal,
    )
    scene = solve(video, known, journal)
    return replace(scene, notes=_once((*video.notes, *known.notes, *scene.notes)))


def reconstruct_into(
    out: Path,
    request: Request,
    *,
    products: Mapping[str, Product] | None = None,
    overwrite: bool = False,
    keep_stages: bool = False,
    progress: Progress | None = None,
) -> Finished:
    """Reconstruct into a folder: scene/, the products, log.txt, and run.json last.

    The same request again finds a finished run, or goes on behind the last finished stage of an interrupted one.

    Args:
        products: name in the folder -> function that makes it from the scene.

    Raises:
        InputError, FormatError: the input cannot be used. OutputError: `out` holds something else or cannot be written.
    """
    check(request.known)
    config = _config(request)
    key = _key(request)
    if not overwrite and (record := output_folder.record_of(out, key)) is not None:
        return Finished(out, record, found=True)
    with output_folder.claimed(out, key, overwrite=overwrite) as stages:
        journal = Journal(key, stages, progress)
        started = time.perf_counter()
        scene = _scene_on_disk(request, config, stages, journal)
        make_products(products or {}, scene, stages / "ready", journal)
        record = run_record(_described(request), key, scene, journal, wall_s=time.perf_counter() - started)
        write_whole(stages / "ready" / "log.txt", log_text(record), overwrite=True)
        pieces = ["scene", *(products or {}), "log.txt"]
        output_folder.publish(out, pieces, record, keep_stages=keep_stages)
    return Finished(out, {**record, "pieces": pieces}, found=False)


def _key(request: Request) -> str:
    """Content of the input, of everything known, and the settings; not where any of it lies."""
    settings = replace(request, source=Path(), known=Known())
    return content_key(
        worldline.__version__,
        video_key(request.source),
        known_key(request.known, request.source),
        settings,
        [file_key(path) for path in files_named(request.settings)],
    )


def default_output(source: Path) -> Path:
    """The output folder when none is named: in the current directory, after the input."""
    path = Path(os.path.abspath(source))  # a link keeps its own name, also where it leads nowhere
    return Path(f"{path.name if os.path.isdir(path) else path.stem}_worldline")


def _config(request: Request) -> Any:
    """The engine's settings; what cannot be set is told before anything is read."""
    module = engine_module(DEFAULT_ENGINE if request.engine == "auto" else request.engine)
    config = adjusted(cues.with_quality(module.Config, request.quality), request.settings)
    has_weights = "commercial" in {f.name for f in fields(config)}
    return replace(config, commercial=True) if request.commercial and has_weights else config


def _scene_on_disk(request: Request, config: Any, stages: Path, journal: Journal) -> Scene:
    """The scene as it will be handed over: a run that was stopped after the scene was written begins there."""
    path = stages / "ready" / "scene"
    if not path.exists():
        with journal.timed("read"):
            video = read_video(
                request.source, **asdict(request.reading), cache=stages / "frames", progress=journal.progress
            )
        for note in video.notes:
            journal.progress.note(note)
        scene = reconstruct(
            video,
            _known(request, video, journal),
            engine=request.engine,
            config=config,
            quality=request.quality,
            journal=journal,
        )
        if request.refined and len(scene) > 1:
            scene = refined_jointly(scene, None, video, journal=journal)
        elif request.refined:
            scene = replace(scene, notes=(*scene.notes, "one frame has no other to be consistent with: not refined."))
        with journal.timed("save"):
            first = Step("read", asdict(request.reading), _size_facts(video))
            save(replace(scene, history=(first, *scene.history)), path)
    return load(path)


def make_products(products: Mapping[str, Product], scene: Scene, ready: Path, journal: Journal) -> None:
    """Every product that is not there; each writer may write in place, for what bears its name is whole."""
    for name, make in products.items():
        if not (ready / name).exists():
            with journal.timed(name), written_whole(ready / name) as temporary:
                make(scene, temporary)


def _known(request: Request, video: Video, journal: Journal) -> Observations | None:
    topics = request.reading.topics
    return observations(request.known, video, source=request.source, topics=topics, journal=journal)


def _require_motion(video: Video, least: int) -> None:
    if len(video) < least:
        raise InputError(
            f"{video.name} has {len(video)} frame, and motion needs at least two; "
            "for a single image give a second view, or the clip it was taken from."
        )


def _size_facts(video: Video) -> dict[str, Any]:
    width, height = video.original_size or (video.width, video.height)
    facts = video.facts or {}
    return {
        "frames": len(video),
        "seconds": float(video.times_s[-1] - video.times_s[0]),
        "size": [video.width, video.height],
        "original_size": [width, height],
        "shrunk": (width, height) != (video.width, video.height),
        **{name: facts[name] for name in FRAME_FACTS if name in facts},
    }


def _described(request: Request) -> dict[str, Any]:
    """The request for run.json, paths as text."""
    known = {name: str(v) if isinstance(v, Path) else v for name, v in asdict(request.known).items()}
    return {**asdict(request), "source": str(request.source), "known": known}


def _once(sentences: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(sentences))
