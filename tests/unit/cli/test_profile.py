"""Which batch sizes `turbospec profile` measures."""

from __future__ import annotations

import pytest

from control_service.cli.errors import CliError, ExitCode
from control_service.cli.profile import parse_batch_sizes


@pytest.mark.parametrize(
    ("text", "largest", "sizes"),
    [
        (None, 1, (1,)),
        (None, 16, (1, 4, 16)),
        (None, 500, (1, 4, 16, 64)),
        ("8", 8, (8,)),
        ("4,1,4", 8, (1, 4)),
    ],
)
def test_batch_sizes_are_ascending_and_fit_the_engine(
    text: str | None, largest: int, sizes: tuple[int, ...]
) -> None:
    assert parse_batch_sizes(text, largest) == sizes


@pytest.mark.parametrize("text", ["", "0", "9", "1,,2", "a", "-1", "1.5", "²"])
def test_other_batch_sizes_are_refused(text: str) -> None:
    with pytest.raises(CliError) as caught:
        parse_batch_sizes(text, 8)
    assert caught.value.exit_code == ExitCode.USAGE
    assert "sizes from 1 to 8" in str(caught.value)
