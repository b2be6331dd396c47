"""The any4d engine: windows of frames through the network, placed in one world, assembled to a scene.

Source: Karhade et al., "Any4D", CVPR 2026. The network is theirs; windows, masks, tracks and uncertainty are not: the
release handles as many frames as fit into memory at once, and gives none of the others.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch

from worldline.engines.any4d import checkpoint
from worldline.engines.any4d.assembly import camera_of, given_from_found
from worldline.engines.any4d.chaining import PlacedTracks, chained
from worldline.engines.any4d.config import Config
from worldline.engines.any4d.inputs import Views
from worldline.engines.any4d.joining import Seam, cameras, join, settled
from worldline.engines.any4d.motion import find_motion, follow, starts
from worldline.engines.any4d.network import Any4D
from worldline.engines.any4d.observed import Conditions
from worldline.engines.any4d.prediction import ask, fragment
from worldline.engines.any4d.windows import FeatureCache, Window, plan
from worldline.geometry.sim3 import Sim3
from worldline.nets import weights
from worldline.nets.hashed_weights import fill
from worldline.nets.linear import half_linear
from worldline.nets.weights import WeightsFile
from worldline.scene.journal import Arrays, Journal
from worldline.scene.motion import Flow
from worldline.scene.observations import Observations
from worldline.scene.scene import Scene, Step
from worldline.scene.video import Video

MEANINGLESS = "the weights of the network mean nothing (they are for tests), and so does this scene."
VIEWS_AT_ONCE = {"cpu": 1, "cuda": 8}


def build(config: Config | None = None) -> Any4DEngine:
    """The engine with these settings."""
    return Any4DEngine(config or Config())


@dataclass(frozen=True)
class Any4DEngine:
    """Callable engine; see `engines.Engine`."""

    config: Config
    needs: tuple[str, ...] = ()
    least_frames: int = 1

    def wants(self, video: Video) -> tuple[str, ...]:
        """Nothing: what is known is used, the rest is predicted."""
        return ()

    def __call__(self, video: Video, observed: Observations, journal: Journal) -> Scene:
        """Reconstruct.

        Raises:
            InputError: what is known does not belong to this video. MissingWeights, LicenceError: as `weights.find`.
            SolveFailed: windows of a long clip have nothing in common.
        """
        run = _Run(self.config, video, observed, journal)
        run.file  # noqa: B018 - missing weights and licences are told before the work
        return run.scene()


def load(config: Config, file: WeightsFile | None) -> Any4D:
    """The network on its device, with the weights of a file, or with some that mean nothing.

    Raises:
        FormatError: as `checkpoint.load_network`.
    """
    device = torch.device(device_of(config))
    if file is None:
        network = Any4D(config.network).eval()
        fill(network)
    else:
        network = checkpoint.load_network(file, device=device)
    if config.precision == "mixed":
        half_linear(network.encoder)
        half_linear(network.info_sharing)
    network.views_at_once = VIEWS_AT_ONCE.get(device.type, 1)
    return network.requires_grad_(False).to(device)


def device_of(config: Config) -> str:
    """Where the network runs."""
    if config.device != "auto":
        return config.device
    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True, eq=False)
class _Run:
    """One video on its way through the network."""

    config: Config
    video: Video
    observed: Observations
    journal: Journal

    @cached_property
    def conditions(self) -> Conditions:
        return Conditions.of(self.video, self.observed, device_of(self.config), self.config.size)

    @cached_property
    def file(self) -> WeightsFile | None:
        """The weights; their licence is named before they are used."""
        if self.config.weights is None:
            return None
        file = weights.find(self.config.weights, commercial=self.config.commercial)
        self.journal.progress.note(f"weights {file.name}: licence {file.licence}.")
        return file

    @cached_property
    def network(self) -> Any4D:
        return load(self.config, self.file)

    @cached_property
    def windows(self) -> tuple[Window, ...]:
        config, posed = self.config, self.conditions.posed
        first = config.reference
        if 0 <= first < len(posed) and posed.any() and not posed[first]:
            first = int(np.flatnonzero(posed)[np.abs(np.flatnonzero(posed) - first).argmin()])
        planned = plan(
            len(self.video), window=config.window, shared=config.shared, reference=first, references=config.references
        )
        return tuple(window.led_by_one_of(np.flatnonzero(posed)) for window in planned)

    @cached_property
    def cache(self) -> FeatureCache:
        return FeatureCache(self.windows, self.features)

    def features(self, frames: tuple[int, ...]) -> torch.Tensor:
        """Of the images, one at a time: more would need memory and save no time."""
        parts = [self.network.features(Views(self.conditions.images([f])[:, None]))[:, 0] for f in frames]
        return torch.cat(parts)

    def scene(self) -> Scene:
        conditions = self.conditions
        seams = [placed.seam for placed in join((self._fragment(n) for n in range(len(self.windows))), self.windows)]
        self.journal.progress.stage("placing windows")
        places: Sequence[Sim3] = settled(seams)
        found, intrinsics, confidence = self._per_frame(places)
        camera = camera_of(conditions, intrinsics)
        given, sized = given_from_found(self.observed.camera_motion, found, metric=self._measured)
        scale = float(given.scale)
        world_from_cam = given.apply_to_cameras(torch.from_numpy(found)).numpy()
        places = [_after(given, place) for place in places]
        maps = self.journal.run_by_frame(
            "maps", lambda: self._maps(places), len(self.video), settings=(self._settings, scale)
        )
        tracks = chained(self._tracks(places), len(self.video))
        fit, video = conditions.fit, self.video
        notes = (*self._weights_notes, *((camera.note,) if camera.note else ()), *self._notes(seams))
        assert video.original_from_stored is not None
        return Scene(
            times_s=video.times_s,
            camera=camera.camera,
            world_from_cam=world_from_cam,
            depth_z=maps["depth_z"],
            depth_sigma=maps["sigma"],
            valid=maps["valid"],
            moving=maps["moving"],
            image=maps["image"],
            tracks=tracks,
            static_points=None if tracks is None else tracks.points_world[0][~tracks.moving],
            static_colour=None if tracks is None else tracks.colour[~tracks.moving],
            flow=self._flow(places),
            metric=True,
            metric_source=self._metric_source(sized),
            health=_health(self.windows, seams, confidence),
            name=video.name,
            original_from_stored=video.original_from_stored @ fit.original_from_network,
            original_size=video.original_size,
            history=self._history(seams),
            notes=(*video.notes, *self.observed.notes, *notes),
        )

    @property
    def _settings(self) -> Any:
        return self.config, len(self.video), self.conditions.used, None if self.file is None else self.file.checksum

    def _name(self, number: int) -> str:
        return f"window {number + 1} of {len(self.windows)}"

    def _fragment(self, number: int) -> Any:
        arrays = self.journal.run(self._name(number), lambda: self._ask(number), settings=self._settings)
        return fragment(self.windows[number].frames, arrays)

    def _arrays(self, number: int) -> Arrays:
        return self.journal.again(self._name(number), settings=self._settings)

    @torch.inference_mode()
    def _ask(self, number: int) -> Arrays:
        """What the network says of a window, as arrays."""
        frames, network = self.windows[number].frames, self.network
        features = self.cache.features(number)[:, None]
        said = ask(network, self.conditions, frames, features, self.config.edges)
        intrinsics = self._lens(said.intrinsics, frames)
        motion = find_motion(said, intrinsics, still_background=self.config.still_background)
        picture = self.conditions.pictures(frames[:1])[0]
        source, view = self._source(number)
        begun = starts(said, motion, self._step, None if source < 0 else self._arrays(source), view)
        arrays = {
            "depth_z": said.depth_z, "sigma": said.sigma, "valid": said.valid, "moving": motion.moving,
            "window_from_cam": said.window_from_cam, "intrinsics": said.intrinsics,
            "confidence": said.confidence.flatten(1).mean(1),
        }  # fmt: skip
        if number == 0 and self._all_at_once:
            arrays |= {"flow": motion.flow}
        found = {name: x.cpu().numpy() for name, x in arrays.items()}
        return (
            found
            | {"unit": np.array(said.unit), "source": np.array(source)}
            | follow(said, motion, intrinsics, picture, begun)
        )

    def _source(self, number: int) -> tuple[int, int]:
        """The last window before this one that has seen its reference, and as which view; -1 for none."""
        reference = self.windows[number].reference
        for earlier in range(number - 1, -1, -1):
            if reference in self.windows[earlier].frames:
                return earlier, self.windows[earlier].frames.index(reference)
        return -1, 0

    def _lens(self, predicted: torch.Tensor, frames: tuple[int, ...]) -> torch.Tensor:
        """Intrinsics of the views of a window: those of the known camera, else the usual ones of the prediction."""
        camera = camera_of(self.conditions, predicted.cpu().numpy()).camera
        known = self.observed.camera is not None
        rows = camera.frames(len(self.video))[list(frames)] if known else camera.frames(len(frames))
        return torch.from_numpy(np.array(rows)).to(predicted.device)

    @property
    def _step(self) -> int:
        """Pixels between the points that a window follows, so that all windows together follow about enough."""
        fit = self.conditions.fit
        return max(2, round(float(np.sqrt(fit.width * fit.height * len(self.windows) / self.config.tracks))))

    def _per_frame(self, places: Sequence[Sim3]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Cameras in the world, intrinsics and confidence of every frame, each from the window that it belongs to."""
        count = len(self.video)
        found, intrinsics, confidence = np.zeros((count, 4, 4)), np.zeros((count, 4)), np.zeros(count)
        for number, window in enumerate(self.windows):
            if not window.own:
                continue
            arrays, own, views = self._arrays(number), list(window.own), window.own_views
            found[own] = cameras(fragment(window.frames, arrays), places[number])[views]
            intrinsics[own], confidence[own] = arrays["intrinsics"][views], arrays["confidence"][views]
        return found, intrinsics, confidence

    def _maps(self, places: Sequence[Sim3]) -> Iterator[Arrays]:
        """Depth, sigma, masks and colours frame by frame."""
        owner = {frame: (n, w) for n, w in enumerate(self.windows) for frame in w.own}
        kept: tuple[int, Arrays] = (-1, {})
        for frame in range(len(self.video)):
            number, window = owner[frame]
            if kept[0] != number:
                kept = number, self._arrays(number)
            view = window.frames.index(frame)
            depth_z = kept[1]["depth_z"][view] * np.float32(places[number].scale)
            yield {
                "depth_z": depth_z.astype(np.float32),
                "sigma": kept[1]["sigma"][view].astype(np.float32),
                "valid": kept[1]["valid"][view],
                "moving": kept[1]["moving"][view].astype(np.uint8),
                "image": self.conditions.pictures([frame])[0],
            }
            self.journal.progress.share((frame + 1) / len(self.video))

    def _tracks(self, places: Sequence[Sim3]) -> Iterator[PlacedTracks]:
        for number, (window, place) in enumerate(zip(self.windows, places, strict=True)):
            yield PlacedTracks.of(window.frames, window.own, self._arrays(number), place)

    def _flow(self, places: Sequence[Sim3]) -> Flow | None:
        """Dense motion of a clip that fits into one window."""
        if not self._all_at_once:
            return None
        arrays, frames = self._arrays(0), list(self.windows[0].frames)
        turned = (float(places[0].scale) * places[0].rotation).numpy().astype(np.float32)
        displacement = np.empty_like(arrays["flow"])
        displacement[frames] = arrays["flow"] @ turned.T
        valid = np.broadcast_to(arrays["valid"][0], displacement.shape[:3]).copy()
        return Flow(frames[0], displacement, valid)

    @property
    def _all_at_once(self) -> bool:
        return len(self.windows[0]) == len(self.video) > 1

    @property
    def _measured(self) -> bool:
        return self.observed.depth is not None and self.observed.depth.metric

    def _metric_source(self, sized: bool) -> str:
        if self._measured:
            assert self.observed.depth is not None
            return f"depth: {self.observed.depth.source.name}"
        if sized:
            assert self.observed.camera_motion is not None
            return f"camera poses: {self.observed.camera_motion.source.name}"
        return "predicted by any4d"

    @cached_property
    def _weights_notes(self) -> tuple[str, ...]:
        if self.file is None:
            return (MEANINGLESS,)
        return (f"weights {self.file.name}: licence {self.file.licence}.", *checkpoint.notes(self.network.config))

    def _notes(self, seams: list[Seam]) -> tuple[str, ...]:
        """Frames on which windows do not agree."""
        frames = sorted({f for seam in seams for f in seam.set_aside})
        if not frames:
            return ()
        named = ", ".join(map(str, frames[:5])) + (f" and {len(frames) - 5} more" if len(frames) > 5 else "")
        return (f"windows disagree about frame {named}; they were joined by the others.",)

    def _history(self, seams: list[Seam]) -> tuple[Step, ...]:
        lengths = [len(w) for w in self.windows]
        plain = replace(self.config, weights=None if self.config.weights is None else str(self.config.weights))
        agreed = [seam.agreed / max(seam.pixels, 1) for seam in seams[1:]]
        return (
            *(Step("assumed", {}, {"note": note}) for note in (*self.video.notes, *self.observed.notes)),
            Step("observe", {}, {name: getattr(self.observed, name).source.name for name in self.conditions.used}),
            Step("network", asdict(plain), {"device": device_of(self.config), "size": self._size, "windows": lengths}),
            Step("join windows", {}, {"agreed_share": agreed, "references": [w.reference for w in self.windows]}),
        )

    @property
    def _size(self) -> list[int]:
        return [self.conditions.fit.width, self.conditions.fit.height]


def _after(outer: Sim3, inner: Sim3) -> Sim3:
    """First the inner, then the outer similarity."""
    return Sim3(outer.scale * inner.scale, outer.rotation @ inner.rotation, outer.apply(inner.translation[None])[0])


def _health(windows: tuple[Window, ...], seams: list[Seam], confidence: np.ndarray) -> dict[str, np.ndarray]:
    """Per frame: the network's mean confidence, how well its window fits to the others, and trust from both."""
    agreement = np.ones(len(confidence))
    for window, seam in zip(windows, seams, strict=True):
        if seam.pixels:
            agreement[list(window.own)] = seam.agreed / seam.pixels
        agreement[[f for f in seam.set_aside if f in window.own]] *= 0.5
    sure = 1 - np.exp(-np.nan_to_num(confidence))
    return {"trust": agreement * sure, "confidence": confidence, "agreement": agreement}
