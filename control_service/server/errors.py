"""What stops the service before it serves."""

from __future__ import annotations


class StartError(ValueError):
    """Something the service was told to use and cannot use; the text names it and why."""
