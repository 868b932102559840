"""Lets the torchvision wheel, which is built for CUDA, import on a CPU build of torch.

Its C++ extension does not load there, and its Python then stumbles over two operators that it wants to
describe. They are declared here, without an implementation; then the installed package runs under this name.
"""

import importlib.machinery
import sys
from pathlib import Path

import torch

_HERE = Path(__file__).resolve().parent.parent

# A CUDA build of torch loads the real extension, which declares these itself.
if torch.version.cuda is None and not hasattr(torch.ops.torchvision, "nms"):
    _library = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for _name in ("nms", "qnms"):
        _schema = f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor"
        _library.define(_schema)  # type: ignore[no-untyped-call]

_installed = importlib.machinery.PathFinder.find_spec(
    "torchvision", [path for path in sys.path if Path(path or ".").resolve() != _HERE]
)
if _installed is None or _installed.origin is None or _installed.submodule_search_locations is None:
    raise ModuleNotFoundError("torchvision is not installed", name="torchvision")
__path__ = list(_installed.submodule_search_locations)
__file__ = _installed.origin
exec(compile(Path(_installed.origin).read_bytes(), _installed.origin, "exec"))
