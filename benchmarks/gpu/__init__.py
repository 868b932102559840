"""Measurements on an NVIDIA GPU; see `python -m benchmarks.gpu --help`."""
