"""The wire contract: its checked-in stubs are what its .proto files say, and it keeps to buf's rules."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[3]
STUBS = ROOT / "proto"


def test_the_checked_in_stubs_are_those_of_the_protos(tmp_path: Path) -> None:
    subprocess.run(
        [str(ROOT / "scripts" / "proto.sh"), str(tmp_path)],
        check=True,
        env={"PYTHON": sys.executable, "PATH": "/usr/bin:/bin"},
    )
    generated = sorted(path.relative_to(tmp_path) for path in tmp_path.rglob("*_pb2*.py*"))
    checked_in = sorted(
        path.relative_to(STUBS) for path in STUBS.rglob("*_pb2*.py*") if "__pycache__" not in path.parts
    )
    assert generated == checked_in
    assert generated
    for name in generated:
        assert (tmp_path / name).read_text() == (STUBS / name).read_text(), f"{name}: run `make proto`"


def test_buf_finds_nothing_to_complain_about() -> None:
    buf = Path(sys.executable).parent / "buf"
    linted = subprocess.run([str(buf), "lint"], check=False, cwd=ROOT, capture_output=True, text=True)
    assert linted.returncode == 0, linted.stdout + linted.stderr
