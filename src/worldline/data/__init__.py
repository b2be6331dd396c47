"""Public datasets, one file each: a path to a Sequence (video, what a method may be told, and the truth)."""

from worldline.data.reading import read
from worldline.data.sequence import Sequence, TrackTruth, track_truth

__all__ = ["Sequence", "TrackTruth", "read", "track_truth"]
