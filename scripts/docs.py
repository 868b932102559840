"""Writes the pages of docs/ that are made from the code: `python scripts/docs.py [--check]`.

A page is a module of scripts/pages: its docstring says what it is, and its `render()` gives the text of
docs/NAME.md, where NAME is the module's, with dashes. A new module is a new page; nothing else is to be done.
"""

from __future__ import annotations

import argparse
import difflib
import importlib
import pkgutil
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
DOCS: Final = ROOT / "docs"
HEADER: Final = "<!-- Made by `make docs` from the code: edit that, not this file. -->\n\n"

if not __package__:
    sys.path.insert(0, str(ROOT))


def pages() -> dict[Path, str]:
    """Text by file, of every page."""
    names = [module.name for module in pkgutil.iter_modules([str(ROOT / "scripts" / "pages")])]
    return {DOCS / f"{name.replace('_', '-')}.md": HEADER + _render(name) for name in sorted(names)}


def _render(name: str) -> str:
    text: str = importlib.import_module(f"scripts.pages.{name}").render()
    return text.rstrip() + "\n"


def stale(texts: dict[Path, str]) -> list[str]:
    """Where the files differ from what they should be, as a unified diff."""
    lines: list[str] = []
    for path, text in texts.items():
        found = path.read_text(encoding="utf-8") if path.exists() else ""
        name = str(path.relative_to(ROOT))
        lines += difflib.unified_diff(
            found.splitlines(), text.splitlines(), name, f"{name} from the code", lineterm="", n=0
        )
    return lines


def main() -> int:
    """Exit status: 0; with --check, 1 if a page is not what the code says."""
    parser = argparse.ArgumentParser(description="Write the pages of docs/ that are made from the code.")
    parser.add_argument("--check", action="store_true", help="write nothing; fail if a page is out of date")
    arguments = parser.parse_args()
    texts = pages()
    if arguments.check:
        difference = stale(texts)
        if difference:
            print("\n".join([*difference, "out of date; to write them anew: make docs"]))
        return 1 if difference else 0
    for path, text in texts.items():
        path.write_text(text, encoding="utf-8")
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
