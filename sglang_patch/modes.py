"""The engine's own mode: what it lets the service do, whatever the service's mode is.

The two combine to the more careful one: a step obeys a lease only if both modes say so.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from sglang_patch.lease import applies
from turbospec.v1.control_pb2 import MODE_CANARY, MODE_ENFORCE, MODE_OFF, MODE_SHADOW

MODES_ALLOWED: Final = "enforce, shadow, off or canary:1 to canary:99"
_CANARY: Final = "canary"


class EngineMode(NamedTuple):
    """A mode of the wire contract, with the share of step blocks where it is a canary."""

    code: int
    percent: int = 0

    def obeys(self, step_index: int) -> bool:
        """Whether this step is to obey a lease, as far as the engine is concerned."""
        return applies(self.code, self.percent, step_index)

    def __str__(self) -> str:
        return f"{_CANARY}:{self.percent}" if self.code == MODE_CANARY else _NAMES[self.code]


ENFORCE: Final = EngineMode(MODE_ENFORCE)
SHADOW: Final = EngineMode(MODE_SHADOW)
OFF: Final = EngineMode(MODE_OFF)

_NAMES: Final[dict[int, str]] = {MODE_ENFORCE: "enforce", MODE_SHADOW: "shadow", MODE_OFF: "off"}
_PLAIN: Final = {"enforce": ENFORCE, "shadow": SHADOW, "off": OFF}


def parse_mode(text: str) -> EngineMode:
    """A mode as an operator writes it.

    Raises:
        ValueError: it is none of ``MODES_ALLOWED``.
    """
    if text in _PLAIN:
        return _PLAIN[text]
    name, _, percent = text.partition(":")
    if name == _CANARY and percent.isascii() and percent.isdigit() and 0 < int(percent) < 100:
        return EngineMode(MODE_CANARY, int(percent))
    raise ValueError(text)
