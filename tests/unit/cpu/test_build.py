"""The compiled library's cache: one build for everybody, keyed by what shapes it, with errors that help."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from sglang_patch.cpu import build

UNIT = 'extern "C" int turbospec_answer() { return 42; }\n'
BUILD = (
    "import logging, pathlib, sys\n"
    "from sglang_patch.cpu import build\n"
    "logging.basicConfig()\n"
    "print(build.library(pathlib.Path(sys.argv[1]), pathlib.Path(sys.argv[2])))\n"
)


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    directory = tmp_path / "csrc"
    directory.mkdir()
    (directory / "unit.cpp").write_text(UNIT)
    return directory


def test_two_processes_at_once_build_once(tmp_path: Path, sources: Path) -> None:
    """SGLang's processes start together on a machine that has never built the kernels."""
    cache = tmp_path / "cache"
    started = [
        subprocess.Popen(
            [sys.executable, "-c", BUILD, str(cache), str(sources)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    results = [process.communicate(timeout=300) for process in started]
    assert [process.returncode for process in started] == [0, 0], results
    assert results[0][0] == results[1][0]
    assert sum("Compiling the CPU kernels once" in errors for _, errors in results) == 1
    assert [path.suffix for path in cache.iterdir() if path.name != "build.lock"] == [".so"]


def test_the_key_follows_what_shapes_the_library(
    tmp_path: Path, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stale library after an upgrade would compute with yesterday's source or torch's old ABI."""
    cache = tmp_path / "cache"
    first = build.library(cache, sources)
    stamp = first.stat().st_mtime_ns
    assert build.library(cache, sources) == first
    assert first.stat().st_mtime_ns == stamp
    (sources / "unit.h").write_text("// new header\n")
    second = build.library(cache, sources)
    assert second != first
    monkeypatch.setattr(build.torch, "__version__", "0.0.0")
    assert build.library(cache, sources) not in (first, second)


def test_a_failing_compiler_is_quoted_and_leaves_nothing(tmp_path: Path, sources: Path) -> None:
    (sources / "unit.cpp").write_text("this is not C++\n")
    cache = tmp_path / "cache"
    with pytest.raises(build.BuildError, match=r"(?s)compiling the CPU kernels failed.*unit\.cpp.*error"):
        build.library(cache, sources)
    assert [path.name for path in cache.iterdir()] == ["build.lock"]


def test_a_missing_compiler_says_what_to_install(
    tmp_path: Path, sources: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(build.BuildError, match=r"'g\+\+' is not on the PATH; install g\+\+"):
        build.library(tmp_path / "cache", sources)


def test_cache_directory_follows_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TURBOSPEC_CACHE_DIR", str(tmp_path))
    assert build.cache_directory() == tmp_path / "kernels"
    monkeypatch.delenv("TURBOSPEC_CACHE_DIR")
    assert build.cache_directory() == Path.home() / ".cache" / "turbospec" / "kernels"


def test_no_vector_extension_is_required(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a processor without AVX the same sources must compile, and give the right numbers."""
    if os.uname().machine != "x86_64":
        pytest.skip("the portable build is only set apart by a flag of x86-64")
    flags = tuple("-march=x86-64" if flag == "-march=native" else flag for flag in build.FLAGS)
    monkeypatch.setattr(build, "FLAGS", tuple("-O1" if flag == "-O3" else flag for flag in flags))
    sources = tmp_path / "csrc"
    sources.mkdir()
    for name in ("linear.cpp", "vec.h"):
        shutil.copy(build.SOURCE_DIRECTORY / name, sources)
    library = build.library(tmp_path / "cache", sources)
    check = (
        "import sys, torch\n"
        "torch.ops.load_library(sys.argv[1])\n"
        "x, w = torch.randn(7, 64).bfloat16(), torch.randn(48, 64).bfloat16()\n"
        "y = torch.ops.sgl_kernel.weight_packed_linear(x, w, None, True)\n"
        "torch.testing.assert_close(y.double(), x.double() @ w.double().T, atol=0.1, rtol=0.01)\n"
    )
    subprocess.run([sys.executable, "-c", check, str(library)], check=True, timeout=120)
