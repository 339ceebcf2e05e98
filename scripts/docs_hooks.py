"""Hooks of the docs site: formulas become MathML when it is built, so that a page needs no script and no network."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(html: str, **_: Any) -> str:
    r"""Replace what `pymdownx.arithmatex` marks, `\(...\)` inline and `\[...\]` on lines of its own."""
    return _FORMULA.sub(_mathml, html)


def _mathml(match: re.Match[str]) -> str:
    display = "block" if match[2] == "[" else "inline"
    return str(convert(unescape(match[3]).strip(), display=display))
