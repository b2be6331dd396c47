"""Whole reconstructions: a video in, a scene out, in memory or resumable in a folder."""

from worldline.run.reconstruction import Finished, Reading, Request, reconstruct, reconstruct_into

__all__ = ["Finished", "Reading", "Request", "reconstruct", "reconstruct_into"]
