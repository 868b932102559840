"""Hugging Face transformers as the model makers want it: offline, quiet, and not stopped by torchvision.

Transformers imports torchvision, when it is installed, for the sake of image models. The wheel on PyPI is
built for CUDA and does not import beside a CPU build of torch; where that is so it is hidden, and then
simply not asked for.
"""

from __future__ import annotations

import importlib
import os
import sys
from typing import Any, Final

os.environ["HF_HUB_OFFLINE"] = "1"
try:
    importlib.import_module("torchvision")
except (ImportError, RuntimeError):
    # To whoever looks for it, a module whose entry is None is not installed.
    sys.modules["torchvision"] = None  # type: ignore[assignment]

# Any: transformers' own annotations do not hold under strict type checking.
transformers: Final[Any] = importlib.import_module("transformers")

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
