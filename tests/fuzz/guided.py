"""Feeds mutated messages and keeps those that reach new code (atheris, libFuzzer); ends with the process.

Usage: python -m tests.fuzz.guided TARGET MESSAGES SEED CORPUS_DIRECTORY
"""

from __future__ import annotations

import logging
import random
import sys
import warnings
from pathlib import Path
from typing import Final

import atheris
import structlog

with atheris.instrument_imports(include=["sglang_patch", "control_service"]):
    from tests.fuzz.targets import TARGETS

from tests.fuzz.blind import MESSAGE_LIMIT_S
from tests.fuzz.mutate import SIZE_MAX_BYTES, Mutator

RSS_LIMIT_MIB: Final = 2048


def main(name: str, messages: int, seed: int, corpus: Path) -> None:
    target = TARGETS[name]()
    corpus.mkdir(parents=True, exist_ok=True)
    for number, data in enumerate(target.seeds()):
        (corpus / f"seed-{number}").write_bytes(data)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("error")

    def spoil(data: bytes, size_max: int, chance: int) -> bytes:
        # Half in the fields, where libFuzzer's own mutations do not lead.
        if chance % 2:
            return target.spoil(bytes(data), Mutator(random.Random(chance)))[:size_max]
        spoilt: bytes = atheris.Mutate(bytes(data), size_max)
        return spoilt

    atheris.Setup(
        [
            sys.argv[0],
            f"-runs={messages}",
            f"-seed={seed}",
            f"-max_len={SIZE_MAX_BYTES}",
            f"-timeout={MESSAGE_LIMIT_S:.0f}",
            f"-rss_limit_mb={RSS_LIMIT_MIB}",
            f"-artifact_prefix={corpus.parent}/{name}-",
            "-print_final_stats=1",
            str(corpus),
        ],
        target.feed,
        custom_mutator=spoil,
    )
    atheris.Fuzz()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
