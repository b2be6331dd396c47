"""Settings of the structure from tracks: how much is used, what counts as an outlier, what a doubt is worth."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class StructureSettings:
    """How much is used, and what counts as an outlier."""

    tracks: int = 2500
    """Most tracks used in the solve; all are judged at the end."""
    thinning: int = 2
    """Every so many of them grow the candidates among which one is chosen."""
    frames_per_key: int = 5
    """Frames between keyframes, about."""
    noise_px: float = 0.5
    """Least standard deviation of a sighting."""
    outlier_px: float = 2.0
    """Residual beyond which a sighting does not count as support."""
    fov_deg: float = 60.0
    """View along the longer side of an unknown camera."""
    focal_sigma: float = 0.3
    """Relative standard deviation of that guess."""
    focal_starts: tuple[float, ...] = (0.75, 1.0, 1.4, 2.0)
    """Multiples of the guess that are tried beside the one that pairs vote for."""
    focal_weight: float = 0.05
    """Cost of a focal length one sigma from the guess, in mean squared residuals."""
    effective: int = 500
    """Independent sightings that a solve is worth: errors along a track and of the lens go together."""
    min_parallax_rad: float = 0.012
    """Half of it is the least median angle between the rays of a pair to start from; five times it is wide."""
    ground_worth: float = 0.3
    """What it is worth, in log squared residuals, that the bottom of the image is nearer (times the correlation)."""
    lens_tracks: int = 5000
    """Most tracks used, at keyframes, to find the lens."""
    distortion_sigma: float = 0.15
    """Standard deviation of k1 and k2 of an unknown lens."""
    centre_sigma: float = 0.02
    """Standard deviation of the principal point, in focal lengths."""
    distortion_evidence: float = 16.0
    """Squared standard deviations by which k1 and k2 must differ from 0 together to be believed."""
    least_focal_sigma: float = 0.005
    """The focal length is never better known than this."""
    still_px: float = 0.75
    """A camera stands still if most tracks move less in five frames."""

    @classmethod
    def fast(cls) -> StructureSettings:
        """Fewer tracks and keyframes, in little more than half of the time."""
        return cls(tracks=1000, lens_tracks=1500, frames_per_key=7)
