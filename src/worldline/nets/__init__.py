"""Blocks that two or more networks share; every network keeps the key names of its published weights."""
