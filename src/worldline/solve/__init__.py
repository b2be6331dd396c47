"""Least squares: the problem as data, methods, losses and terms, and the solvers for cameras and points."""
