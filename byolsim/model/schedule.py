"""The auto schedule (docs/model.md, section 4): an estimate H_t of curvature by power iteration, and two rates.

The conventions, fixed here once:

* The clock ticks at the steps t = 1, 1 + auto_every, 1 + 2 auto_every, ... On a tick, before the parameters move, the
  step's own feature covariance C = (1/n) sum z_o z_o^T (the population C_oo under the population sampler), at the
  parameters before the step, enters the moving average S <- (1 - 0.1) S + 0.1 C, whose bias-corrected value after k
  ticks is S / (1 - 0.9^k).
* The power iteration starts from the vector of equal entries, runs 100 iterations on the first tick and `power_iters`
  on each later one, from where it stopped. H_t is the Rayleigh quotient of the result.
* Rates use max(H_t, H_floor), H_floor = 1e-3 of the first H_t, so that a collapsing encoder does not make them explode.
* At every step each rate is kept below 0.99 of its own heavy-ball limit; the spectral norm is that of P before the
  step. Every step at which a bound or the floor was active is counted.
* Where noise could matter (`RunConfig.auto_noise_limit`) alpha is also kept below half of the rate at which minibatches
  make the mean square of P grow (`theory.mean_square_limit`), by the eigenvalues of the same average.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from byolsim.config.run import RunConfig
from byolsim.model.start import Curvature
from byolsim.model.theory import heavy_ball_limit, mean_square_limit
from byolsim.model.world import World

Array = NDArray[np.float64]

AVERAGE_RATE = 0.1
FIRST_ITERATIONS = 100
FLOOR_FRACTION = 1e-3
FLOOR_MINIMUM = 1e-12
LIMIT_FRACTION = 0.99
NOISE_FRACTION = 0.5


def rate_factor(t: int, config: RunConfig) -> float:
    """What multiplies both rates at step t = 1, ..., T: the warm-up t / w, then the cosine over the T - w steps left.

    1 for every t where neither is asked for.
    """
    w, T = config.warmup or 0, config.epochs
    if t <= w:
        return t / w
    return 1.0 if config.lr_schedule is None else (1 + math.cos(math.pi * (t - w) / (T - w))) / 2


def ema_rate(t: int, config: RunConfig) -> float:
    """tau_t at step t: tau, or tau (1 + cos(pi t / T)) / 2.

    Grill et al., Bootstrap Your Own Latent, NeurIPS 2020, section 3.3: m_t = 1 - (1 - m) (1 + cos(pi t / T)) / 2.
    """
    if config.ema_schedule is None:
        return config.tau
    return config.tau * (1 + math.cos(math.pi * t / config.epochs)) / 2


def largest_variance(config: RunConfig, world: World) -> float:
    """lambda_max(Sigma_x) for the bound of beta; of both views the larger one where gradients flow through both."""
    if config.symmetric_loss or not config.stop_grad:
        return max(world.lambda_max_x, world.lambda_max_plus)
    return world.lambda_max_x


@dataclass
class CurvatureEstimate:
    """The plain form of the estimate H_t of lambda_max(C_oo); `power_iters` iterations a tick after the first."""

    r: int
    power_iters: int = 1
    H: float = np.nan
    H_floor: float = 0.0
    ticks: int = 0
    average: Array = field(init=False)
    vector: Array = field(init=False)

    def __post_init__(self) -> None:
        self.average = np.zeros((self.r, self.r))
        self.vector = np.full(self.r, 1 / np.sqrt(self.r))

    @classmethod
    def of(cls, k: int, power_iters: int, state: Curvature | None) -> CurvatureEstimate:
        """The estimate as a run left it; None for one that has seen nothing."""
        estimate = cls(k, power_iters)
        if state is not None:
            estimate.H, estimate.H_floor, estimate.ticks = float(state.H), float(state.H_floor), int(state.ticks)
            estimate.average, estimate.vector = state.average.copy(), state.vector.copy()
        return estimate

    def noise_limit(self, n: int, mu: float) -> float:
        """Half of the rate at which minibatches of n make P's mean square grow, by the average's eigenvalues."""
        if not self.ticks:
            return np.inf
        corrected = self.average / (1 - (1 - AVERAGE_RATE) ** self.ticks)
        return NOISE_FRACTION * mean_square_limit(np.maximum(np.linalg.eigvalsh(corrected), 0.0), n, mu)

    @property
    def state(self) -> Curvature:
        """`of` backwards."""
        H, H_floor, ticks = (np.asarray(x, dtype=np.float64) for x in (self.H, self.H_floor, self.ticks))
        return Curvature(H, H_floor, ticks, self.average, self.vector)

    def tick(self, C: Array) -> None:
        """Take one feature covariance (r, r) into the average and iterate."""
        self.ticks += 1
        self.average = (1 - AVERAGE_RATE) * self.average + AVERAGE_RATE * C
        corrected = self.average / (1 - (1 - AVERAGE_RATE) ** self.ticks)
        for _ in range(FIRST_ITERATIONS if self.ticks == 1 else self.power_iters):
            image = corrected @ self.vector
            size = np.sqrt(image @ image)
            if size > 0:
                self.vector = image / size
        self.H = float(self.vector @ corrected @ self.vector)
        if self.ticks == 1:
            self.H_floor = max(FLOOR_FRACTION * self.H, FLOOR_MINIMUM)


@dataclass(frozen=True)
class AutoRates:
    """The plain form of the rule: alpha_t = c_alpha tau_t / H_t and beta_t = c_beta tau_t / H_t below their limits.

    Attributes
    ----------
    lambda_max_x : of Sigma_x, or the larger one of both views where gradients flow through both.
    straight : whether the encoder's gradient skips the predictor.
    one_encoder : whether it flows through the target branch too.
    """

    tau: float
    mu_P: float
    mu_B: float
    eta_P: float
    eta_B: float
    lambda_max_x: float
    straight: bool = False
    one_encoder: bool = False

    def alpha(self, c: float, H: float, noise_limit: float = np.inf) -> tuple[float, bool]:
        """The predictor's rate at curvature H (floored), and whether 2 (1 + mu_P) / (H + eta) or the noise cut it."""
        limit = min(LIMIT_FRACTION * heavy_ball_limit(H, self.mu_P, self.eta_P), noise_limit)
        return _below(c * self.tau / H, limit)

    def beta(self, c: float, H: float, P: Array, above: Array | None = None) -> tuple[float, bool]:
        """The encoder's rate, and whether its limit 2 (1 + mu_B) / (h + eta) cut it, h the first layer's curvature.

        With p = norm(P U)_2 and u = norm(U)_2, U = W_L ... W_2 the layers `above` it (I for none), lambda_max(Sigma_x)
        times p^2, u p with the straight Jacobian, (p + u)^2 for one encoder, 2 u (p + u) for both is at least h
        (docs/derivation.md, section 6).
        """
        u = 1.0 if above is None else float(np.linalg.norm(above, 2))
        p = float(np.linalg.norm(P if above is None else P @ above, 2))
        both = p + u * self.one_encoder
        gain = u * both * (1 + self.one_encoder) if self.straight else both**2
        limit = heavy_ball_limit(self.lambda_max_x * gain, self.mu_B, self.eta_B)
        return _below(c * self.tau / H, LIMIT_FRACTION * limit)


def _below(rate: float, limit: float) -> tuple[float, bool]:
    return min(rate, limit), rate > limit
