"""Windows become one world: placed one after the other while they come, settled together at the end."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from worldline.engines.any4d.windows import Window, last_uses
from worldline.errors import SolveFailed
from worldline.geometry import se3
from worldline.geometry.sim3 import Sim3
from worldline.scene.fragment import Fragment
from worldline.solve.shared_frames import Link, Sighting, links, sightings
from worldline.solve.window_alignment import Noise, Placement, place, settle


@dataclass(frozen=True, eq=False)
class Seam:
    """What is kept of a window after it is gone: its place so far and what ties it to earlier windows.

    Attributes:
        number: of the window. metric: whether its unit is meant to be metres. links: one per frame and earlier window.
        weight: (links,) how much each counted, 0 to 1.
    """

    number: int
    placement: Placement
    metric: bool
    links: tuple[Link, ...]
    weight: Float[np.ndarray, "k"]

    @property
    def agreed(self) -> int:
        """Shared pixels whose depths agree, in frames that count."""
        return sum(link.ratio.agreed for link, w in zip(self.links, self.weight, strict=True) if w > _COUNTS)

    @property
    def pixels(self) -> int:
        """Shared pixels that were compared."""
        return sum(link.ratio.pixels for link in self.links)

    @property
    def set_aside(self) -> tuple[int, ...]:
        """Frames of the video about which this window and an earlier one disagree."""
        return tuple(
            sorted({link.first.frame for link, w in zip(self.links, self.weight, strict=True) if w <= _COUNTS})
        )


_COUNTS = 0.1
"""A link with less weight was set aside."""


@dataclass(frozen=True, eq=False)
class Placed:
    """A window, and where it lies as far as is known when it comes."""

    fragment: Fragment
    seam: Seam

    @property
    def world_from_window(self) -> Sim3:
        """x_world = scale * rotation @ x_window + translation."""
        return self.seam.placement.world_from_window

    @property
    def world_from_cam(self) -> Float[np.ndarray, "v 4 4"]:
        """Of all views of the window."""
        return cameras(self.fragment, self.world_from_window)


def join(fragments: Iterable[Fragment], windows: Sequence[Window], noise: Noise | None = None) -> Iterator[Placed]:
    """Place windows one after the other. The first one's reference is the world: its camera is exactly the identity.

    Args:
        fragments: of `windows`, in their order, with frames, depth_ray and world_from_cam; depth_sigma and valid are
        used, and `scale` says that the unit is metres.
        windows: the plan, which says how long a frame is needed: only depths that a later window shares are kept.
        noise: how far windows are off.

    Raises:
        SolveFailed: a window shares no pixel with those before it.
    """
    noise, last = noise or Noise(), last_uses(windows)
    world: dict[int, Placement] = {}
    kept: dict[int, list[Sighting]] = {}
    for number, fragment in enumerate(fragments):
        seen = sightings(fragment)
        seam = _seam(number, fragment, tuple(links(number, seen, kept)), world, noise)
        kept = {n: [s for s in old if last[s.stood.frame] > number] for n, old in (kept | {number: seen}).items()}
        kept = {n: old for n, old in kept.items() if old}
        world = {n: p for n, p in (world | {number: seam.placement}).items() if n in kept}
        yield Placed(fragment, seam)


def _seam(number: int, fragment: Fragment, shared: tuple[Link, ...], world: dict[int, Placement], noise: Noise) -> Seam:
    metric = fragment.scale is not None
    if number == 0:
        return Seam(0, Placement(_seen_from_first(fragment), noise.log_unit), metric, (), np.zeros(0))
    if not shared:
        raise SolveFailed(
            f"frames {min(fragment.frames)} to {max(fragment.frames)} have no depth in common with the frames before; "
            "use larger windows that share more."
        )
    placement, weight = place(shared, world, metric=metric, noise=noise)
    return Seam(number, placement, metric, shared, weight.numpy())


def _seen_from_first(fragment: Fragment) -> Sim3:
    """World: the camera of the first view, which no network puts exactly at the identity."""
    assert fragment.world_from_cam is not None
    cam_from_window = se3.inverse(torch.from_numpy(np.array(fragment.world_from_cam[0], dtype=np.float64)))
    return Sim3(torch.ones((), dtype=torch.float64), cam_from_window[:3, :3], cam_from_window[:3, 3])


def settled(seams: Sequence[Seam], noise: Noise | None = None) -> tuple[Sim3, ...]:
    """`world_from_window` of all windows, from all that ties them together; the first reference stays the world."""
    every = [link for seam in seams for link in seam.links]
    metric = torch.tensor([seam.metric for seam in seams])
    return settle(every, [seam.placement for seam in seams], metric, noise or Noise())


def cameras(fragment: Fragment, world_from_window: Sim3) -> Float[np.ndarray, "v 4 4"]:
    """Cameras of a window in the world."""
    window_from_cam = torch.from_numpy(np.array(fragment.world_from_cam, dtype=np.float64))
    return world_from_window.apply_to_cameras(window_from_cam).numpy()
