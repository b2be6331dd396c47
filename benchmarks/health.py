"""Whether `health` is true: rendered clips with faults put into some of their frames, by the whole default pipeline.

    python benchmarks/health.py [--worlds 4] [--first 0] [--fit]

Every world is run clean, with spoiled pictures, with tracks that slide, and with things given (masks, poses or depth)
that are wrong in some frames. A frame is good if, after one alignment of the clip to which bad frames do not pull,
its camera's centre is off by less than 2 % of the usual depth, its camera is turned by less than 1 degree, and what
stands still has an AbsRel under 10 % (one scale for the clip): where surfaces seem to stand in one place as one goes
from frame to frame. What the whole clip suffers from (a focal length that is off) is no fault of a frame, so up to
three times the clip's median error is good as well; `strict` counts it as bad.

Prints, over all frames: the mean probability in each bin against the share of good frames, the area under the ROC
curve, the Brier score; for every kind of fault how many frames it spoiled, the mean trust there and in the frames
around, and in how many a sentence names the frame. `--fit` prints the parameters that these clips speak for.
"""

from __future__ import annotations

import argparse
import os
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

os.environ.setdefault("OMP_NUM_THREADS", "1")

import cv2
import numpy as np
import torch
from scipy.optimize import minimize
from scipy.special import expit
from scipy.stats import rankdata

from worldline import cues, synthetic
from worldline.engines.uni4d import health, symptoms
from worldline.evaluate.alignment import align_points_trimmed
from worldline.geometry import se3
from worldline.run.reconstruction import reconstruct
from worldline.scene.observations import (
    CameraMotion,
    CameraPrior,
    DepthMaps,
    MovingMasks,
    Observations,
    Source,
)
from worldline.scene.scene import Scene
from worldline.scene.video import Video
from worldline.synthetic.presets import build
from worldline.synthetic.rendering import Rendered

LAYOUTS = (("room", "handheld"), ("outdoor", "handheld"), ("room", "dolly"), ("outdoor", "dolly"), ("room", "orbit"))
SIZE = (256, 192)
BINS = (0.0, 0.2, 0.4, 0.6, 0.8, 0.9, 0.95, 1.0)
GIVEN = Source("given")

LEAST_WEIGHT = 0.3
"""What a symptom takes from the log odds at least: none makes a frame better."""


@dataclass(frozen=True, eq=False)
class Case:
    """A clip, what is given of it, and which frames have which fault."""

    name: str
    rendered: Rendered
    video: Video
    given: Observations | None
    faults: dict[int, str]


@dataclass(frozen=True, eq=False)
class Judged:
    """The frames of a case: their scene's health, whether they are good, and their faults."""

    case: Case
    scene: Scene
    good: np.ndarray
    strict: np.ndarray


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--worlds", type=int, default=4)
    parser.add_argument("--first", type=int, default=0, help="number of the first; other numbers, other worlds")
    parser.add_argument("--fit", action="store_true", help="print the parameters that these clips speak for")
    args = parser.parse_args()
    cv2.setNumThreads(1)
    torch.set_num_threads(1)
    judged = []
    for number in range(args.first, args.first + args.worlds):
        for case in cases(number):
            judged.append(found := judge(case))
            print(line(found), flush=True)
    print(report(judged))
    if args.fit:
        print(fitted(judged))


def cases(number: int) -> Iterator[Case]:
    """The clips of a world: clean, with spoiled pictures, with sliding tracks, and with things given wrongly."""
    random = np.random.default_rng(number)
    kind, path = LAYOUTS[number % len(LAYOUTS)]
    world = build(
        kind, path, seed=700 + number, frames=int(random.integers(24, 31)), size=SIZE,
        travel_m=float(random.uniform(0.4, 1.0)) * (1.5 if kind == "outdoor" else 1.0),
        fov_deg=float(random.uniform(50, 75)),
    )  # fmt: skip
    rendered = synthetic.render(world)
    name = f"{number}-{kind}-{path}"
    yield Case(f"{name}-clean", rendered, rendered.video, None, {})
    yield spoiled(name, rendered, random)
    yield sliding(name, rendered, random)
    yield (given_masks, given_poses, given_depth)[number % 3](name, rendered, random)


def some_spans(random: np.random.Generator, count: int, faults: int) -> list[range]:
    """Runs of one to four frames to spoil, apart from each other, not the first two or last two of the clip."""
    slots = np.linspace(2, count - 2, faults + 1).round().astype(int)
    spans = []
    for a, b in zip(slots, slots[1:], strict=False):
        length = min(int(random.integers(1, 5)), b - a - 3)
        first = int(random.integers(a, b - length - 1))
        spans.append(range(first, first + length))
    return spans


def spoiled(name: str, rendered: Rendered, random: np.random.Generator) -> Case:
    """Pictures: blurred, black, frozen, of another clip, noisy, over-exposed."""
    frames = rendered.video.frames.copy()
    kinds: dict[str, Callable[[int, int], np.ndarray]] = {
        "blurred": lambda t, _: cv2.GaussianBlur(frames[t], (0, 0), float(random.uniform(3, 6))),
        "black": lambda t, _: np.zeros_like(frames[t]),
        "frozen": lambda _, before: frames[before],
        "exchanged": lambda t, _: other_clip(random),
        "noisy": lambda t, _: np.clip(frames[t] + random.normal(0, 60, frames[t].shape), 0, 255).astype(np.uint8),
        "over-exposed": lambda t, _: np.clip(frames[t] * float(random.uniform(3, 5)) + 40, 0, 255).astype(np.uint8),
    }
    faults = {}
    chosen = random.permutation(list(kinds))[:3]
    for span, kind in zip(some_spans(random, len(frames), len(chosen)), chosen, strict=True):
        for t in span:
            frames[t], faults[t] = kinds[kind](t, span.start - 1), str(kind)
    return Case(f"{name}-pictures", rendered, replace(rendered.video, frames=frames), None, faults)


def other_clip(random: np.random.Generator) -> np.ndarray:
    kind, path = LAYOUTS[random.integers(len(LAYOUTS))]
    world = build(kind, path, seed=int(random.integers(1000, 2000)), frames=2, size=SIZE)
    return synthetic.render(world).video.frames[0]


def sliding(name: str, rendered: Rendered, random: np.random.Generator) -> Case:
    """Tracks that slide by a few pixels over a part of the image: of less than half of it, and of most of it."""
    video, faults = rendered.video, {}
    tracks = cues.observe(video, needs=("tracks",)).tracks
    assert tracks is not None
    uv = tracks.uv.copy()
    for span, share in zip(some_spans(random, len(video), 3), (0.35, 0.6, 0.9), strict=True):
        step = random.uniform(3, 6) * direction(random)
        for t in span:
            here = tracks.uv[t, :, 0] < share * video.width
            uv[t, here] += step * (t - span.start + 1)
            faults[t] = f"{100 * share:.0f} % of the tracks slide"
    return Case(f"{name}-tracks", rendered, video, Observations(tracks=replace(tracks, uv=uv, source=GIVEN)), faults)


def direction(random: np.random.Generator) -> np.ndarray:
    angle = random.uniform(0, 2 * np.pi)
    return np.array([np.cos(angle), np.sin(angle)], np.float32)


def given_masks(name: str, rendered: Rendered, random: np.random.Generator) -> Case:
    """Moving masks: empty, everything, those of another frame."""
    true, faults = np.asarray(rendered.scene.moving), {}
    ids = true.copy()
    kinds = ("empty mask", "mask of everything", "mask of another frame")
    for span, kind in zip(some_spans(random, len(ids), 3), kinds, strict=True):
        for t in span:
            other = true[(t + len(ids) // 2) % len(ids), :, ::-1]
            ids[t] = {kinds[0]: 0, kinds[1]: 1}.get(kind, other)
            faults[t] = kind
    given = Observations(moving=MovingMasks(ids, GIVEN))
    return Case(f"{name}-masks", rendered, rendered.video, given, faults)


def given_poses(name: str, rendered: Rendered, random: np.random.Generator) -> Case:
    """Poses with the noise that is stated: turned by some degrees, put elsewhere, those of another frame."""
    poses, faults = rendered.scene.world_from_cam.copy(), {}
    count = len(poses)
    noise = np.concatenate([random.normal(0, 0.01, (count, 3)), random.normal(0, 0.005, (count, 3))], 1)
    true = poses = poses @ se3.exp(torch.from_numpy(noise)).numpy()
    poses = poses.copy()
    kinds = ("turned pose", "moved pose", "pose of another frame")
    for span, kind in zip(some_spans(random, count, 3), kinds, strict=True):
        turn = np.radians(random.uniform(4, 12)) * se3_axis(random)
        away = random.uniform(0.15, 0.5) * se3_axis(random)
        for t in span:
            faults[t] = kind
            if kind == kinds[0]:
                poses[t] = poses[t] @ se3.exp(torch.tensor([0.0, 0, 0, *turn])).numpy()
            elif kind == kinds[1]:
                poses[t, :3, 3] += away
            else:
                poses[t] = true[(t + count // 2) % count]
    motion = CameraMotion(poses, np.ones(count, bool), 0.01, 0.005, GIVEN, metric=True)
    return Case(f"{name}-poses", rendered, rendered.video, Observations(camera_motion=motion), faults)


def se3_axis(random: np.random.Generator) -> np.ndarray:
    axis = random.normal(size=3)
    return axis / np.linalg.norm(axis)


def given_depth(name: str, rendered: Rendered, random: np.random.Generator) -> Case:
    """A sensor's depth and the camera: scaled, full of holes, shifted to the side."""
    scene = rendered.scene
    depth = np.where(scene.valid, scene.depth_z, 0) * np.exp(random.normal(0, 0.01, scene.depth_z.shape))
    depth = np.where(random.random(depth.shape) < 0.05, 0, depth).astype(np.float32)
    faults, kinds = {}, ("scaled depth", "depth with holes", "shifted depth")
    for span, kind in zip(some_spans(random, len(depth), 3), kinds, strict=True):
        factor, shift = random.uniform(1.2, 1.5), int(random.integers(20, 40))
        for t in span:
            faults[t] = kind
            holes = depth[t] * (random.random(depth[t].shape) < 0.05)
            depth[t] = {kinds[0]: factor * depth[t], kinds[1]: holes}.get(kind, np.roll(depth[t], shift, axis=1))
    maps = DepthMaps(depth, np.full(depth.shape, 0.01, np.float32), GIVEN, metric=True, frame_scale_sigma=0.005)
    given = Observations(depth=maps, camera=CameraPrior(scene.camera, 0.0, GIVEN))
    return Case(f"{name}-depth", rendered, rendered.video, given, faults)


def judge(case: Case) -> Judged:
    """Reconstruct, and compare every frame with the truth."""
    scene = reconstruct(case.video, case.given)
    relative = goodness(scene, case.rendered.scene, symptoms.USUAL)
    return Judged(case, scene, relative, goodness(scene, case.rendered.scene, 0.0))


def goodness(scene: Scene, truth: Scene, times_usual: float) -> np.ndarray:
    """Whether each frame is good, (T,); errors up to so many times the clip's median are."""
    good = np.ones(len(scene), bool)
    usual_depth = float(np.median(np.asarray(truth.depth_z)[truth.valid]))
    limits = symptoms.GOOD_CENTRE * usual_depth, symptoms.GOOD_ROTATION_RAD, symptoms.GOOD_DEPTH
    for error, limit in zip((*camera_errors(scene, truth), depth_errors(scene, truth)), limits, strict=True):
        good &= error <= max(limit, times_usual * float(np.median(error)))
    return good


def camera_errors(scene: Scene, truth: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Distances of centres (metres) and angles, after an alignment to which bad frames do not pull."""
    found = align_points_trimmed(scene.centres_world, truth.centres_world)
    aligned = found.apply_to_cameras(scene.world_from_cam)
    turns = torch.from_numpy(truth.world_from_cam[:, :3, :3] @ aligned[:, :3, :3].transpose(0, 2, 1))
    along_a_line = se3.so3_log(turns)
    common = se3.so3_exp(along_a_line.median(0).values)  # what the centres of a straight path leave open
    angles = se3.angle_rad(common.transpose(-1, -2) @ turns).numpy()
    return np.linalg.norm(aligned[:, :3, 3] - truth.centres_world, axis=-1), angles


def depth_errors(scene: Scene, truth: Scene) -> np.ndarray:
    """AbsRel of what stands still, per frame, after one scale for the clip."""
    use = truth.valid & (np.asarray(truth.moving) == 0) & np.asarray(scene.valid) & (np.asarray(scene.depth_z) > 0)
    ratio = np.where(use, np.asarray(scene.depth_z) / np.where(use, truth.depth_z, 1), np.nan)
    return np.nanmean(np.abs(ratio / np.nanmedian(ratio) - 1), axis=(1, 2))


def named(scene: Scene, frame: int) -> bool:
    """Whether a note names the frame."""
    for note in scene.notes:
        for first, last in re.findall(r"(?<![\d.])(\d+)(?: to (\d+))?(?![\d.]| px| %)", note):
            if int(first) <= frame <= int(last or first) and "frame" in note:
                return True
    return False


def line(found: Judged) -> str:
    trust, faults = np.asarray(found.scene.health["trust"]), found.case.faults
    told = ", ".join(
        f"{t} {kind}: {trust[t]:.2f}{'' if found.good[t] else ' bad'}{'' if named(found.scene, t) else ' UNNAMED'}"
        for t, kind in faults.items()
    )
    others = np.delete(np.arange(len(trust)), list(faults))
    clean = f"others {trust[others].mean():.2f}, {int((~found.good[others]).sum())} bad"
    return "\n".join([f"{found.case.name}: {told}; {clean}", *(f"    {note}" for note in found.scene.notes)])


def report(judged: list[Judged]) -> str:
    trust = np.concatenate([np.asarray(j.scene.health["trust"], float) for j in judged])
    lines = []
    for what in ("good", "strict"):
        good = np.concatenate([getattr(j, what) for j in judged])
        brier = float(((trust - good) ** 2).mean())
        lines.append(
            f"{what}: {good.mean():.3f} of {len(good)} frames, mean trust {trust.mean():.3f}, "
            f"AUC {auc(trust, good):.3f}, Brier {brier:.4f} ({good.mean() * (1 - good.mean()):.4f} without looking)"
        )
        for low, high in zip(BINS, BINS[1:], strict=False):
            here = (trust >= low) & ((trust < high) | (high == 1))
            if here.any():
                lines.append(
                    f"  {low:4.2f} to {high:4.2f}: {trust[here].mean():.3f} {good[here].mean():.3f} n={here.sum()}"
                )
    return "\n".join(lines + by_fault(judged))


def by_fault(judged: list[Judged]) -> list[str]:
    rows = defaultdict(list)
    for j in judged:
        trust = np.asarray(j.scene.health["trust"])
        for t, kind in j.case.faults.items():
            beside = [k for k in (t - 2, t - 1, t + 1, t + 2) if 0 <= k < len(trust) and k not in j.case.faults]
            rows[kind].append(
                (trust[t], trust[beside].mean(), not j.good[t], named(j.scene, t), trust[t] < trust[beside].min())
            )
    lines = [f"{'fault':28}{'n':>4}{'trust':>8}{'beside':>8}{'bad':>6}{'named':>7}{'lower':>7}"]
    for kind, found in sorted(rows.items()):
        mean = np.array(found, float).mean(0)
        lines.append(f"{kind:28}{len(found):4}{mean[0]:8.2f}{mean[1]:8.2f}{mean[2]:6.2f}{mean[3]:7.2f}{mean[4]:7.2f}")
    return lines


def auc(score: np.ndarray, good: np.ndarray) -> float:
    """Probability that a good frame has a higher score than a bad one."""
    n, m = int(good.sum()), int((~good).sum())
    return float((rankdata(score)[good].sum() - n * (n + 1) / 2) / max(n * m, 1))


def fitted(judged: list[Judged]) -> str:
    """Weights of the symptoms of highest posterior probability, each before 1 +- 0.7; none is below `LEAST_WEIGHT`."""
    names = list(health.WEIGHTS)
    x = np.concatenate([np.stack([j.scene.health[n] for n in names], 1) for j in judged]).astype(float)
    good = np.concatenate([j.good for j in judged])

    def cost(p: np.ndarray) -> float:
        odds = p[0] - x @ p[1:]
        return float(np.logaddexp(0, np.where(good, -odds, odds)).sum() + ((p[1:] - 1) ** 2).sum())

    start = np.array([3.0, *(1.0 for _ in names)])
    bounds = [(0, 6), *((LEAST_WEIGHT, 12) for _ in names)]
    found = minimize(cost, start, bounds=bounds, method="L-BFGS-B").x
    brier = float(((expit(found[0] - x @ found[1:]) - good) ** 2).mean())
    weights = ", ".join(f'"{n}": {w:.2f}' for n, w in zip(names, found[1:], strict=True))
    return f"BASE = {found[0]:.2f}; WEIGHTS = {{{weights}}}; Brier {brier:.4f}"


if __name__ == "__main__":
    main()
