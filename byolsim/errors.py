"""What goes wrong, as one line: the class of error for a mistake of the caller, and the form of a warning."""

from __future__ import annotations

import sys
import warnings


class UserError(Exception):
    """A mistake that the caller can mend: the message is one line that says what was given and what is allowed."""


class DiskFull(UserError):
    """A file does not fit: the disk, a quota or a limit on the size of files is full."""


JIT_DISABLED = "NUMBA_DISABLE_JIT is set, and kernels are not Python: must be 0, or not set"
"""Their numbers would be others as well."""


def show_warnings_as_lines() -> None:
    """Print warnings of this process as single lines on stderr, as the commands and their workers do."""
    warnings.showwarning = _one_line


def _one_line(message: Warning | str, *_: object, **__: object) -> None:
    print(f"byolsim: warning: {' '.join(str(message).split())}", file=sys.stderr)


def printable(text: str) -> str:
    """A text that stands on one line of any terminal; a name that could not is shown with escapes."""
    return text if text.isprintable() else ascii(text)[1:-1]
