"""The loop around the kernels: blocks of draws in, blocks of logged order parameters out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from byolsim.backends.base import Backend, LogBlock, is_logged, rows_per_block
from byolsim.backends.numba import packing
from byolsim.backends.numba.samplers import sampler_class
from byolsim.config.run import RunConfig
from byolsim.model.samplers import sampler_of
from byolsim.model.start import Start
from byolsim.model.world import World

STEPS_PER_CALL = 256
"""A kernel returns to Python at every log point and after this many steps at the latest."""


class NumbaBackend(Backend):
    """Linear encoder and predictor on the CPU in compiled kernels; all samplers."""

    name = "numba"

    def numbers(self, config: RunConfig) -> int:
        """See `Backend.numbers`."""
        return sampler_class(config).numbers(config) + (3 * config.k * config.d_obs if config.depth > 1 else 0)

    def tiny(self, config: RunConfig) -> RunConfig:
        """See `Backend.tiny`; a sampler may have several kernels, and so has an encoder of several layers."""
        layers = {"enc_depth": 2} if config.depth > 1 else {}
        return RunConfig(**(super().tiny(config).model_dump() | sampler_class(config).tiny(config) | layers))

    def warm(self, tiny: RunConfig) -> None:
        """Run it."""
        for _ in self.simulate(World.from_config(tiny), [tiny], lambda epochs: None):
            pass

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
        sampler = sampler_class(config)(group, world, initial)
        rows = min(rows_per_block(len(group), config), config.epochs // config.log_every + 2)
        shape = len(group), rows, config.k, world.q
        log = packing.empty_log(*shape)
        epochs: list[int] = [0]
        sampler.snapshot(0, log)
        behind = initial.epoch if initial else 0
        for draws, lo, hi, done in _calls(config, sampler_of(config).blocks(after=behind)):
            epoch = done + hi
            sampler.steps(draws, lo, hi, behind + done + 1, is_logged(config, epoch))
            progress(hi - lo)
            if is_logged(config, epoch):
                if len(epochs) == log.gap.shape[1]:
                    yield packing.log_block(epochs, log, sampler.course, behind)
                    log = packing.empty_log(*shape)
                    epochs.clear()
                sampler.snapshot(len(epochs), log)
                epochs.append(epoch)
        final = [sampler.final(run, behind + config.epochs) for run in range(len(group))] if keep_final else None
        yield dataclasses.replace(packing.log_block(epochs, log, sampler.course, behind), final=final)


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
