"""The knob model: a target and two drafters whose acceptance is a dial; no download and no training.

Usage: `python -m sglang_patch.models.knob [OUT] --scale 0.02`. Prints OUT, which then holds checkpoints:

- `target`: a random 12-layer Llama. Its first layer computes; every later one only nudges the residual
  stream by `scale` times what it would. At 0 the later layers do nothing, so the first alone foretells the
  target's tokens; the larger `scale`, the more often they overrule it.
- `draft`: for STANDALONE, the target's embedding, first layer, final norm and output layer. It proposes what
  the target would say without its later layers, so acceptance falls smoothly as `scale` grows.
- `eagle`: a head for EAGLE that computes the same as `draft`, see `knob_weights.eagle_head`.

The same arguments always give the same weights.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from pathlib import Path
from typing import Final

from sglang_patch.models.store import ModelError, Recipe, build_once, models_directory, say

# Raised whenever other weights are made from the same arguments.
RECIPE_VERSION: Final = 1


def make(out: Path, scale: float) -> bool:
    """Make the three checkpoints below `out` unless they are there. Returns whether they were built."""
    recipe: Recipe = {"name": "knob", "recipe_version": RECIPE_VERSION, "scale": scale}
    return build_once(out, recipe, lambda directory: _build(directory, scale))


def _build(out: Path, scale: float) -> None:
    # Imported only now: torch takes seconds, and mostly there is nothing to build.
    importlib.import_module("sglang_patch.models.knob_weights").build(out, scale)


def _scale(text: str) -> float:
    try:
        scale = float(text)
    except ValueError:
        scale = -1.0
    if not 0 <= scale <= 1:
        raise argparse.ArgumentTypeError(f"{text!r}: allowed are numbers from 0 (all accepted) to 1")
    return scale


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m sglang_patch.models.knob",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("out", type=Path, nargs="?", metavar="OUT", help="default: below the cache directory")
    parser.add_argument("--scale", type=_scale, default=0.02, help="how much the later layers matter (0.02)")
    arguments = parser.parse_args()
    out: Path = arguments.out or models_directory() / f"knob-{arguments.scale:g}"
    try:
        built = make(out, arguments.scale)
    except ModelError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; nothing was written")
    say(f"the knob model at scale {arguments.scale:g} {'is ready' if built else 'was already there'}")
    print(out.expanduser().absolute())


if __name__ == "__main__":
    main()
