"""How many engines one control service holds; see `python -m benchmarks.service --help`."""
