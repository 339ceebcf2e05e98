"""A grid of runs: its configuration, the configurations of its runs, and notes on options that it does not use."""

from __future__ import annotations

import math
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Annotated, Any, get_args, overload

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from byolsim.config.describe import field_type
from byolsim.config.fields import hyper, known, names
from byolsim.config.parsing import as_tuple, one_or_more, round12
from byolsim.config.run import (
    MAX_RATE,
    BatchSize,
    LrEncMode,
    Momentum,
    Rate,
    RunConfig,
    Seed,
    Shared,
    momentum,
    rule_notes,
    spectra,
)

MAX_POINTS = 10**6

NESTING = ("seeds", "batch_sizes", "tau_logspace", "lr_pred_logspace", "lr_enc_logspace")
"""The axes, the outermost first: the order of the runs of a grid."""

TAKEN_FROM = {
    "same": ("lr_pred_logspace", "alpha"),
    "ratio": ("lr_pred_logspace", "alpha"),
    "from_tau": ("tau_logspace", "tau"),
}
"""Modes that take beta from an axis, and its letter."""

Logspace = Annotated[
    tuple[
        Annotated[float, Field(gt=0, le=MAX_RATE)],
        Annotated[float, Field(gt=0, le=MAX_RATE)],
        Annotated[int, Field(ge=1, le=10_000)],
    ],
    BeforeValidator(as_tuple),
]
TauLogspace = Annotated[
    tuple[
        Annotated[float, Field(gt=0, le=1)],
        Annotated[float, Field(gt=0, le=1)],
        Annotated[int, Field(ge=1, le=10_000)],
    ],
    BeforeValidator(as_tuple),
]


class SweepConfig(Shared):
    """A grid of runs: seeds x batch sizes x taus x predictor rates (x encoder rates)."""

    mom_pred: Momentum = momentum("predictor", 0.9)
    mom_enc: Momentum = momentum("encoder", 0.9)
    log_spectra: bool = spectra(False)
    seeds: Annotated[tuple[Seed, ...], BeforeValidator(one_or_more), Field(min_length=1)] = hyper(
        (42, 43), "seeds of the grid", axis_of="seed"
    )
    batch_sizes: Annotated[tuple[BatchSize, ...], BeforeValidator(one_or_more), Field(min_length=1)] = hyper(
        (32, 64), "minibatch sizes of the grid", axis_of="batch_size"
    )
    lr_pred_logspace: Logspace = hyper(
        (1e-5, 1e-2, 4), "START STOP STEPS: predictor rates alpha, evenly spaced in log", axis_of="lr_pred"
    )
    tau_logspace: TauLogspace = hyper((1e-4, 1e-1, 4), "START STOP STEPS: EMA rates tau = 1 - ema_m", axis_of="tau")
    lr_enc_mode: LrEncMode = hyper(
        "auto",
        "encoder rate beta: alpha itself, enc_over_pred alpha, a grid of its own, beta_from_tau_c tau, or "
        "the auto schedule (with one more column where alpha follows it too)",
    )
    enc_over_pred: Rate = hyper(0.4, "beta / alpha; for lr_enc_mode ratio", used_by="ratio")
    lr_enc_logspace: Logspace = hyper(
        (1e-5, 1e-2, 6),
        "START STOP STEPS: encoder rates beta; for lr_enc_mode logspace",
        axis_of="lr_enc",
        used_by="logspace",
    )
    beta_from_tau_c: Rate = hyper(0.4, "beta / tau; for lr_enc_mode from_tau", used_by="from_tau")

    @model_validator(mode="after")
    def _check_grid(self) -> SweepConfig:
        for name, values in self.axes():
            if not is_range(name) and len(set(values)) != len(values):
                raise ValueError(f"{name} = {' '.join(map(str, values))} names a value twice")
        points = math.prod(values[2] if is_range(name) else len(values) for name, values in self.axes())
        if points > MAX_POINTS:
            raise ValueError(f"the grid has {points} points: must be at most {MAX_POINTS}")
        largest = self.enc_over_pred * max(self.lr_pred_logspace[:2])
        if self.lr_enc_mode == "ratio" and largest > MAX_RATE:
            raise ValueError(
                f"enc_over_pred = {self.enc_over_pred} makes beta up to {largest}: must be <= {MAX_RATE:.0f}"
            )
        if self.lr_enc_mode == "auto" and self.auto_beta_c == 0:
            raise ValueError("auto_beta_c = 0 with lr_enc_mode = 'auto': must be > 0, the encoder follows the schedule")
        axis, letter = TAKEN_FROM.get(self.lr_enc_mode, ("", ""))
        if axis in self.without:
            *modes, last = (
                repr(mode) for mode in get_args(LrEncMode) if TAKEN_FROM.get(mode, ("",))[0] not in self.without
            )
            raise ValueError(
                f"lr_enc_mode = {self.lr_enc_mode!r} takes beta from {letter}, which {self.without[axis]} has not: use "
                f"{', '.join(modes)} or {last}"
            )
        return self

    @property
    def without(self) -> Mapping[str, str]:
        """The axes that the grid does not have, whatever its mode, each with the option that takes it away."""
        missing = {}
        if self.pred_rule != "learned":
            missing["lr_pred_logspace"] = f"pred_rule = {self.pred_rule!r}"
        if not self.stop_grad:
            missing["tau_logspace"] = "stop_grad = False"
        return missing

    def axes(self) -> Iterator[tuple[str, Any]]:
        """Name and values (of a range START, STOP and STEPS) of each axis that the grid has, the outermost first."""
        for name in NESTING:
            mode = known(type(self).model_fields[name]).get("used_by", self.lr_enc_mode)
            if mode == self.lr_enc_mode and name not in self.without:
                yield name, getattr(self, name)


def axes() -> Mapping[str, str]:
    """Axis of a grid -> the field of a run that it gives the values of, the outermost first."""
    return {name: str(known(SweepConfig.model_fields[name])["axis_of"]) for name in NESTING}


def is_range(axis: str) -> bool:
    """Whether an axis is given as START STOP STEPS, not as a list."""
    return Ellipsis not in get_args(field_type(SweepConfig.model_fields[axis])[0])


def sweep_notes(given: Mapping[str, Any], config: SweepConfig) -> list[str]:
    """One line for each option, or end of a range, that was given but is not used."""
    of_a_mode = names(SweepConfig, "used_by")
    used_by = {name: known(SweepConfig.model_fields[name])["used_by"] for name in of_a_mode}
    notes = [
        f"{name} is not used: it belongs to lr_enc_mode = {used_by[name]!r}, not {config.lr_enc_mode!r}"
        for name in sorted(of_a_mode, key=lambda name: name in RunConfig.model_fields)  # a grid's own options first
        if given.get(name) is not None and config.lr_enc_mode != used_by[name]
    ]
    why = {"lr_pred_logspace": "sets the predictor, which has no rate", "tau_logspace": "has one encoder and no EMA"}
    notes += [
        f"{name} is not used: {option} {why[name]}"
        for name, option in config.without.items()
        if given.get(name) is not None
    ]
    notes += rule_notes(given, config)
    for name in filter(is_range, NESTING):
        if name in config.without:
            continue
        start, stop, steps = getattr(config, name)
        if given.get(name) is not None and steps == 1 and start != stop:
            notes.append(f"{name} = {start:g} {stop:g} 1 is START alone: STOP = {stop:g} is not used with STEPS = 1")
    return notes


def logspace(start: float, stop: float, steps: int) -> list[float]:
    """`steps` values from start to stop, evenly spaced in log, rounded to 12 significant digits (1e-05 is 1e-05)."""
    return [round12(float(value)) for value in np.geomspace(start, stop, steps)]


class Runs(Sequence[RunConfig]):
    """Runs of a grid, in its order, each built when it is asked for: a million configurations take 3 GB.

    Attributes
    ----------
    make : the run of an index of the whole grid.
    per_stream : points of the grid that share a seed and a batch size, so a stream: they stand one after another.
    indices : of these runs in the whole grid.
    """

    def __init__(self, make: Callable[[int], RunConfig], per_stream: int, indices: Sequence[int]) -> None:
        self.make, self.per_stream, self.indices = make, per_stream, indices

    @classmethod
    def of(cls, config: RunConfig) -> Runs:
        """A grid of one run."""
        return cls(lambda index: config, 1, range(1))

    def __len__(self) -> int:
        return len(self.indices)

    @overload
    def __getitem__(self, key: int) -> RunConfig: ...
    @overload
    def __getitem__(self, key: slice) -> Runs: ...
    def __getitem__(self, key: int | slice) -> RunConfig | Runs:
        """A run, or some of the runs."""
        if isinstance(key, slice):
            return Runs(self.make, self.per_stream, self.indices[key])
        return self.make(self.indices[key])

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    def chosen(self, indices: Iterable[int]) -> Runs:
        """Runs of the same grid by their indices in it."""
        return Runs(self.make, self.per_stream, array("q", indices))

    def streams(self) -> list[Sequence[RunConfig]]:
        """The runs that share a stream, for each stream."""
        bounds = [0]
        while bounds[-1] < len(self):
            end = (self.indices[bounds[-1]] // self.per_stream + 1) * self.per_stream
            bounds.append(bisect_left(self.indices, end, lo=bounds[-1]))
        return [self[a:b] for a, b in pairwise(bounds)]


def grid_of(sweep: SweepConfig, resolve: Callable[[RunConfig], RunConfig] = lambda config: config) -> Runs:
    """The runs of a grid: seeds x batch sizes x taus x rates, in that order, each once.

    Mode `auto` has beta from the schedule, and per tau one more run whose alpha follows it too where
    `auto_alpha_c` > 0. The other modes use no schedule. `resolve` is a backend's, applied to each run.
    """
    shared = {name: value for name, value in sweep.model_dump().items() if name in RunConfig.model_fields}
    taus = [1.0] if "tau_logspace" in sweep.without else list(dict.fromkeys(logspace(*sweep.tau_logspace)))
    sizes, rates = sweep.batch_sizes, _Rates(sweep)

    @lru_cache(maxsize=1024)  # the first run of a group is asked for again and again
    def make(index: int) -> RunConfig:
        rest, rate = divmod(index, len(rates))
        rest, t = divmod(rest, len(taus))
        seed, n = divmod(rest, len(sizes))
        point = {"seed": sweep.seeds[seed], "batch_size": sizes[n], "tau": taus[t]}
        return resolve(RunConfig(**(shared | point | rates.at(rate, taus[t]))))

    per_stream = len(taus) * len(rates)
    return Runs(make, per_stream, range(len(sweep.seeds) * len(sizes) * per_stream))


class _Rates:
    """The rates of a grid at one tau, each pair once."""

    def __init__(self, sweep: SweepConfig) -> None:
        self.sweep = sweep
        self.learns = "lr_pred_logspace" not in sweep.without
        self.alphas = list(dict.fromkeys(logspace(*sweep.lr_pred_logspace))) if self.learns else [0.0]
        self.betas = list(dict.fromkeys(logspace(*sweep.lr_enc_logspace))) if sweep.lr_enc_mode == "logspace" else [0.0]

    def __len__(self) -> int:
        scheduled = self.sweep.lr_enc_mode == "auto" and self.sweep.auto_alpha_c > 0 and self.learns
        return len(self.alphas) * len(self.betas) + scheduled

    def at(self, index: int, tau: float) -> dict[str, float]:
        """What a point says of its rates; nothing where both follow the schedule."""
        mode = self.sweep.lr_enc_mode
        alpha_index, beta_index = divmod(index, len(self.betas))
        if alpha_index == len(self.alphas):
            return {}
        alpha = self.alphas[alpha_index]
        fixed = {"lr_pred": alpha, "auto_alpha_c": 0.0}
        if mode == "auto":
            return fixed
        beta = {
            "same": alpha,
            "ratio": round12(self.sweep.enc_over_pred * alpha),
            "from_tau": round12(self.sweep.beta_from_tau_c * tau),
            "logspace": self.betas[beta_index],
        }[mode]
        return fixed | {"lr_enc": beta, "auto_beta_c": 0.0}


def expand(sweep: SweepConfig) -> list[RunConfig]:
    """The runs of a grid, as a list."""
    return list(grid_of(sweep))
