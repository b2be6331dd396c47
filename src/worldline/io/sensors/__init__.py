"""Logs of robots: what is in them, and their messages as videos, depth, poses, IMU and radar readings."""
