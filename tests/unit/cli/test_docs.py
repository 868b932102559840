"""The documentation is what the code says, and its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from control_service.cli.errors import ExitCode
from control_service.settings import ServiceSettings
from scripts import docs
from sglang_patch.config import EngineConfig

ROOT = Path(__file__).parents[3]
PAGES = sorted([ROOT / "README.md", ROOT / "ARCHITECTURE.md", *(ROOT / "docs").glob("*.md")])
LINK = re.compile(r"\[[^\]]+\]\(([^)#]+)(?:#[^)]*)?\)")


def test_generated_pages_are_up_to_date() -> None:
    command = [sys.executable, str(ROOT / "scripts" / "docs.py"), "--check"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"


def test_a_page_that_is_not_is_shown_with_the_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(docs, "ROOT", tmp_path)
    page = tmp_path / "page.md"
    page.write_text("old\n")
    assert docs.stale({page: "old\n"}) == []
    assert docs.stale({page: "new\n"})[-2:] == ["-old", "+new"]
    assert docs.stale({tmp_path / "missing.md": "new\n"})[-1] == "+new"


def test_every_setting_is_listed_with_its_meaning() -> None:
    text = (ROOT / "docs" / "configuration.md").read_text(encoding="utf-8")
    rows = {
        line.split("|")[column].strip(): line
        for line in text.splitlines()
        if "|" in line
        for column in (1, 2)
    }
    for name in ServiceSettings.model_fields:
        assert not rows[f"`TURBOSPEC_SERVICE_{name.upper()}`"].endswith("| - |"), name
    for name in EngineConfig.__dataclass_fields__:
        assert not rows[f"`TURBOSPEC_{name.upper()}`"].endswith("| - |"), name


def test_every_exit_code_is_listed() -> None:
    text = (ROOT / "docs" / "cli.md").read_text(encoding="utf-8")
    for code in ExitCode:
        assert re.search(rf"^- {code.value} ", text, re.MULTILINE), code


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    for target in LINK.findall(page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_page_is_in_the_index() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    for page in (ROOT / "docs").glob("*.md"):
        assert page.name == "README.md" or f"({page.name})" in index, page.name
