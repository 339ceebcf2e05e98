"""What the docs site reads in docstrings: `name : meaning` in a list of attributes or parameters is no type."""

from __future__ import annotations

import re
from typing import Any

import griffe

_LISTS = re.compile(
    r"^( *)(?:Attributes|Parameters)\n\1-+\n((?:\1.*\n?|\n)*?)(?=\n\1?\S[^\n]*\n\1-+\n|\Z)", re.MULTILINE
)
_ITEM = re.compile(r"^(\w[\w, *]*) : (.*)$", re.MULTILINE)


class Meanings(griffe.Extension):
    """Put each meaning on a line of its own, where numpy's convention has the description."""

    def on_object(self, *, obj: griffe.Object, **_: Any) -> None:
        """Rewrite the docstring of one object."""
        if obj.docstring is not None:
            obj.docstring.value = meanings_apart(obj.docstring.value)


def meanings_apart(docstring: str) -> str:
    """The docstring with `name : meaning` as a name and an indented meaning, in its lists."""
    return _LISTS.sub(lambda match: _ITEM.sub(r"\1\n    \2", match[0]), docstring)
