"""Refinement: a finished scene and something newly known in, a better scene out.

What is newly known may be the clip itself, or 2D tracks of it: then cameras, depth and tracks are made consistent with
where points were seen (`refining/joint.py`), as a scene of a feed-forward network needs. For lengths, poses, a lens or
a sensor no video is needed: the scene is brought to what is known by one similarity (scale, and world where poses are
known); then, where it holds the sightings of its tracks, a bundle adjustment moves cameras, focal length and points
together. A step that makes held-out evidence fit worse is undone, and the history says so. What is not touched keeps
its bits.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

import worldline
from worldline.errors import InputError, OutputError
from worldline.io.video_files import read_video, video_key
from worldline.run import output_folder
from worldline.run.known import Known, known_key, observations
from worldline.run.reconstruction import DEFAULT_MAX_SIDE, FRAME_FACTS, Finished, Product, make_products
from worldline.run.refining.adjustment import Adjusted, Refining, adjust
from worldline.run.refining.carrying import carried
from worldline.run.refining.joint import refined_jointly
from worldline.run.refining.maps import with_depth, with_masks
from worldline.run.refining.similarity import Anchoring, anchor, log_depth_ratio, moved, poses_set_aside
from worldline.run.run_record import run_record
from worldline.run.stage_log import log_text
from worldline.scene.atomic import write_whole
from worldline.scene.journal import Journal, Progress, content_key, file_key
from worldline.scene.observations import DepthMaps, Observations
from worldline.scene.scene import Scene, Step
from worldline.scene.store import load, save
from worldline.scene.video import Video

Stages = Literal["joint", "similarity"]
USED = ("depth", "moving", "camera", "camera_motion", "lengths")
"""The items of Observations that a finished scene can take in."""


@dataclass(frozen=True, eq=False)
class _Work:
    """A scene under refinement: what it has become, what was done, and sentences for the user."""

    scene: Scene
    steps: tuple[Step, ...] = ()
    notes: tuple[str, ...] = ()

    def after(self, scene: Scene, step: Step, *notes: str) -> _Work:
        return _Work(scene, (*self.steps, step), (*self.notes, *notes))


def refine(
    scene: Scene,
    observed: Observations | None = None,
    *,
    video: Video | None = None,
    stages: Stages = "joint",
    settings: Refining | None = None,
    journal: Journal | None = None,
) -> Scene:
    """A scene made better by its own images, and by what is now known about it.

    Args:
        observed: any of camera (K), camera_motion (some poses), depth (a sensor's, may have holes), moving (masks, may
            be of some frames), lengths, and 2D tracks; maps may have another size, uv are pixels of the scene's
            images. None: the scene is made consistent with its own images or sightings.
        video: the clip of the scene, at any size: points are followed in it, and it judges what becomes of the scene.
        stages: "joint" ends with the adjustments, "similarity" stops before them.
        journal: keeps the tracks of the video, so that they are not made again.

    Returns:
        The scene; its history tells of every step, also of those that were undone, its notes of every contradiction.

    Raises:
        InputError: nothing usable is given, of another count of frames, or at pixels without depth.
    """
    by_itself = observed is None or video is not None or observed.tracks is not None
    observed = observed or Observations()
    known = any(getattr(observed, name) is not None for name in USED)
    if stages not in get_args(Stages):
        raise InputError(f"there are no stages {stages!r}; choose joint or similarity.")
    if not known and not (by_itself and stages == "joint"):
        raise InputError("nothing new is known; give a video or tracks, a camera, poses, depth, masks or a length.")
    _check(scene, observed)
    if by_itself and stages == "joint":
        scene = refined_jointly(scene, observed.tracks, video, journal=journal)
    return refined_by(scene, observed, stages, settings) if known else scene


def refined_by(scene: Scene, observed: Observations, stages: Stages, settings: Refining | None = None) -> Scene:
    """The scene brought to what is known of it by a similarity, and then ("joint") by a bundle adjustment."""
    work = _Work(scene)
    if observed.camera_motion is not None and (sentence := poses_set_aside(scene, observed.camera_motion)):
        work, observed = replace(work, notes=(sentence,)), replace(observed, camera_motion=None)
    if observed.moving is not None:
        known = observed.moving.known
        facts = {"frames": len(scene) if known is None else int(known.sum()), "from": observed.moving.source.name}
        work = work.after(with_masks(scene, observed.moving), Step("refine masks", {}, facts))
    found = anchor(work.scene, observed)
    if found is not None:
        work = _anchored(work, found)
    if stages == "joint" and _has_joint_terms(observed):
        said = () if found is None else found.notes
        work = _adjusted(work, observed, settings or Refining(), anchored=said)
    elif observed.camera is not None:
        work = replace(work, notes=(*work.notes, "a given camera only counts in the joint stage; it was left out."))
    if observed.depth is not None:
        work = _measured(work, observed.depth)
    done = work.scene
    notes = tuple(dict.fromkeys((*scene.notes, *observed.notes, *work.notes)))
    return replace(done, history=(*scene.history, *work.steps), notes=notes)


def refine_into(
    out: Path,
    folder: Path,
    known: Known,
    *,
    video: Path | None = None,
    by_itself: bool = False,
    stages: Stages = "joint",
    products: Mapping[str, Product] | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Finished:
    """Refine the scene of a folder into another folder: scene/, the products, log.txt, and run.json last.

    The same request again finds the finished result.

    Args:
        known: files and numbers about the clip of the scene; pixels are those of its original images.
        video: the input that the scene was made of; its frames are found by their times. by_itself: take the images
            that the scene has kept instead.
        products: name in the folder -> function that makes it from the scene.

    Raises:
        InputError, FormatError: the scene or what is known cannot be used. OutputError: `out` holds something else or
            cannot be written.
    """
    scene = load(folder)
    if known == Known() and video is None and not by_itself:
        raise InputError(
            "nothing new is known; give --video, --by-itself, --intrinsics, --poses, --depth, --masks or a length."
        )
    if Path(out).absolute().is_relative_to(Path(folder).absolute()):
        raise OutputError(f"{out} is inside the scene that is refined; choose another output with -o.")
    seen = (by_itself, None if video is None else video_key(video))
    key = content_key(
        worldline.__version__, "refine", _scene_key(folder), known_key(known), stages, seen, sorted(products or {})
    )
    if not overwrite and (record := output_folder.record_of(out, key)) is not None:
        return Finished(out, record, found=True)
    with output_folder.claimed(out, key, overwrite=overwrite) as work:
        journal, started = Journal(key, work, progress), time.perf_counter()
        ready = work / "ready"
        with journal.timed("refine"):
            observed = observations(known, clip_of(scene), journal=journal)
            clip = clip_of(scene) if by_itself and scene.image is not None else None
            clip = clip if video is None else clip_in(scene, video)
            given = observed or (None if by_itself else Observations())
            refined = refine(scene, given, video=clip, stages=stages, journal=journal)
        with journal.timed("save"):
            save(refined, ready / "scene", overwrite=True)
        make_products(products or {}, load(ready / "scene"), ready, journal)
        asked = {"source": str(folder), "stages": stages, "known": _named(known), "video": video and str(video)}
        record = run_record(asked, key, refined, journal, wall_s=time.perf_counter() - started)
        write_whole(ready / "log.txt", log_text(record), overwrite=True)
        pieces = ["scene", *(products or {}), "log.txt"]
        output_folder.publish(out, pieces, record)
    return Finished(out, {**record, "pieces": pieces}, found=False)


def clip_of(scene: Scene) -> Video:
    """The clip behind a scene as far as the scene knows it: frames, stamps, the way to the original image, files."""
    blank = np.broadcast_to(np.zeros(1, np.uint8), (len(scene), scene.height, scene.width, 3))
    frames = blank if scene.image is None else np.asarray(scene.image[:])
    read = next((step.outcome for step in scene.history if step.name == "read"), {})
    facts = {name: read[name] for name in FRAME_FACTS if name in read}
    return Video(frames, scene.times_s, scene.name, scene.original_from_stored, scene.original_size, facts)


def clip_in(scene: Scene, path: Path) -> Video:
    """The frames of an input that a scene shows, found by their times, no larger than is of use.

    Raises:
        InputError: frames of the scene are not among them.
    """
    video = read_video(path, max_side=DEFAULT_MAX_SIDE)
    nearest = np.abs(video.times_s[:, None] - scene.times_s).argmin(0)
    gap = float(np.median(np.diff(video.times_s))) if len(video) > 1 else np.inf
    if np.abs(video.times_s[nearest] - scene.times_s).max() > 0.5 * gap or len(np.unique(nearest)) < len(scene):
        raise InputError(
            f"{path} does not have the {len(scene)} frames of the scene; give the clip that it was made of."
        )
    frames = np.stack([np.asarray(video.frames[t]) for t in nearest])
    return Video(frames, scene.times_s, scene.name, scene.original_from_stored, scene.original_size)


def _scene_key(folder: Path) -> str:
    return file_key(folder / "scene" if (folder / "scene").is_dir() else folder)


def _named(known: Known) -> dict[str, Any]:
    """What was given, with paths as text."""
    values = {f.name: getattr(known, f.name) for f in fields(known) if getattr(known, f.name) != f.default}
    return {name: str(value) if isinstance(value, Path) else value for name, value in values.items()}


def _check(scene: Scene, observed: Observations) -> None:
    counts = {
        "poses": observed.camera_motion and len(observed.camera_motion.world_from_cam),
        "depth maps": observed.depth and len(observed.depth.depth_z),
        "masks": observed.moving and len(observed.moving.ids),
    }
    for what, count in counts.items():
        if count is not None and count != len(scene):
            raise InputError(f"there are {count} {what} but {len(scene)} frames in the scene; give one per frame.")
    given = None if observed.camera is None else observed.camera.camera
    if given is not None and (given.width, given.height) != (scene.width, scene.height):
        raise InputError("the given camera is for images of another size than the scene's; use camera.resized first.")
    if given is not None and given.per_frame and len(given.intrinsics) != len(scene):
        raise InputError(f"the given camera is for {len(given.intrinsics)} frames, the scene has {len(scene)}.")


def _measured(work: _Work, depth: DepthMaps) -> _Work:
    """The depth given fused with that of the scene; one without a unit is brought to the scene's first."""
    log_ratio = log_depth_ratio(work.scene, depth)
    if log_ratio is None:
        sentence = "the given depth shares no static pixel with the scene's, so it was left out; check that it belongs."
        return replace(work, notes=(*work.notes, sentence))
    if not (depth.metric and work.scene.metric):
        depth = replace(depth, depth_z=depth.depth_z * np.float32(np.exp(-log_ratio)))
    step = Step("refine depth", {}, {"from": depth.source.name, "scale": round(float(np.exp(log_ratio)), 6)})
    return work.after(with_depth(work.scene, depth), step)


def _has_joint_terms(observed: Observations) -> bool:
    motion, depth = observed.camera_motion, observed.depth
    posed = motion is not None and bool(motion.given_frames.any())
    return observed.camera is not None or posed or (depth is not None and depth.metric)


def _anchored(work: _Work, found: Anchoring) -> _Work:
    scene = moved(work.scene, found.known_from_scene)
    source = ", ".join(found.sources) or scene.metric_source
    scene = replace(scene, metric=found.metric, metric_source=source if found.metric else "unknown scale")
    step = Step("refine similarity", {"from": list(found.sources)}, found.outcome)
    return work.after(scene, step, *found.notes)


def _adjusted(work: _Work, observed: Observations, settings: Refining, *, anchored: tuple[str, ...]) -> _Work:
    """The bundle adjustment, if held-out tracks agree; `anchored` are the notes of the similarity before it."""
    found = adjust(work.scene, observed, settings)
    if found is None:
        sentence = (
            "this scene keeps too few sightings of static tracks, so cameras were not adjusted; reconstruct again."
        )
        return replace(work, notes=(*work.notes, sentence))
    step = Step("refine bundle", asdict(settings), found.outcome)
    if not found.kept:
        return work.after(work.scene, step, _refused(observed, found), *found.notes)
    work = work.after(_with_sigma(carried(work.scene, found), observed), step, *found.notes)
    if observed.lengths is None or (again := anchor(work.scene, observed)) is None:
        return work
    kept = tuple(note for note in work.notes if note not in anchored)
    return _anchored(replace(work, notes=kept), again)  # lengths are measured again in what has changed


def _refused(observed: Observations, found: Adjusted) -> str:
    names = {"camera": "intrinsics", "camera_motion": "poses", "depth": "depth"}
    given = " and ".join(word for name, word in names.items() if getattr(observed, name) is not None)
    before, after = found.outcome["held_out_px_before"], found.outcome["held_out_px_after"]
    return (
        f"the given {given} contradict the images: held-out tracks fit to {after:.2f} px instead of {before:.2f}, so "
        "cameras and focal length were left as they were; check what was given."
    )


def _with_sigma(scene: Scene, observed: Observations) -> Scene:
    """Cameras are at least as certain as what is known of them."""
    sigma, motion = scene.camera_sigma, observed.camera_motion
    if sigma is None:
        return scene
    if motion is not None:
        known = motion.given_frames
        centre = np.where(known, np.minimum(sigma.centre, motion.sigma_m), sigma.centre)
        turn = np.where(known, np.minimum(sigma.rotation_rad, motion.sigma_rad), sigma.rotation_rad)
        sigma = replace(sigma, centre=centre, rotation_rad=turn)
    if observed.camera is not None:
        sigma = replace(sigma, focal=observed.camera.focal_sigma)
    return replace(scene, camera_sigma=sigma)
