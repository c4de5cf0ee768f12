"""Shorten the start of a run: kernels compiled ahead, imports spared."""
