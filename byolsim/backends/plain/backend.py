"""The loop around the step: runs that share their draws, and now and then a row of the log. Slow on purpose."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from byolsim.backends.base import Backend, LogBlock, is_logged, rows_per_block
from byolsim.backends.plain.samplers import Sampler, sampler_class
from byolsim.config.run import RunConfig
from byolsim.model.encoder import initial_weights
from byolsim.model.metrics import step_metrics
from byolsim.model.order import OrderParameters
from byolsim.model.predictor import PREDICTOR_RULES
from byolsim.model.schedule import largest_variance
from byolsim.model.start import Start
from byolsim.model.state import Evaluation, State
from byolsim.model.step import Rules, Run, start, step
from byolsim.model.target import EMA
from byolsim.model.world import World

MATRICES = ("P", "b_o", "L_o", "b_t", "L_t")
"""The order parameters that are matrices."""


class PlainBackend(Backend):
    """Linear encoder and predictor on the CPU, run by run; all samplers, and nothing but NumPy."""

    name = "numpy"

    def numbers(self, config: RunConfig) -> int:
        """See `Backend.numbers`."""
        return sampler_class(config).numbers(config) + 15 * config.k * config.d_obs

    def warm(self, tiny: RunConfig) -> None:
        """There is nothing to compile."""

    def simulate(
        self,
        world: World,
        group: Sequence[RunConfig],
        progress: Callable[[int], None],
        initial: Start | None = None,
        keep_final: bool = False,
    ) -> Iterator[LogBlock]:
        """Train a group; see `Backend.simulate`."""
        config = group[0]
        sampler = sampler_class(config)(config, world)
        rules = [rules_of(member, sampler) for member in group]
        runs = [start_of(of, sampler, initial) for of in rules]
        log = _Log(sampler, rows_per_block(len(group), config), initial.epoch if initial else 0)
        log.take(0, runs)
        done, behind = 0, initial.epoch if initial else 0
        for t, draw in enumerate(sampler.draws(behind), start=1):
            runs = [advance(behind + t, run, draw, sampler, of) for run, of in zip(runs, rules, strict=True)]
            if is_logged(config, t):
                if log.is_full:
                    yield log.block()
                log.take(t, runs)
                progress(t - done)
                done = t
        final = None
        if keep_final:
            final = [sampler.final(run, behind + config.epochs, of) for run, of in zip(runs, rules, strict=True)]
        yield dataclasses.replace(log.block(), final=final)


def rules_of(config: RunConfig, sampler: Sampler) -> Rules:
    """What the configuration of a run asks for."""
    rule, world = PREDICTOR_RULES[config.pred_rule](config), sampler.world
    return Rules(config, largest_variance(config, world), rule, EMA(), sampler.settle)


def start_of(rules: Rules, sampler: Sampler, initial: Start | None = None) -> Run:
    """A run at epoch 0, in the dtype of training and the coordinates of its sampler."""
    at = sampler.coordinates(initial_weights(rules.config, sampler.world, initial))
    P, V_P, B_o, V_B, B_t = (sampler.cast(M) for M in (at.P, at.V_P, at.B_o, at.V_B, at.B_t))
    lost = np.zeros_like(B_o) if at.lost is None else sampler.cast(at.lost)
    none = np.zeros((rules.config.depth - 1, *P.shape))
    layers = (at.upper, at.V_upper, at.upper_t, at.lost_upper)
    uppers = (sampler.cast(none if W is None else W) for W in layers)
    state = State(P, V_P, B_o, V_B, B_t, lost, *uppers)
    whole = state.whole
    seen = sampler.seen(whole, lambda: sampler.evaluate(whole, None).C_oo)
    return start(state, rules, seen, at.curvature, at.epoch > 0, at.memory)


@np.errstate(over="ignore", invalid="ignore")  # in the last step of a run that diverges
def advance(t: int, run: Run, draw: Any, sampler: Sampler, rules: Rules) -> Run:
    """One step of a run; a run that has diverged stays where it is."""
    if run.diverged_epoch >= 0:
        return run
    whole = run.state.whole

    def evaluate(state: State) -> Evaluation:
        return sampler.evaluate(state.whole, draw)

    return step(t, run, rules, sampler.seen(whole, lambda: evaluate(run.state).C_oo), evaluate)


class _Log:
    """Rows of one block: of each logged epoch, the runs as they stood."""

    def __init__(self, sampler: Sampler, capacity: int, behind: int) -> None:
        self.sampler, self.capacity, self.behind = sampler, capacity, behind
        self.epochs: list[int] = []
        self.rows: list[list[dict[str, Any]]] = []

    @property
    def is_full(self) -> bool:
        """Whether the block must be handed over before the next row."""
        return len(self.epochs) == self.capacity

    def take(self, epoch: int, runs: Sequence[Run]) -> None:
        """Log every run after this epoch."""
        self.epochs.append(epoch)
        self.rows.append([self._row(run) for run in runs])
        self.runs = runs

    def block(self) -> LogBlock:
        """The rows so far; the log is emptied."""
        epochs, rows = np.array(self.epochs, dtype=np.int64), self.rows
        self.epochs, self.rows = [], []

        def column(name: str) -> Any:
            return np.array([[rows[row][k][name] for row in range(len(rows))] for k in range(len(self.runs))])

        return LogBlock(
            epochs=epochs,
            order=OrderParameters(**{name: column(name) for name in (*MATRICES, "gap")}),
            steps={name: column(name) for name in step_metrics(self.runs[0])},
            valid=column("valid"),
            diverged_epoch=np.array([max(run.diverged_epoch - self.behind, -1) for run in self.runs]),
            clips=np.array([run.clips for run in self.runs]),
        )

    def _row(self, run: Run) -> dict[str, Any]:
        """Order parameters and the step's own values; zero where the run has diverged."""
        values = step_metrics(run)
        if run.diverged_epoch >= 0:
            k, q = len(run.state.P), self.sampler.world.q
            zero = {name: np.zeros((k, q if name.startswith("b_") else k)) for name in MATRICES}
            return zero | dict.fromkeys((*values, "gap"), 0.0) | {"valid": False}
        return self.sampler.snapshot(run.state.whole) | values | {"valid": True}
