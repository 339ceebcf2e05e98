"""Ensembles of short trainings from one start, a seed each: runs of the program, and trainings that draw every view.

The laws of the moments sampler compare where the two end. The trainings are written here in NumPy for all seeds at once
and use nothing of the program's steps: where a configuration is asked, it is for a hyperparameter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import reduce
from typing import Any, NamedTuple

import numpy as np
from scipy.stats import ks_2samp

from byolsim.backends import get_backend
from byolsim.backends.numba import packing
from byolsim.backends.numba.samplers import sampler_class
from byolsim.config.run import RunConfig
from byolsim.model.samplers import sampler_of
from byolsim.model.start import Start
from byolsim.model.world import World

Array = np.ndarray


class Ends(NamedTuple):
    """Where trainings ended, stacked over seeds. L_o and L_t may be any factors of what lies outside of Q."""

    loss: Array
    H: Array
    rate: Array  # of P
    P: Array
    b_o: Array
    L_o: Array
    b_t: Array
    L_t: Array
    gap: Array


STATISTICS = (
    "loss", "Hmax", "gap", "norm of P", "P[0, 0]", "P[-1, 0]", "b_o[0, 0]", "tr b_o b_t^T", "tr L_o L_o^T",
    "tr L_t L_t^T",
)  # fmt: skip
"""What every file compares; each adds some of its own."""


def statistics(ends: Ends, *more: Array) -> Array:
    """(seeds, statistics): `STATISTICS`, and `more` columns."""
    P, b_o, b_t = ends.P, ends.b_o, ends.b_t
    columns = (
        ends.loss, ends.H, ends.gap, np.linalg.norm(P, axis=(1, 2)), P[:, 0, 0], P[:, -1, 0], b_o[:, 0, 0],
        (b_o * b_t).sum(axis=(1, 2)), (ends.L_o**2).sum(axis=(1, 2)), (ends.L_t**2).sum(axis=(1, 2)),
    )  # fmt: skip
    values = np.stack([*columns, *more], axis=1)
    return np.where(np.abs(values) < 1e-12, 0.0, values)  # rounding, where there is nothing outside or no such mode


def smallest_p(left: Array, right: Array, names: tuple[str, ...]) -> tuple[float, str]:
    """The smallest p-value of two-sample Kolmogorov-Smirnov tests over the statistics, and whose it is."""
    return min(
        (1.0 if np.array_equal(a, b) else float(ks_2samp(a, b).pvalue), name)
        for a, b, name in zip(left.T, right.T, names, strict=True)
    )


# --- the program ---


def program(config: RunConfig, world: World, initial: Start, seeds: int) -> Ends:
    """Runs of the numba backend that log their end alone, with the seeds 0, 1, ...

    To make the arrays of a run takes five times as long as a dozen steps, so all runs use one set of them, which is
    brought back to the start for each. The first and the last are held to `simulate`, to the last bit.
    """
    assert config.backend == "numba" and config.log_every == config.epochs
    members = [config.model_copy(update={"seed": seed}) for seed in range(seeds)]
    sampler = sampler_class(config)([config], world, initial)
    arrays = list(_arrays(tuple(vars(sampler).values())))
    kept = [array.copy() for array in arrays]
    log = packing.empty_log(1, seeds, config.k, world.q)
    for row, member in enumerate(members):
        for array, value in zip(arrays, kept, strict=True):
            array[...] = value
        first = 1
        for draws in sampler_of(member).blocks():
            sampler.steps(draws, 0, len(draws), first, True)
            first += len(draws)
        sampler.snapshot(row, log)
    assert log.valid.mean() > 0.999, "a run that diverges ends at 0: no more of them than a comparison could see"
    block = packing.log_block(range(seeds), log, sampler.course, 0)
    order = {name: getattr(block.order, name)[0] for name in ("P", "b_o", "L_o", "b_t", "L_t", "gap")}
    ends = Ends(*(block.steps[name][0] for name in ("loss", "Hmax", "lr_pred_t")), **order)
    for row in (0, -1):
        (alone,) = get_backend("numba").simulate(world, [members[row]], lambda epochs: None, initial)
        for name in order:
            np.testing.assert_array_equal(order[name][row], getattr(alone.order, name)[0, -1])
        np.testing.assert_array_equal(ends.loss[row], alone.steps["loss"][0, -1])
    return ends


def _arrays(values: tuple[Any, ...]) -> Iterator[Array]:
    """The arrays in tuples of tuples."""
    for value in values:
        if isinstance(value, np.ndarray):
            yield value
        elif isinstance(value, tuple):
            yield from _arrays(value)


def general_start(config: RunConfig) -> Start:
    """One start of all runs, in general position, with the target apart from the encoder and momentum."""
    rng = np.random.default_rng(99)
    k, d = config.k, config.d_obs
    P, B = 0.5 * np.eye(k) + 0.2 * rng.normal(size=(k, k)), rng.normal(size=(3, k, d)) / np.sqrt(d)
    start = Start(P, 0.1 * rng.normal(size=(k, k)), B[0], 0.1 * B[1], 0.8 * B[0] + 0.4 * B[2])
    if config.depth == 1:
        return start
    U = rng.normal(size=(3, config.depth - 1, k, k))
    upper = np.eye(k) + 0.3 * U[0]
    return start._replace(upper=upper, V_upper=0.1 * U[1], upper_t=0.8 * upper + 0.2 * U[2])


# --- trainings that draw every view ---

Draw = Callable[[], tuple[Array, Array]]
"""The views x and x+ of the next minibatch of every seed, (seeds, d, n) each."""


def joint(xx: Array, px: Array, pp: Array) -> Array:
    """The covariance (2d, 2d) of (x, x+)."""
    return np.block([[xx, px.T], [px, pp]])


def joint_of_options(config: RunConfig, world: World) -> Array:
    """That of a world of options, put together from its directions A and N: nothing of the program's loadings enters.

    What is asked must be written out: lists of numbers for the spectra and the correlation.
    """
    r, d = config.d_latent, config.d_obs
    A, lam, N, nu = world.A[:, :r], numbers(config.latent_spectrum), world.A[:, r:], numbers(config.nuisance_spectrum)
    rho = np.ones(r) if config.correlation is None else numbers(config.correlation)
    both = A * lam @ A.T + N * nu @ N.T
    sigma_plus = config.sigma_n if config.sigma_n_target is None else config.sigma_n_target
    return joint(both + config.sigma_n**2 * np.eye(d), A * (lam * rho) @ A.T, both + sigma_plus**2 * np.eye(d))


def numbers(text: str | None) -> Array:
    """A list of numbers with commas."""
    return np.array([float(v) for v in (text or "").split(",") if v])


def pairs(covariance: Array, n: int, seeds: int) -> Draw:
    """Pairs of views from a root of their joint covariance (2d, 2d)."""
    rng = np.random.default_rng(1234)
    values, U = np.linalg.eigh(covariance)
    assert values[0] > -1e-9 * values[-1]
    root, d = U * np.sqrt(np.maximum(values, 0)), len(covariance) // 2

    def draw() -> tuple[Array, Array]:
        both = root @ rng.normal(size=(seeds, 2 * d, n))
        return both[:, :d], both[:, d:]

    return draw


SPECTRAL = {"directpred": (0.5, 0.1), "directcopy": (1.0, 0.0), "spectral": (0.5, 0.0)}
"""(power, eps) of the rules that set P from a spectrum."""


class Explicit:
    """Trainings of all seeds at once: the step, the rules of the predictor and the schedule's conventions.

    A subclass that changes a method is a wrong training, for comparisons that must see it.
    """

    def __init__(self, config: RunConfig, start: Start, draw: Draw, covariance: Array | None = None) -> None:
        """The covariance of (x, x+) is what the optimal predictor knows."""
        self.config, self.draw, self.covariance = config, draw, covariance
        none = [np.zeros((0, config.k, config.k))] * 3
        upper = [start.upper, start.V_upper, start.upper_t] if config.depth > 1 else none
        self.P, self.V_P = start.P, start.V_P
        self.W, self.V, self.W_t = (
            [first, *rest] for first, rest in zip((start.B_o, start.V_B, start.B_t), upper, strict=True)
        )
        self.F: Array | None = None
        self.average, self.vector = np.zeros((config.k, config.k)), np.full((config.k, 1), config.k**-0.5)
        self.H = self.floor = np.zeros(())

    def ends(self, Q: Array) -> Ends:
        """Train, and split the whole encoders at the structured subspace Q (d, q)."""
        self.Q = Q
        for t in range(1, self.config.epochs + 1):
            self.step(t, *self.draw())
        B_o, B_t = whole(self.W), whole(self.W_t)
        outside = np.eye(len(Q)) - Q @ Q.T
        gap = np.linalg.norm(B_o - B_t, axis=(1, 2))
        rate = np.broadcast_to(self.rate, gap.shape)
        return Ends(self.loss, self.H, rate, self.P, B_o @ Q, B_o @ outside, B_t @ Q, B_t @ outside, gap)

    def step(self, t: int, x: Array, x_plus: Array) -> None:
        """Step t on one minibatch."""
        config, n = self.config, x.shape[-1]
        B_o, B_t = whole(self.W), whole(self.W_t)
        z, z_t = self.features(x), B_t @ x_plus
        C = z @ turned(z) / n
        self.set_predictor(t, z, z_t)
        delta = self.P @ z - z_t
        self.loss = 0.5 * (delta**2).sum(axis=(1, 2)) / n
        G = delta @ turned(x) / n
        self.rate = self.rate_of_predictor(t, C)
        grad_P, grads = G @ turned(B_o) + config.eta_P * self.P, self.encoder_gradients(G)
        if config.pred_rule == "learned" and t % config.pred_update_every == 0:
            self.V_P = config.mom_pred * self.V_P + grad_P
            self.P = self.P - np.asarray(self.rate)[..., None, None] * self.V_P
        if config.pred_symmetric:  # after every step of the training, also where P has made none
            self.P = (self.P + turned(self.P)) / 2
        if t % config.enc_update_every == 0:
            for i, gradient in enumerate(grads):
                self.V[i] = config.mom_enc * self.V[i] + gradient + config.eta_B * self.W[i]
                self.W[i] = self.W[i] - config.lr_enc * self.V[i]
        self.W_t = self.target()

    def target(self) -> list[Array]:
        """The target's layers after a step: averages of each."""
        tau = self.config.tau
        return [(1 - tau) * W_t + tau * W for W_t, W in zip(self.W_t, self.W, strict=True)]

    def features(self, x: Array) -> Array:
        """z_o (seeds, k, n)."""
        return whole(self.W) @ x

    def encoder_gradients(self, G: Array) -> list[Array]:
        """grad W_l = (W_L ... W_(l+1))^T P^T G (W_(l-1) ... W_1)^T; with the straight Jacobian without P^T."""
        gradient = G if self.config.pred_jacobian == "straight" else turned(self.P) @ G
        grads = []
        for i in range(len(self.W)):
            above, below = self.W[i + 1 :], self.W[:i]
            after = turned(whole(above)) @ gradient if above else gradient
            grads.append(after @ turned(whole(below)) if below else after)
        return grads

    def set_predictor(self, t: int, z: Array, z_t: Array) -> None:
        """The rules other than `learned`, at the encoders before the step."""
        config = self.config
        due = (t - 1) % (config.pred_every or 1) == 0
        if config.pred_rule == "optimal" and due:
            self.P = self.optimum(z, z_t)
        if config.pred_rule in SPECTRAL:
            self.F = self.averaged(self.correlation(z))
            if due:
                power, eps = SPECTRAL[config.pred_rule]
                eps = eps if config.pred_eps is None else config.pred_eps
                power = power if config.pred_power is None else config.pred_power
                s, U = np.linalg.eigh(self.F)
                s = np.maximum(s, 0)
                p = s**power + eps * s[:, -1:]
                if config.pred_norm == "max":
                    p = (s / s[:, -1:]) ** power + eps
                self.P = U * p[:, None, :] @ turned(U)

    def optimum(self, z: Array, z_t: Array) -> Array:
        """C_to C_oo^-1 of the population."""
        d = len(self.covariance) // 2
        B_o, B_t = whole(self.W), whole(self.W_t)
        C_oo = B_o @ self.covariance[:d, :d] @ turned(B_o)
        return turned(np.linalg.solve(C_oo, turned(B_t @ self.covariance[d:, :d] @ turned(B_o))))

    def correlation(self, z: Array) -> Array:
        """What a spectral rule sees."""
        if self.config.pred_corr == "BBT":
            return whole(self.W) @ turned(whole(self.W))
        return z @ turned(z) / z.shape[-1]

    def averaged(self, C: Array) -> Array:
        """F, the moving average that starts at the first C; or B_o B_o^T as it is."""
        rate = 0.3 if self.config.pred_corr_rate is None else self.config.pred_corr_rate
        return C if self.F is None or self.config.pred_corr == "BBT" else (1 - rate) * self.F + rate * C

    def rate_of_predictor(self, t: int, C: Array) -> Array:
        """alpha, where it follows the schedule with its estimate of the curvature, that ticks on some steps."""
        config = self.config
        if (t - 1) % config.auto_every == 0:
            tick = (t - 1) // config.auto_every + 1
            self.average = 0.9 * self.average + 0.1 * C
            for _ in range(100 if tick == 1 else config.power_iters):
                image = self.average @ self.vector
                self.vector = image / np.linalg.norm(image, axis=1, keepdims=True)
            self.H = (self.vector * (self.average @ self.vector)).sum(axis=(1, 2)) / (1 - 0.9**tick)
            self.floor = 1e-3 * self.H if tick == 1 else self.floor
        if not config.auto_alpha_c:
            return np.array(config.lr_pred or 0.0)
        H = np.maximum(self.H, self.floor)
        return np.minimum(config.auto_alpha_c * config.tau / H, 0.99 * 2 * (1 + config.mom_pred) / H)


def whole(layers: list[Array]) -> Array:
    """W_L ... W_1."""
    return reduce(lambda below, W: W @ below, layers)


def turned(M: Array) -> Array:
    """The transpose of each of a stack of matrices."""
    return np.swapaxes(M, -1, -2)
