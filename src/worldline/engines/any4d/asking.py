"""Windows of a clip through the network, each a stage that can be found again."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch

from worldline.engines.any4d import checkpoint
from worldline.engines.any4d.camera import camera_of
from worldline.engines.any4d.config import Config
from worldline.engines.any4d.inputs import Views
from worldline.engines.any4d.motion import find_motion, follow, starts
from worldline.engines.any4d.network import Any4D
from worldline.engines.any4d.observed import Conditions
from worldline.engines.any4d.prediction import ask, fragment
from worldline.engines.any4d.windows import FeatureCache, Window, plan
from worldline.nets import weights
from worldline.nets.hashed_weights import fill
from worldline.nets.linear import half_linear
from worldline.nets.weights import WeightsFile
from worldline.scene.fragment import Fragment
from worldline.scene.journal import Arrays, Journal
from worldline.scene.observations import Observations
from worldline.scene.video import Video

MEANINGLESS = "the weights of the network mean nothing (they are for tests), and so does this scene."
VIEWS_AT_ONCE = {"cpu": 1, "cuda": 8}
"""Through the dense heads: their maps are the largest, and more at once save time on a GPU alone."""


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
    if config.compiled:
        for block in (*network.dino.blocks, *network.info_sharing.self_attention_blocks):
            block.compile()
    network.views_at_once = VIEWS_AT_ONCE.get(device.type, 1)
    return network.requires_grad_(False).to(device)


def device_of(config: Config) -> str:
    """Where the network runs."""
    if config.device != "auto":
        return config.device
    return "cuda" if torch.cuda.is_available() else "cpu"


@dataclass(frozen=True, eq=False)
class Asking:
    """A clip and the network, which is asked window by window."""

    config: Config
    video: Video
    observed: Observations
    journal: Journal

    @cached_property
    def conditions(self) -> Conditions:
        """What is known, as the network takes it."""
        return Conditions.of(self.video, self.observed, device_of(self.config), self.config.size)

    @cached_property
    def file(self) -> WeightsFile | None:
        """The weights; their licence is named before they are used."""
        if self.config.weights is None:
            return None
        file = weights.find(self.config.weights, commercial=self.config.commercial)
        self.journal.progress.note(f"weights {file.name}: licence {file.licence}.")
        return file

    def check(self) -> None:
        """Tell what is missing or does not fit before the work begins.

        Raises:
            InputError, MissingWeights, LicenceError: see the engine.
        """
        _ = self.file, self.windows

    @cached_property
    def network(self) -> Any4D:
        """Loaded when it is needed: a run that only finds its stages again does without."""
        return load(self.config, self.file)

    @cached_property
    def windows(self) -> tuple[Window, ...]:
        """The plan; a frame whose pose is known leads a window that has any."""
        config, posed = self.config, self.conditions.posed
        first = config.reference
        if 0 <= first < len(posed) and posed.any() and not posed[first]:
            first = int(np.flatnonzero(posed)[np.abs(np.flatnonzero(posed) - first).argmin()])
        planned = plan(
            len(self.video), window=config.window, shared=config.shared, reference=first, references=config.references
        )
        return tuple(window.led_by_one_of(np.flatnonzero(posed)) for window in planned)

    @cached_property
    def _cache(self) -> FeatureCache:
        return FeatureCache(self.windows, self._features)

    def _features(self, frames: tuple[int, ...]) -> torch.Tensor:
        """One image at a time: more would need memory and save no time."""
        parts = [self.network.features(Views(self.conditions.images([f])[:, None]))[:, 0] for f in frames]
        return torch.cat(parts)

    @cached_property
    def notes(self) -> tuple[str, ...]:
        """What a user should know of the weights."""
        if self.file is None:
            return (MEANINGLESS,)
        return (f"weights {self.file.name}: licence {self.file.licence}.", *checkpoint.notes(self.network.config))

    @property
    def settings(self) -> Any:
        """What the answers depend on, beside the journal's own key."""
        return self.config, len(self.video), self.conditions.used, None if self.file is None else self.file.checksum

    @property
    def all_at_once(self) -> bool:
        """Whether the first window is the whole clip."""
        return len(self.windows[0]) == len(self.video) > 1

    def fragment(self, number: int) -> Fragment:
        """What the network says of a window, as windows are joined by."""
        arrays = self.journal.run(self._name(number), lambda: self._ask(number), settings=self.settings)
        return fragment(self.windows[number].frames, arrays)

    def arrays(self, number: int) -> Arrays:
        """The same, whole: maps, cameras, tracks; of a window that was asked before."""
        return self.journal.again(self._name(number), settings=self.settings)

    def _name(self, number: int) -> str:
        return f"window {number + 1} of {len(self.windows)}"

    @torch.inference_mode()
    def _ask(self, number: int) -> Arrays:
        """What the network says of a window, as arrays."""
        frames, network = self.windows[number].frames, self.network
        features = self._cache.features(number)[:, None]
        said = ask(network, self.conditions, frames, features, self.config.edges)
        intrinsics = self._lens(said.intrinsics, frames)
        motion = find_motion(said, intrinsics, still_background=self.config.still_background)
        picture = self.conditions.pictures(frames[:1])[0]
        source, view = self._source(number)
        begun = starts(said, motion, self._step, None if source < 0 else self.arrays(source), view)
        arrays = {
            "depth_z": said.depth_z, "sigma": said.sigma, "valid": said.valid, "moving": motion.moving,
            "window_from_cam": said.window_from_cam, "intrinsics": said.intrinsics,
            "confidence": said.confidence.flatten(1).mean(1),
        }  # fmt: skip
        if number == 0 and self.all_at_once:
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
