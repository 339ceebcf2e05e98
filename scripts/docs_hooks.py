"""Hooks of the docs site: formulas become MathML when it is built, so that a page needs no script and no network.

A line `::: byolsim.model.*` of a page stands for the reference of every module of that room. A page or a style sheet
that would load anything from another host ends the build.
"""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError

_ROOM = re.compile(r"^::: (byolsim(?:\.\w+)+)\.\*$", re.MULTILINE)
_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
_LETTER = re.compile(r'<mi(?: mathvariant="([\w-]+)")?>(.|&#x[0-9A-F]+;)</mi>')
_ELSEWHERE = re.compile(
    r"""<(?!a\b)[^>]*\s(?:src|href)=["']?(?:https?:)?//[^>]*|(?:url\(|@import)[\s"']*(?:https?:)?//[^;]*"""
)
_ROOT = Path(__file__).resolve().parents[1]


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Write out the modules of a room, `step` first: it is where to start reading."""
    return _ROOM.sub(_references, markdown)


def on_page_content(html: str, **_: Any) -> str:
    r"""Replace what `pymdownx.arithmatex` marks, `\(...\)` inline and `\[...\]` on lines of its own."""
    return _FORMULA.sub(_mathml, html)


def on_post_build(config: Any, **_: Any) -> None:
    """Read what was built."""
    for path in sorted(Path(config.site_dir).rglob("*")):
        if path.suffix in (".html", ".css"):
            found = elsewhere(path.read_text(encoding="utf-8"))
            if found:
                raise PluginError(f"{path.relative_to(config.site_dir)} would load {found[0]}")


def elsewhere(text: str) -> list[str]:
    """What a page or a style sheet loads from another host: links that a reader may follow are none of it."""
    return [found for found in _ELSEWHERE.findall(text) if 'rel="canonical"' not in found]


def _references(match: re.Match[str]) -> str:
    room = _ROOT.joinpath(*match[1].split("."))
    names = sorted((path.stem for path in room.glob("[!_]*.py")), key=lambda name: (name != "step", name))
    return "\n\n".join(f"::: {match[1]}.{name}\n    options: {{ heading_level: 2 }}" for name in names)


def _mathml(match: re.Match[str]) -> str:
    display = "block" if match[2] == "[" else "inline"
    return _LETTER.sub(_letter, str(convert(unescape(match[3]).strip(), display=display)))


def _letter(match: re.Match[str]) -> str:
    """Letters that browsers do not set by `mathvariant`: double-struck, sans-serif, and Greek capitals, upright."""
    variant, letter = match[1], unescape(match[2])
    if variant == "double-struck" and letter.isascii():
        named = {"C": "ℂ", "N": "ℕ", "Q": "ℚ", "R": "ℝ", "Z": "ℤ"}
        return f"<mi>{named.get(letter) or chr(0x1D538 + ord(letter) - ord('A'))}</mi>"
    if variant == "sans-serif" and letter.isascii():
        return f"<mi>{chr(0x1D5A0 + ord(letter) - ord('A'))}</mi>"
    if variant is None and "Α" <= letter <= "Ω":
        return f'<mi mathvariant="normal">{letter}</mi>'
    return match[0]
