"""Write the list of modules in docs/architecture.md from their docstrings: `python scripts/write_modules.py`."""

from __future__ import annotations

import ast
from collections.abc import Iterable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "architecture.md"
BEGIN, END = "<!-- modules: written by scripts/write_modules.py -->\n", "<!-- end of modules -->\n"

ROOMS = (
    "model",
    "backends",
    "draws",
    "config",
    "machine",
    "store",
    "sweeps",
    "analysis",
    "cli",
)
"""The packages in the order in which a newcomer meets them; others follow by name."""

FIRST = ("step",)
"""Modules that come before the others of their room."""


def text() -> str:
    """The whole page, with the list as the modules are now."""
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    _, after = rest.split(END)
    return f"{before}{BEGIN}{modules(ROOT / 'byolsim')}{END}{after}"


def modules(package: Path) -> str:
    """A table for the root and one for each package directly in it."""
    rooms = sorted((path.parent for path in package.glob("*/__init__.py")), key=_place)
    parts = [_table("byolsim", package, package.glob("*.py"))]
    parts += [_table(f"byolsim/{room.name}", room, room.rglob("*.py")) for room in rooms]
    return "\n" + "\n".join(parts) + "\n"


def _place(room: Path) -> tuple[int, str]:
    return ROOMS.index(room.name) if room.name in ROOMS else len(ROOMS), room.name


def _table(title: str, room: Path, paths: Iterable[Path]) -> str:
    rows = ["| module | what |", "|---|---|"]
    for path in sorted(paths, key=lambda path: (path.parent.parts, path.stem not in FIRST, path.name)):
        name = path.relative_to(room).with_suffix("").as_posix()
        if name != "__init__":
            what = summary(path).replace("|", "\\|")
            rows.append(f"| `{name.removesuffix('__init__')}` | {what} |")
    return "\n".join([f"**`{title}/`** {summary(room / '__init__.py')}", "", *rows, ""])


def summary(path: Path) -> str:
    """The first paragraph of a module's docstring, on one line."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    assert docstring, path
    return " ".join(docstring.split("\n\n")[0].split())


if __name__ == "__main__":
    PAGE.write_text(text(), encoding="utf-8")
