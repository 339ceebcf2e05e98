"""Checks, devices and draws around the group's step."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from byolsim.backends.base import (
    Backend,
    GroupTooLarge,
    LogBlock,
    is_logged,
    rows_per_block,
)
from byolsim.backends.torch.linalg import VECTOR_TAIL
from byolsim.backends.torch.samplers import sampler_class
from byolsim.backends.torch.snapshots import GroupLog, evaluation_size
from byolsim.backends.torch.training import Group
from byolsim.config.run import RunConfig
from byolsim.draws.streams import MinibatchKey, minibatch_blocks
from byolsim.errors import UserError
from byolsim.model.order import OrderParameters, SampledFeatures
from byolsim.model.samplers import sampler_of
from byolsim.model.start import Start
from byolsim.model.world import World

LOG_NUMBERS = 2**25
"""Numbers of logged state that are kept on the device at once."""


class TorchBackend(Backend):
    """Linear models and MLPs with gradients by autograd; all samplers, `moments` and `population` for linear ones."""

    name = "torch"

    def resolve(self, config: RunConfig) -> RunConfig:
        """The configuration with device cpu or cuda; `UserError` where this backend cannot run it."""
        config = super().resolve(config)
        if config.device == "cuda" and not torch.cuda.is_available():
            raise UserError("device = cuda is not there: PyTorch finds no CUDA device; use --device cpu or auto")
        if config.device != "auto":
            return config
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return RunConfig(**(config.model_dump() | {"device": device}))

    def numbers(self, config: RunConfig) -> int:
        """See `Backend.numbers`: activations of a step, layers, and the evaluation sample of an MLP."""
        d, h = config.d_obs, config.hidden or config.k
        evaluation = 4 * evaluation_size(d) * d if config.hidden else 0
        return 4 * sampler_class(config).views(config) * (d + h) + 10 * h * d + evaluation

    def group_limit(self, config: RunConfig) -> int:
        """On CUDA what half of the free memory holds."""
        if config.device != "cuda":
            return super().group_limit(config)
        free, _ = torch.cuda.mem_get_info()
        return max(1, int(free / 2 / _bytes_per_run(config)))

    def warm(self, tiny: RunConfig) -> None:
        """Compile the kernel of the draws; torch itself compiles nothing."""
        for _ in minibatch_blocks(MinibatchKey(0, 1, 1, 1), 1):
            pass

    def simulate(
        self,
        world: World,
        group: Sequence[RunConfig],
        progress: Callable[[int], None],
        initial: Start | None = None,
        keep_final: bool = False,
    ) -> Iterator[LogBlock]:
        """Train a group; see `Backend.simulate`. `UserError` if `initial` is given for a model with an MLP."""
        config = group[0]
        for block in self._simulate(world, [*group, *_padding(config)], progress, initial, keep_final):
            yield _first_runs(block, len(group))

    def _simulate(
        self,
        world: World,
        group: Sequence[RunConfig],
        progress: Callable[[int], None],
        initial: Start | None,
        keep_final: bool,
    ) -> Iterator[LogBlock]:
        config, behind = group[0], initial.epoch if initial else 0
        with _one_thread(), _memory(config, len(group)):
            state = Group(group, world, torch.device(config.device), initial)
            log = GroupLog(state, world)
            numbers = len(group) * sum(W[0].numel() for W in (*state.encoder, *state.target, *state.predictor))
            capacity = max(1, min(rows_per_block(len(group), config), LOG_NUMBERS // numbers))
            log.take(0)
            done = 0
            for epoch in _steps(state, behind):
                if is_logged(config, epoch):
                    if len(log.epochs) == capacity:
                        yield log.block()
                    log.take(epoch)
                    progress(epoch - done)
                    done = epoch
            final = [state.final(run, behind + config.epochs) for run in range(len(group))] if keep_final else None
            yield dataclasses.replace(log.block(), final=final)


def _padding(config: RunConfig) -> list[RunConfig]:
    """Runs that are trained beside a group and dropped.

    On the CPU torch evaluates the last few elements of a stack by another tanh or erf than the rest, and their last
    bits differ: these elements must not belong to a run whose bits are to be the same in every group.
    """
    if config.activation not in ("tanh", "gelu") or config.device != "cpu":
        return []
    elements = (config.hidden or 1) * config.batch_size
    return [config] * -(-VECTOR_TAIL // elements)


def _first_runs(block: LogBlock, K: int) -> LogBlock:
    """The block without the padding."""

    def cut(part: LogBlock | OrderParameters | SampledFeatures) -> dict[str, np.ndarray]:
        arrays = {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
        return {name: a[:K] for name, a in arrays.items() if isinstance(a, np.ndarray) and name != "epochs"}

    order: Any = block.order
    steps = {name: values[:K] for name, values in block.steps.items()}
    final = block.final and block.final[:K]
    order = dataclasses.replace(order, **cut(order))
    return dataclasses.replace(block, **cut(block), steps=steps, final=final, order=order)


def _steps(group: Group, after: int) -> Iterator[int]:
    """Train, from step after + 1 and its draw on, and name each epoch that is done."""
    t = 0
    for block in _on_device(sampler_of(group.config).blocks(after=after), group):
        for row in block:
            t += 1
            group.step(after + t, row)
            yield t


def _on_device(blocks: Iterator[np.ndarray], group: Group) -> Iterator[torch.Tensor]:
    """Blocks of draws on the device; the next one is drawn while this one is used."""
    device, dtype = group.world.A.device, group.dtype

    def draw() -> torch.Tensor | None:
        block = next(blocks, None)
        if block is None:
            return None
        draws = torch.from_numpy(block).to(dtype, copy=True)
        return draws.pin_memory() if device.type == "cuda" else draws

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(draw)
        while (draws := coming.result()) is not None:
            coming = pool.submit(draw)
            yield draws.to(device, non_blocking=True)


@contextmanager
def _one_thread() -> Iterator[None]:
    """One thread, as every worker of a sweep has: with more, the last bits may differ."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _memory(config: RunConfig, runs: int) -> Iterator[None]:
    """Out of device memory is `GroupTooLarge`: the caller tries smaller groups."""
    try:
        yield
    except torch.cuda.OutOfMemoryError as error:
        torch.cuda.empty_cache()
        raise GroupTooLarge(f"{runs} runs do not fit into the memory of {config.device}") from error
    except RuntimeError as error:
        if "can't allocate memory" not in str(error):
            raise
        raise MemoryError(f"{runs} runs do not fit into memory") from error


def _bytes_per_run(config: RunConfig) -> int:
    """Parameters with target, momentum and gradient, activations of a step, and those of an evaluation."""
    d, k, h = config.d_obs, config.k, config.hidden or 0
    layers = ((config.enc, d), (config.pred, k))
    weights = sum((fan_in + k) * h if model == "mlp" else fan_in * k for model, fan_in in layers)
    weights += (config.depth - 1) * k * k
    n = sampler_class(config).views(config) + (evaluation_size(d) if h else 0)
    return 8 * (5 * weights + 8 * n * (h + k))
