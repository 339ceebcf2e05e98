"""Hooks of the docs site: formulas become MathML when it is built, so that a page needs no script and no network.

And a line `::: byolsim.model.*` of a page stands for the reference of every module of that room.
"""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


_ROOM = re.compile(r"^::: (byolsim(?:\.\w+)+)\.\*$", re.MULTILINE)
_ROOT = Path(__file__).resolve().parents[1]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Write out the modules of a room, `step` first: it is where to start reading."""
    return _ROOM.sub(_references, markdown)


def _references(match: re.Match[str]) -> str:
    room = _ROOT.joinpath(*match[1].split("."))
    names = sorted((path.stem for path in room.glob("[!_]*.py")), key=lambda name: (name != "step", name))
    return "\n\n".join(f"::: {match[1]}.{name}\n    options: {{ heading_level: 2 }}" for name in names)


def on_page_content(html: str, **_: Any) -> str:
    r"""Replace what `pymdownx.arithmatex` marks, `\(...\)` inline and `\[...\]` on lines of its own."""
    return _FORMULA.sub(_mathml, html)


def _mathml(match: re.Match[str]) -> str:
    display = "block" if match[2] == "[" else "inline"
    return str(convert(unescape(match[3]).strip(), display=display))
