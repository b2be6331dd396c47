"""Geometry: tensors in, tensors out; no files, no video, no state."""
