"""What a person types -> the one form in which a configuration keeps it."""

from __future__ import annotations

from decimal import Decimal
from typing import Any


def round12(x: float) -> float:
    """Round to 12 significant digits, so that grid points are the decimals that a person would type."""
    return float(f"{x:.12g}")


def tau_from_ema_m(ema_m: Any) -> Any:
    """EMA rate tau = 1 - m, subtracted as decimals: 0.9999 gives 1e-4, not 9.999999999998899e-05.

    Anything that is no number is handed back unchanged, for the field's own check to refuse; `ValueError` for a number
    outside 0 <= m <= 1.
    """
    if isinstance(ema_m, bool) or not isinstance(ema_m, (int, float, Decimal)):
        return ema_m
    m = Decimal(repr(ema_m)) if isinstance(ema_m, float) else Decimal(ema_m)
    if not (m.is_finite() and 0 <= m <= 1):
        raise ValueError(f"ema_m = {ema_m} is not allowed: must be a number >= 0 and <= 1")
    return float(1 - m)


def parse_spectrum(value: Any) -> Any:
    """Canonical text of a spectrum, so that `geometric:0.10:10` and `geometric:0.1:10.0` are one configuration.

    LO and HI may come in either order, and so may the numbers of a list.
    """
    parsed = _parse_numbers(value, {"geometric": 2, "linear": 2, "flat": 1}, 1e-12, 1e12)
    if parsed is None:
        return value
    kind, numbers = parsed
    return _text_of(kind, sorted(numbers, reverse=not kind))


def parse_correlation(value: Any) -> Any:
    """Canonical text of correlations in [-1, 1], in the order of the latents; None where all of them are 1."""
    parsed = _parse_numbers(value, {"linear": 2, "flat": 1}, -1.0, 1.0)
    if parsed is None:
        return value
    kind, numbers = parsed
    return None if set(numbers) == {1.0} else _text_of(kind, [number + 0.0 for number in numbers])


def _parse_numbers(value: Any, arity: dict[str, int], least: float, largest: float) -> tuple[str, list[float]] | None:
    """(kind, numbers) of a text `kind:NUMBER:NUMBER`, ("", numbers) of a list; None for what is neither."""
    if isinstance(value, (list, tuple)):
        if any(isinstance(v, bool) or not isinstance(v, (int, float)) for v in value):
            raise ValueError("a list must hold numbers only")
        value = ",".join(repr(v) for v in value)
    if not isinstance(value, str):
        return None
    kind, colon, rest = (part.strip() for part in value.partition(":"))
    count = arity.get(kind) if colon else None
    if colon and count is None:
        raise ValueError("unknown kind of spectrum")
    try:
        # a list has commas, blanks or both between its numbers; an empty place in it is a mistake
        parts = rest.split(":") if colon else [w for part in value.split(",") for w in part.split() or [""]]
        numbers = [float(part) for part in parts]
    except ValueError:
        raise ValueError("not a list of numbers") from None
    if count is not None and len(numbers) != count:
        raise ValueError(f"{kind} takes {count} number{'s' * (count > 1)}")
    if not all(least <= v <= largest for v in numbers):
        raise ValueError(f"each number must lie between {least:g} and {largest:g}")
    return (kind if colon else ""), numbers


def _text_of(kind: str, numbers: list[float]) -> str:
    text = [format(v, "g") if float(format(v, "g")) == v else repr(v) for v in numbers]
    return ":".join([kind, *text]) if kind else ",".join(text)


def as_tuple(value: Any) -> Any:
    """A list, as TOML has it, as a tuple; anything else unchanged."""
    return tuple(value) if isinstance(value, list) else value


def one_or_more(value: Any) -> Any:
    """One whole number is a list of one."""
    return (value,) if type(value) is int else as_tuple(value)
