"""The kernels, compiled (once per machine) and loaded."""

import pytest
import torch

from sglang_patch.cpu import kernels


@pytest.fixture(scope="session", autouse=True)
def _loaded() -> None:
    kernels.load()


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.manual_seed(0)
