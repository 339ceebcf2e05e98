"""Checks and packs for the kernels: configurations in, blocks of logged order parameters out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from byolsim.backends.base import (
    Backend,
    LogBlock,
    check_memory,
    check_offered,
    is_logged,
    rows_per_block,
    second_moments_pay,
)
from byolsim.backends.numba import direct, kernels, packing, reduced, structures
from byolsim.config.run import RunConfig
from byolsim.draws.streams import MinibatchKey, MomentsKey, minibatch_blocks, moment_blocks
from byolsim.model.world import World

STEPS_PER_CALL = 256
"""A kernel returns to Python at every log point and after this many steps at the latest."""


class NumbaBackend(Backend):
    """Linear encoder and predictor on the CPU; all samplers, `moments` in both forms."""

    name = "numba"

    def resolve(self, config: RunConfig) -> RunConfig:
        """Raise `UserError` where the configuration asks for what this backend does not have."""
        check_offered(config)
        check_memory(config, _numbers(config))
        return config

    def warm(self, config: RunConfig) -> None:
        """Run the tiny configuration, which compiles the kernels of its sampler, form, dtype and regime."""
        for _ in self.simulate(World.from_config(config), [config], lambda epochs: None):
            pass

    def simulate(self, world: World, group: Sequence[RunConfig], progress: Callable[[int], None]) -> Iterator[LogBlock]:
        """Train a group; see `Backend.simulate`."""
        config = group[0]
        training = (_Reduced if config.moments_form == "reduced" else _Full)(world, group)
        rows = min(rows_per_block(len(group), world.r), config.epochs // config.log_every + 2)
        log = packing.empty_log(len(group), rows, world.r)
        epochs: list[int] = [0]
        training.snapshot(0, log)
        for steps, epoch in training.steps():
            progress(steps)
            if is_logged(config, epoch):
                if len(epochs) == log.gap.shape[1]:
                    yield packing.log_block(epochs, log, training.course)
                    log = packing.empty_log(len(group), rows, world.r)
                    epochs.clear()
                training.snapshot(len(epochs), log)
                epochs.append(epoch)
        yield packing.log_block(epochs, log, training.course)


class _Full:
    """A group whose encoders are kept as they are, (r, d)."""

    def __init__(self, world: World, group: Sequence[RunConfig]) -> None:
        self.config, self.plain_world = group[0], world
        self.world = packing.world_arrays(self.config, world)
        self.hyper = packing.hyperparameters(group)
        self.state = packing.initial_state(group, world)
        self.course = packing.initial_course(group, np.square(self.state.P, dtype=np.float64).sum(axis=(1, 2)))
        self.scratch = packing.scratch_arrays(self.config)

    def snapshot(self, row: int, log: structures.Log) -> None:
        """Write the state into a row of the log."""
        kernels.snapshot(row, self.world, self.state, self.course, self.scratch, log)

    def steps(self) -> Iterator[tuple[int, int]]:
        """Run all steps; after each kernel call yield (steps of the call, epoch reached)."""
        config = self.config
        scratch: structures.Scratch | structures.DirectScratch = self.scratch
        blocks: Iterator[np.ndarray]
        if config.sampler == "population":
            for lo, hi in _ends(config, 0, config.epochs):
                kernels.population_steps(
                    lo + 1, hi + 1, is_logged(config, hi), self.world, self.hyper, self.state, self.course, scratch
                )
                yield hi - lo, hi
            return
        if config.sampler == "moments":
            blocks, kernel = moment_blocks(_moments_key(config), config.epochs), direct.direct_steps
            scratch = packing.direct_scratch(config, _moments_key(config), self.plain_world)
        else:
            key = MinibatchKey(config.seed, config.batch_size, config.d_obs, config.d_latent)
            blocks = minibatch_blocks(key, config.epochs)
            moments = second_moments_pay(config.batch_size, config.d_obs, config.d_latent)
            kernel = kernels.second_moment_steps if moments else kernels.minibatch_steps
        for draws, lo, hi, done in _calls(config, blocks):
            logged = is_logged(config, done + hi)
            kernel(draws, lo, hi, done + 1, logged, self.world, self.hyper, self.state, self.course, scratch)
            yield hi - lo, done + hi


class _Reduced:
    """A group in reduced coordinates, a run a lane."""

    def __init__(self, world: World, group: Sequence[RunConfig]) -> None:
        self.config = group[0]
        packs = packing.whole_packs(group)
        self.key = _moments_key(self.config)
        self.world = packing.reduced_world_arrays(self.config, world)
        self.hyper = packing.hyperparameters(packs)
        self.state = packing.initial_reduced_state(packs, world)
        P = np.moveaxis(self.state.P, 3, 1).reshape(len(packs), world.r, world.r)
        self.course = packing.initial_course(packs, np.square(P, dtype=np.float64).sum(axis=(1, 2)))
        self.scratch = packing.reduced_scratch(self.config, self.key)

    def snapshot(self, row: int, log: structures.Log) -> None:
        """Write the state into a row of the log."""
        reduced.reduced_snapshot(row, self.world, self.state, self.course, self.scratch, log)

    def steps(self) -> Iterator[tuple[int, int]]:
        """Run all steps; after each kernel call yield (steps of the call, epoch reached)."""
        for draws, lo, hi, done in _calls(self.config, moment_blocks(self.key, self.config.epochs)):
            logged = is_logged(self.config, done + hi)
            reduced.reduced_steps(
                draws, lo, hi, done + 1, logged, self.world, self.hyper, self.state, self.course, self.scratch
            )
            yield hi - lo, done + hi


def _moments_key(config: RunConfig) -> MomentsKey:
    return MomentsKey(config.seed, config.batch_size, config.d_obs, config.d_latent, str(config.moments_form))


def _calls(config: RunConfig, blocks: Iterator[np.ndarray]) -> Iterator[tuple[np.ndarray, int, int, int]]:
    """(block of draws, first and last row of a kernel call, epochs before the block)."""
    done = 0
    for draws in blocks:
        for lo, hi in _ends(config, done, done + len(draws)):
            yield draws, lo - done, hi - done, done
        done += len(draws)


def _ends(config: RunConfig, first: int, last: int) -> Iterator[tuple[int, int]]:
    """Cut the epochs first+1..last at log points and at `STEPS_PER_CALL`."""
    while first < last:
        log_point = (first // config.log_every + 1) * config.log_every
        end = min(last, log_point, first + STEPS_PER_CALL)
        yield first, end
        first = end


def _numbers(config: RunConfig) -> int:
    """Numbers that one run holds: the draws and views of a step, second moments where they pay, weights and world."""
    d, r = config.d_obs, config.d_latent
    if config.sampler == "moments":
        return 8 * r * d + 100 * r * r + (15 * r * d if config.moments_form == "direct" else 0)
    n = 0 if config.sampler == "population" else config.batch_size
    return n * (r + 2 * d) + 2 * n * d + (3 * d * d if second_moments_pay(n, d, r) else 3 * n * r) + 15 * r * d
