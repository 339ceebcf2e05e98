"""Tables as text: Markdown that is legible in a terminal."""

from __future__ import annotations

from collections.abc import Sequence


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table, the first column flush left and the others flush right."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0]), *(c.rjust(w) for c, w in zip(cells[1:], widths[1:], strict=True))]
        return f"| {' | '.join(padded)} |"

    rule = ["-" * widths[0], *("-" * (w - 1) + ":" for w in widths[1:])]
    return "\n".join([line(header), line(rule), *map(line, rows)])


def figure(value: float | None) -> str:
    """A number >= 0 to three significant digits, or two decimals below 1; a dash for what was not measured."""
    if value is None:
        return "-"
    return f"{value:,.{max(0, 3 - len(str(int(value))))}f}"


def share(value: float) -> str:
    """A fraction in per cent."""
    return f"{value:.0%}"
