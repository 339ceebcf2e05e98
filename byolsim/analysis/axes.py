"""Axes: which hyperparameter lies along which direction of a figure, its values there, and how they are written.

All that is said of a hyperparameter (symbol, name in words, scale, the word for its null) is declared with its field.
"""

from __future__ import annotations

import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from byolsim.config.describe import field_type
from byolsim.config.fields import known
from byolsim.config.grid import SweepConfig
from byolsim.config.run import RunConfig

Array = NDArray[np.float64]
Scale = Literal["log", "linear", "category"]


@dataclass(frozen=True)
class Layout:
    """Which hyperparameter is which direction of a figure: runs may differ in these and in their seeds alone.

    Attributes
    ----------
    x, y : along the two axes of a panel.
    panel : one panel for each of its values; None for a single panel.
    figure : one figure for each of its values; None for a single figure.
    """

    x: str = "lr_pred"
    y: str = "tau"
    panel: str | None = None
    figure: str | None = "batch_size"

    @property
    def names(self) -> frozenset[str]:
        """The hyperparameters in which the runs may differ."""
        return frozenset(name for name in (self.x, self.y, self.panel, self.figure, "seed") if name is not None)


def grid_axes(mode: str) -> dict[str, bool]:
    """The hyperparameters that a grid of an `lr_enc_mode` has an axis for, and whether only grids of that mode do."""
    facts = [known(field) for field in SweepConfig.model_fields.values()]
    return {
        fact["axis_of"]: "used_by" in fact for fact in facts if "axis_of" in fact and fact.get("used_by", mode) == mode
    }


def layout_of(mode: str) -> Layout:
    """The layout of a sweep's figures: one panel for each value of what only grids of its mode have an axis for."""
    own = [name for name, only in grid_axes(mode).items() if only]
    return Layout(panel=own[0] if own else None)


def fact(name: str, what: str, default: Any = None) -> Any:
    """What is declared of a hyperparameter of a run, by its name."""
    return known(RunConfig.model_fields[name]).get(what, default)


def text_of(name: str, value: Any) -> str:
    """One value in words: six digits of a number, and of a null its own word."""
    if value is None:
        return str(fact(name, "auto", "none"))
    return format(value, "g") if isinstance(value, float) else str(value)


@dataclass(frozen=True)
class Axis:
    """One direction of a grid.

    Attributes
    ----------
    name : the hyperparameter.
    values : ascending, words in their declared order; a null is the last.
    scale : `log` where the field asks for it and all values are positive, `linear` of other numbers, else `category`.
    """

    name: str
    values: tuple[Any, ...]
    scale: Scale

    @classmethod
    def of(cls, name: str, values: Iterable[Any], apart: bool = False) -> Axis:
        """The axis on which these values lie, each once.

        A null has no place on a scale of numbers: `apart` says that it gets one beside the axis, as the auto column
        does; else numbers with a null among them are categories.
        """
        distinct = set(values)
        bare = field_type(RunConfig.model_fields[name])[0]
        numbers = [value for value in distinct if value is not None]
        words = list(typing.get_args(bare)) if typing.get_origin(bare) is Literal else sorted(numbers)
        order = [value for value in words if value in distinct] + [None] * (None in distinct)
        scale: Scale = "linear"
        if bare not in (int, float) or (None in distinct and not apart):
            scale = "category"
        elif fact(name, "log") and all(value > 0 for value in numbers):
            scale = "log"
        return cls(name, tuple(order), scale)

    @property
    def along(self) -> tuple[Any, ...]:
        """The values that lie on the axis itself: all of them, or all but a null that is set apart."""
        return self.values if self.scale == "category" else tuple(v for v in self.values if v is not None)

    @property
    def positions(self) -> Array:
        """Where they lie: at themselves, a category at 0, 1, 2, ..."""
        return np.arange(len(self.along), dtype=float) if self.scale == "category" else np.array(self.along, float)

    @property
    def edges(self) -> Array:
        """Edges of the cells around them."""
        return cell_edges(self.positions, self.scale)

    @property
    def symbol(self) -> str:
        """The letter of the hyperparameter, its name where it has none."""
        return str(fact(self.name, "symbol", self.name))

    @property
    def title(self) -> str:
        """The hyperparameter in words."""
        return str(fact(self.name, "title", self.name))

    @property
    def label(self) -> str:
        """What stands along the axis: words and letter, then the option or what the number is of the option."""
        words = " ".join(filter(None, (fact(self.name, "title"), fact(self.name, "symbol"))))
        formula = fact(self.name, "formula")
        return f"{self.title} {formula}" if formula else f"{words}  [{self.name}]" if words else self.name

    def texts(self, digits: int = 2) -> list[str]:
        """The values in words, a null too."""
        if self.scale == "category":
            return [text_of(self.name, value) for value in self.values]
        labels = number_labels(self.along, self.scale, digits)
        return labels + [text_of(self.name, None)] * (len(self.values) - len(labels))


def cell_edges(values: Sequence[float] | Array, scale: Scale) -> Array:
    """Edges of cells around ascending values, halfway on the scale.

    A single value gets a cell of a decade in all, or of width 1.
    """
    at = np.log10(values) if scale == "log" else np.asarray(values, float)
    middle = (at[1:] + at[:-1]) / 2
    below, above = (at[0] - middle[0], at[-1] - middle[-1]) if len(at) > 1 else (-0.5, 0.5)
    edges = np.concatenate([[at[0] + below], middle, [at[-1] + above]])
    return np.asarray(10.0**edges) if scale == "log" else edges


def between(low: float, high: float, share: float, log: bool) -> float:
    """The place at that share of the way from `low` to `high`, as it is seen on the scale."""
    return float(low * (high / low) ** share) if log else float(low + (high - low) * share)


def number_labels(values: Sequence[float], scale: Scale, digits: int = 2) -> list[str]:
    """Numbers as they stand on an axis: powers on a logarithmic one, else six digits, or as many as keep them apart."""
    return power_labels(values, digits) if scale == "log" else _apart(values, lambda v, n: format(v, f".{n}g"), 6)


def power_labels(values: Sequence[float], digits: int = 2) -> list[str]:
    """Values as c x 10^k with that many digits, or as many more as keep them apart."""
    return _apart(values, _power_label, digits)


def _apart(values: Sequence[float], write: typing.Callable[[float, int], str], digits: int) -> list[str]:
    labels = [write(value, digits) for value in values]
    return _apart(values, write, digits + 1) if len(set(labels)) < len(set(values)) else labels


def _power_label(value: float, digits: int) -> str:
    mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
    mantissa = mantissa.rstrip("0").rstrip(".")
    power = f"10^{{{int(exponent)}}}"
    return f"${power}$" if mantissa == "1" else rf"${mantissa}{{\times}}{power}$"
