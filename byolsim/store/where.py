"""`--where "tau<1e-2 and loss_pop<0.5"`: comparisons on what a run was, how it ended, and its metrics at the end."""

from __future__ import annotations

import difflib
import math
import operator
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, get_args

import pyarrow as pa
from pydantic import Field, TypeAdapter, ValidationError

from byolsim.config.describe import allowed, field_type
from byolsim.config.fields import hyperparameters, known
from byolsim.config.run import RunConfig
from byolsim.errors import UserError
from byolsim.model.metrics import METRICS
from byolsim.model.modes import SPECTRA

STATUSES = ("completed", "diverged", "failed")
NAMES = ("run_id", "status", "reached", *hyperparameters(RunConfig), "ema_m")
"""What is known of a run without its rows: its id, how it ended, the last epoch it reached, every hyperparameter."""

_KNOWN = (*NAMES, *METRICS)
"""What can be compared: a metric stands for its value in the run's last row."""

Facts = Mapping[str, Any]
Test = Callable[[Facts], bool]

_COMPARISON = re.compile(r"\s*([\w-]+)\s*(<=|>=|==|!=|<|>|=)\s*([^<>=!\s](?:[^<>=!]*[^<>=!\s])?)\s*", re.ASCII)
_SIGNS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    ">": operator.gt,
    ">=": operator.ge,
    "==": operator.eq,
    "=": operator.eq,
    "!=": operator.ne,
}


def facts(run_id: str, config: RunConfig, status: str, reached: int | None) -> dict[str, Any]:
    """The values of a run by the names that `--where` knows."""
    return {
        "run_id": run_id,
        "status": status,
        "reached": reached,
        **config.hyperparameters,
        "ema_m": config.ema_m,
    }


def null_word(name: str) -> str | None:
    """The word for the null of a hyperparameter where null says something: `auto`, of a rate that the schedule sets."""
    field = RunConfig.model_fields.get(name)
    return known(field).get("auto") if field else None


@dataclass(frozen=True)
class Where:
    """What a `--where` asks: called with a run's facts it says whether the run is selected.

    The facts must hold the values of `metrics`, those that the text names, in the run's last row (`last_row`).
    """

    tests: tuple[Test, ...]
    metrics: tuple[str, ...]

    def __call__(self, values: Facts) -> bool:
        """Whether every comparison holds."""
        return all(test(values) for test in self.tests)


def last_row(table: pa.Table, metrics: Sequence[str]) -> dict[str, float | None]:
    """The metrics in the last row of a run; None where there is no finite value, or no row."""
    values = {name: table[name][-1].as_py() if table.num_rows else None for name in metrics}
    return {name: value if value is not None and math.isfinite(value) else None for name, value in values.items()}


def parse_where(text: str | None) -> Where:
    """The test that a `--where` describes; with None every run passes.

    A null (a rate of the auto schedule, an option that does not apply, a metric without a value, any metric of a run
    that failed) is neither less nor greater than anything, and equal to the words `auto` (the rates) and `null` only;
    so `lr_pred!=1e-3` holds where lr_pred is auto.

    Raises
    ------
    UserError
        If the text is no list of comparisons joined by `and`, names what a run does not have, or compares it with what
        it cannot be.
    """
    if text is None:
        return Where((), ())
    named = [_comparison(part, text) for part in re.split(r"\band\b", text)]
    metrics = dict.fromkeys(name for name, _ in named if name in METRICS)
    return Where(tuple(test for _, test in named), tuple(metrics))


def _comparison(part: str, text: str) -> tuple[str, Test]:
    """The name that a comparison asks for, and the comparison."""
    match = _COMPARISON.fullmatch(part)
    if match is None:
        raise UserError(
            f"--where {text!r} is not allowed: must be comparisons like tau<1e-2, joined by 'and', with the name first "
            f"and one of {' '.join(_SIGNS)}"
        )
    name, sign, word = match[1].replace("-", "_"), match[2], match[3].strip("'\"")
    if name in SPECTRA:
        raise UserError(f"--where {text!r}: {name} is a list of numbers, which cannot be compared")
    if name not in _KNOWN:
        near = difflib.get_close_matches(name, _KNOWN, 3)
        hint = f"did you mean {' or '.join(map(repr, near))}?" if near else f"must be one of {', '.join(_KNOWN)}"
        raise UserError(f"--where {text!r}: unknown name {name!r}: {hint}")
    compare, ordered = _SIGNS[sign], sign not in ("=", "==", "!=")
    value = _value(name, word, ordered, text)
    if ordered:
        return name, lambda values: values[name] is not None and compare(values[name], value)
    return name, lambda values: compare(values[name], value)


def _value(name: str, word: str, ordered: bool, text: str) -> Any:
    """The value that a name is compared with, of the name's own type; None for a null."""
    field = RunConfig.model_fields.get(name)
    measured = name == "ema_m" or name in METRICS
    kind = float if measured else int if name == "reached" else field_type(field)[0] if field else str
    nullable = name == "reached" or name in METRICS or (field is not None and type(None) in get_args(field.annotation))
    is_null = nullable and word.lower() in ("null", null_word(name))
    if ordered and (is_null or kind not in (int, float)):
        raise UserError(f"--where {text!r}: {name} {word} has no order: must be compared by == or !=")
    if is_null:
        return None
    if kind in (int, float):
        return _number(name, word, nullable, text)
    if name in ("run_id", "status"):
        if name == "status" and word not in STATUSES:
            raise UserError(f"--where {text!r}: status must be one of {', '.join(STATUSES)}, not {word!r}")
        return word
    assert field is not None
    try:
        given: Any = {"true": True, "false": False}.get(word.lower(), word) if kind is bool else word
        return _adapter(name).validate_python(given, strict=True)
    except ValidationError:
        raise UserError(f"--where {text!r}: {name} must be {allowed(field)}, not {word!r}") from None


def _adapter(name: str) -> TypeAdapter[Any]:
    """The checks of one field, which also bring a spectrum to its one form."""
    bare, metadata = field_type(RunConfig.model_fields[name])
    form: Any = Annotated[bare, Field(), *metadata]
    return TypeAdapter(form)


def _number(name: str, word: str, nullable: bool, text: str) -> int | float:
    for kind in (int, float):
        try:
            number = kind(word)
        except ValueError:
            continue
        if math.isfinite(number):
            return number
    own = null_word(name)
    words = (f", {own}" if own else "") + (" or null" if nullable else "")
    raise UserError(f"--where {text!r}: {name} must be compared with a number{words}, not {word!r}")
