"""One module a page, see `scripts/docs.py`."""
