"""The baseline: a grid of runs as a competent user would write it in JAX, with `jit`, `vmap`, `lax.scan` and `grad`.

Runs share one data stream: the draws of a step depend on its key alone, so `vmap` makes them once for all runs. Of the
ways to write it, three are kept; `fastest` takes the best one for the shape and dtype at hand. Found slower on a CPU at
both benchmark shapes, and left out: samples as rows, the generator `rbg`, unrolled scans.

Rates are fixed, and nothing is logged but the loss.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from timing import best_seconds

from byolsim.config.run import RunConfig
from byolsim.model.encoder import initial_weights
from byolsim.model.world import World

jax.config.update("jax_enable_x64", True)

FORMULATIONS = ("scan of vmap", "vmap of scan", "vmap of scan, draws in chunks")
CHUNK_NORMALS = 2**18
"""Normals that the third formulation draws at once, at most (one step's at least): 2 MiB, as this package does."""


class Rates(NamedTuple):
    """What differs between runs, (K,)."""

    alpha: jax.Array
    beta: jax.Array
    tau: jax.Array


class State(NamedTuple):
    """Parameters and momentum buffers, stacked over K runs."""

    P: jax.Array
    B_o: jax.Array
    B_t: jax.Array
    V_P: jax.Array
    V_B: jax.Array


class Grid:
    """The runs of a group with fixed rates, in one dtype.

    Attributes
    ----------
    state, rates : at the start.
    chunk : steps that are drawn at once where draws come in chunks.
    step : (state, rates, views) -> (state, loss) of one run.
    """

    def __init__(self, group: Sequence[RunConfig], dtype: str) -> None:
        config = group[0]
        world = World.from_config(config)
        self.dtype = jnp.dtype(dtype)
        self.n, self.d, self.r = config.batch_size, world.d, world.q
        self.mixing = jnp.asarray(world.A * world.lam**0.5, self.dtype)
        self.sigma = world.sigma
        self.chunk = max(1, CHUNK_NORMALS // (self.n * (self.r + 2 * self.d)))
        self.step = _step(config.mom_pred, config.mom_enc)
        self.rates = Rates(
            *(jnp.asarray([getattr(c, name) for c in group], self.dtype) for name in ("lr_pred", "lr_enc", "tau"))
        )
        weights = [initial_weights(c, world) for c in group]
        B, P = (jnp.asarray(np.stack([getattr(start, M) for start in weights]), self.dtype) for M in ("B_o", "P"))
        self.state = State(P, B, B, jnp.zeros_like(P), jnp.zeros_like(B))

    def draw(self, key: jax.Array, *steps: int) -> jax.Array:
        """Standard normals of one step, or of several: z / sqrt(lam), e / sigma and e+ / sigma, a sample a column."""
        return jax.random.normal(key, (*steps, self.r + 2 * self.d, self.n), self.dtype)

    def views(self, normals: jax.Array) -> tuple[jax.Array, jax.Array]:
        """X and X+ of one step, (d, n)."""
        z, e, e_plus = jnp.split(normals, [self.r, self.r + self.d])
        signal = self.mixing @ z
        return signal + self.sigma * e, signal + self.sigma * e_plus


def _loss(learned: tuple[jax.Array, jax.Array], B_t: jax.Array, X: jax.Array, X_plus: jax.Array) -> jax.Array:
    P, B_o = learned
    residual = P @ (B_o @ X) - jax.lax.stop_gradient(B_t @ X_plus)
    return 0.5 * jnp.mean(jnp.sum(residual**2, axis=0))


def _step(mu_P: float, mu_B: float) -> Callable[..., tuple[State, jax.Array]]:
    def step(state: State, rates: Rates, views: tuple[jax.Array, jax.Array]) -> tuple[State, jax.Array]:
        loss, (grad_P, grad_B) = jax.value_and_grad(_loss)((state.P, state.B_o), state.B_t, *views)
        V_P, V_B = mu_P * state.V_P + grad_P, mu_B * state.V_B + grad_B
        P, B_o = state.P - rates.alpha * V_P, state.B_o - rates.beta * V_B
        return State(P, B_o, (1 - rates.tau) * state.B_t + rates.tau * B_o, V_P, V_B), loss

    return step


def train_on(grid: Grid, normals: np.ndarray) -> tuple[State, jax.Array]:
    """The grid after steps on given standard normals (steps, r + 2 d, n), and the losses (K, steps)."""

    def run(state: State, rates: Rates, normals: jax.Array) -> tuple[State, jax.Array]:
        return jax.lax.scan(lambda s, row: grid.step(s, rates, grid.views(row)), state, normals)

    return jax.jit(jax.vmap(run, (0, 0, None)))(grid.state, grid.rates, jnp.asarray(normals, grid.dtype))


def program(grid: Grid, formulation: str) -> Callable[[int, int], State]:
    """(seed, steps) -> the grid after that many steps, compiled for each number of steps."""
    chunk = grid.chunk

    def scan_of_vmap(state: State, rates: Rates, keys: jax.Array) -> tuple[State, jax.Array]:
        steps = jax.vmap(grid.step, (0, 0, None))
        return jax.lax.scan(lambda s, key: steps(s, rates, grid.views(grid.draw(key))), state, keys)

    def scan(state: State, rates: Rates, keys: jax.Array) -> tuple[State, jax.Array]:
        return jax.lax.scan(lambda s, key: grid.step(s, rates, grid.views(grid.draw(key))), state, keys)

    def scan_in_chunks(state: State, rates: Rates, keys: jax.Array) -> tuple[State, jax.Array]:
        def steps(state: State, keys: jax.Array) -> tuple[State, jax.Array]:
            views = jax.vmap(grid.views)(grid.draw(keys[0], len(keys)))
            return jax.lax.scan(lambda s, v: grid.step(s, rates, v), state, views)

        whole = len(keys) // chunk * chunk
        state, losses = jax.lax.scan(steps, state, keys[:whole].reshape(-1, chunk))
        if whole == len(keys):
            return state, losses.ravel()
        state, rest = steps(state, keys[whole:])
        return state, jnp.concatenate([losses.ravel(), rest])

    of_runs: dict[str, Any] = {
        "scan of vmap": scan_of_vmap,
        "vmap of scan": jax.vmap(scan, (0, 0, None)),
        "vmap of scan, draws in chunks": jax.vmap(scan_in_chunks, (0, 0, None)),
    }
    compiled = jax.jit(of_runs[formulation])

    def train(seed: int, steps: int) -> State:
        state, _ = jax.block_until_ready(
            compiled(grid.state, grid.rates, jax.random.split(jax.random.key(seed), steps))
        )
        return state

    return train


def fastest(group: Sequence[RunConfig], dtype: str, streams: int, steps: int) -> tuple[str, Callable[[], object]]:
    """The best formulation by a short trial, and an action that trains `steps` steps of it on `streams` streams.

    With two streams two copies of the grid are trained at once, by two threads of this process; each call of a program
    may use all cores in any case.

    Raises
    ------
    RuntimeError
        If the grid diverges in so many steps.
    """
    grid = Grid(group, dtype)

    def trainer(formulation: str) -> Callable[[int], list[State]]:
        train = program(grid, formulation)

        def train_all(count: int) -> list[State]:
            with ThreadPoolExecutor(streams) as pool:
                return list(pool.map(lambda seed: train(seed, count), range(streams)))

        return train_all

    trainers = {formulation: trainer(formulation) for formulation in FORMULATIONS}
    trial = {}
    for formulation, train_all in trainers.items():
        trial[formulation] = best_seconds(partial(train_all, max(10, 5 * grid.chunk)))
    best = min(trial, key=trial.__getitem__)
    if not all(np.isfinite(state.B_o).all() for state in trainers[best](steps)):
        raise RuntimeError("the grid diverges: its time would mean nothing")
    return best, lambda: trainers[best](steps)
