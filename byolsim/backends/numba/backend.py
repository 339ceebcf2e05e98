"""Checks and packs for the kernels: configurations in, blocks of logged order parameters out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import numpy as np

from byolsim.backends.base import Backend, LogBlock, check_memory, check_offered, is_logged, rows_per_block
from byolsim.backends.numba import kernels, structures
from byolsim.config import RunConfig
from byolsim.order import OrderParameters
from byolsim.streams import MinibatchKey, minibatch_blocks
from byolsim.world import World, initial_weights

STEPS_PER_CALL = 256
"""A kernel returns to Python at every log point and after this many steps at the latest."""


class NumbaBackend(Backend):
    """Linear encoder and predictor on the CPU; samplers `minibatch` and `population`."""

    name = "numba"

    def resolve(self, config: RunConfig) -> RunConfig:
        """Raise `UserError` where the configuration asks for what this backend does not have."""
        check_offered(config)
        check_memory(config, _numbers(config))
        return config

    def warm(self, config: RunConfig) -> None:
        """Run the tiny configuration, which compiles the kernels of its sampler, dtype and regime (n <= d or n > d)."""
        for _ in self.simulate(World.from_config(config), [config], lambda epochs: None):
            pass

    def simulate(self, world: World, group: Sequence[RunConfig], progress: Callable[[int], None]) -> Iterator[LogBlock]:
        """Train a group; see `Backend.simulate`."""
        config = group[0]
        arrays, state = _world_arrays(config, world), _initial_state(group, world)
        hyper, scratch = _hyper(group), _scratch(config)
        log = _log(len(group), min(rows_per_block(len(group), world.r), config.epochs // config.log_every + 2), world.r)
        epochs: list[int] = []
        kernels.snapshot(0, arrays, state, scratch, log)
        epochs.append(0)
        for steps, epoch in _segments(config, arrays, hyper, state, scratch):
            progress(steps)
            if is_logged(config, epoch):
                if len(epochs) == log.gap.shape[1]:
                    yield _block(epochs, log, state)
                    epochs.clear()
                kernels.snapshot(len(epochs), arrays, state, scratch, log)
                epochs.append(epoch)
        yield _block(epochs, log, state)


def _segments(
    config: RunConfig,
    arrays: structures.WorldArrays,
    hyper: structures.Hyper,
    state: structures.State,
    scratch: structures.Scratch,
) -> Iterator[tuple[int, int]]:
    """Run all steps; after each kernel call yield (steps of the call, epoch reached)."""

    def ends(first: int, last: int) -> Iterator[tuple[int, int]]:
        """Cut the epochs first+1..last at log points and at `STEPS_PER_CALL`."""
        while first < last:
            log_point = (first // config.log_every + 1) * config.log_every
            end = min(last, log_point, first + STEPS_PER_CALL)
            yield first, end
            first = end

    if config.sampler == "population":
        for lo, hi in ends(0, config.epochs):
            kernels.population_steps(lo + 1, hi + 1, is_logged(config, hi), arrays, hyper, state, scratch)
            yield hi - lo, hi
        return
    steps = kernels.moment_steps if config.batch_size > config.d_obs else kernels.minibatch_steps
    key = MinibatchKey(config.seed, config.batch_size, config.d_obs, config.d_latent)
    done = 0
    for draws in minibatch_blocks(key, config.epochs):
        for lo, hi in ends(done, done + len(draws)):
            steps(draws, lo - done, hi - done, done + 1, is_logged(config, hi), arrays, hyper, state, scratch)
            yield hi - lo, hi
        done += len(draws)


def _numbers(config: RunConfig) -> int:
    """Numbers that one run holds: the draws and views of a step, second moments where n > d, weights and world."""
    n = 0 if config.sampler == "population" else config.batch_size
    d, r = config.d_obs, config.d_latent
    return n * (r + 2 * d) + 2 * n * d + (3 * d * d if n > d else 0) + 15 * r * d


def _world_arrays(config: RunConfig, world: World) -> structures.WorldArrays:
    dtype = np.dtype(config.dtype)
    return structures.WorldArrays(
        A=world.A.astype(dtype),
        Q_A=world.Q_A.astype(dtype),
        lam=world.lam.astype(dtype),
        root_lam=np.sqrt(world.lam).astype(dtype),
        sigma=world.sigma,
        lambda_max_x=world.lambda_max_x,
    )


def _hyper(group: Sequence[RunConfig]) -> structures.Hyper:
    def real(name: str) -> np.ndarray:
        values = [getattr(config, name) for config in group]
        return np.array([np.nan if v is None else v for v in values], dtype=np.float64)

    def whole(name: str) -> np.ndarray:
        return np.array([getattr(config, name) for config in group], dtype=np.int64)

    return structures.Hyper(
        alpha=real("lr_pred"),
        beta=real("lr_enc"),
        c_alpha=real("auto_alpha_c"),
        c_beta=real("auto_beta_c"),
        mu_P=real("mom_pred"),
        mu_B=real("mom_enc"),
        tau=real("tau"),
        eta=real("weight_decay"),
        pred_every=whole("pred_update_every"),
        enc_every=whole("enc_update_every"),
        power_iters=whole("power_iters"),
        auto_every=whole("auto_every"),
    )


def _initial_state(group: Sequence[RunConfig], world: World) -> structures.State:
    dtype, K, r, d = np.dtype(group[0].dtype), len(group), world.r, world.d
    weights = [initial_weights(config, world) for config in group]
    B_o = np.stack([B for B, _ in weights]).astype(dtype)
    P = np.stack([P for _, P in weights]).astype(dtype)
    hyper = _hyper(group)
    return structures.State(
        P=P,
        V_P=np.zeros((K, r, r), dtype),
        B_o=B_o,
        V_B=np.zeros((K, r, d), dtype),
        B_t=B_o.copy(),
        average=np.zeros((K, r, r)),
        vector=np.full((K, r), 1 / np.sqrt(r)),
        H=np.full(K, np.nan),
        H_floor=np.zeros(K),
        ticks=np.zeros(K, np.int64),
        alpha_t=hyper.alpha,
        beta_t=hyper.beta,
        loss=np.full(K, np.nan),
        diverged=np.full(K, -1),
        clips=np.zeros((K, 3), np.int64),
    )


def _scratch(config: RunConfig) -> structures.Scratch:
    """Work space; what a sampler or regime does not use has size 0."""
    dtype, r, d = np.dtype(config.dtype), config.d_latent, config.d_obs
    n = 0 if config.sampler == "population" else config.batch_size
    by_sample = n if n <= d else 0
    by_moment = d if n > d else 0

    def real(*shape: int) -> np.ndarray:
        return np.zeros(shape, dtype)

    return structures.Scratch(
        Z=real(r, n),
        X=real(d, n),
        X_plus=real(d, n),
        S_xx=real(by_moment, by_moment),
        S_px=real(by_moment, by_moment),
        S_pp=real(by_moment, by_moment),
        Z_o=real(r, by_sample),
        Z_t=real(r, by_sample),
        D=real(r, by_sample),
        Y=real(r, d),
        U=real(r, d),
        W=real(r, d),
        M_o=real(r, r),
        M_t=real(r, r),
        G=real(r, d),
        grad_P=real(r, r),
        grad_B=real(r, d),
        C=real(r, r),
        image=np.zeros(r),
        square=np.zeros((r, r)),
    )


def _log(K: int, rows: int, r: int) -> structures.Log:
    def matrix() -> np.ndarray:
        return np.zeros((K, rows, r, r))

    def scalar() -> np.ndarray:
        return np.zeros((K, rows))

    return structures.Log(
        P=matrix(),
        b_o=matrix(),
        L_o=matrix(),
        b_t=matrix(),
        L_t=matrix(),
        gap=scalar(),
        loss=scalar(),
        Hmax=scalar(),
        lr_pred_t=scalar(),
        lr_enc_t=scalar(),
        valid=np.zeros((K, rows), np.bool_),
    )


def _block(epochs: Sequence[int], log: structures.Log, state: structures.State) -> LogBlock:
    """A copy of the rows written so far; rows of diverged runs hold zeros."""
    rows = len(epochs)
    valid = log.valid[:, :rows].copy()

    def copy(stack: np.ndarray) -> np.ndarray:
        mask = valid.reshape(valid.shape + (1,) * (stack.ndim - 2))
        return np.where(mask, stack[:, :rows], 0.0)

    return LogBlock(
        epochs=np.array(epochs, dtype=np.int64),
        order=OrderParameters(
            P=copy(log.P), b_o=copy(log.b_o), L_o=copy(log.L_o), b_t=copy(log.b_t), L_t=copy(log.L_t), gap=copy(log.gap)
        ),
        loss=copy(log.loss),
        Hmax=copy(log.Hmax),
        lr_pred_t=copy(log.lr_pred_t),
        lr_enc_t=copy(log.lr_enc_t),
        valid=valid,
        diverged_epoch=state.diverged.copy(),
        clips=state.clips.copy(),
    )
