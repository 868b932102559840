"""How a command ends: its exit codes, and the error that carries one."""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """What the exit status of `turbospec` means."""

    DONE = 0
    # Something nobody has foreseen; a traceback was printed.
    BUG = 1
    # An option or argument that cannot be used.
    USAGE = 2
    # No control service answers, or none is known to run.
    UNREACHABLE = 3
    # The control service was reached and said no.
    REFUSED = 4
    # A program that the command started has failed.
    CHILD_FAILED = 5
    # `turbospec doctor` has found a problem.
    UNHEALTHY = 6


class CliError(Exception):
    """Ends the command with `message` on stderr and `exit_code`."""

    def __init__(self, message: str, exit_code: ExitCode) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def usage_error(option: str, value: object, allowed: str) -> CliError:
    """An option that cannot be used: its name, the value it has, and what it may be."""
    return CliError(f"{option} is {str(value)!r}; allowed: {allowed}", ExitCode.USAGE)
