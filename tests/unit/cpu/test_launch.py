"""What the launcher adds to the command line and environment, and when."""

from __future__ import annotations

import pytest

from sglang_patch import launch
from sglang_patch.cpu import activate


@pytest.mark.parametrize(
    ("argv", "device"),
    [
        (["--model-path", "m"], None),
        (["--device", "cpu"], "cpu"),
        (["--device=cpu", "--port", "1"], "cpu"),
        (["--device", "cpu", "--device", "cuda"], "cuda"),
        (["--device"], None),
    ],
)
def test_the_device_is_read_as_argparse_would(argv: list[str], device: str | None) -> None:
    """A machine with a GPU must not get CPU kernels by mistake."""
    assert launch.device_of(argv) == device


def test_defaults_are_added_only_where_the_user_is_silent() -> None:
    given = ["--device", "cpu", "--cuda-graph-max-bs=4", "--sleep-on-idle"]
    assert launch.with_cpu_defaults(given) == [*given, "--skip-server-warmup"]
    assert launch.with_cpu_defaults([]) == list(launch.CPU_FLAG_DEFAULTS)


def test_the_environment_keeps_what_the_user_set() -> None:
    environ = {"OMP_NUM_THREADS": "4", "PYTHONPATH": "/mine"}
    activate.mark_environment(environ)
    assert environ["OMP_NUM_THREADS"] == "4"
    assert environ["TORCH_COMPILE_DISABLE"] == "1"
    assert environ["PYTHONPATH"].split(":") == [str(activate.SITE_DIRECTORY), "/mine"]
    once = dict(environ)
    activate.mark_environment(environ)
    assert environ == once
