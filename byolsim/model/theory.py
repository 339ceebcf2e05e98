"""What theory says of the linear model: the Wiener predictor, fixed points, thresholds and conserved quantities.

B_o, B_t are (k, d) and P is (k, k). docs/derivation.md derives the formulas, in the sections that each one names.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from byolsim.model.gradients import feature_covariances
from byolsim.model.world import World

Array = NDArray[np.float64]

MEAN_SQUARE_HALVINGS = 50
"""Bisections for `mean_square_limit`: 1e-15 of the interval."""


def wiener_predictor(B_o: Array, B_t: Array, world: World) -> Array:
    """P* = C_to C_oo^-1, the predictor of least population loss at fixed encoders of full rank.

    A Wiener filter: at B_o = B_t = A^+ with orthonormal A it is diag(lam_j / (lam_j + sigma^2)). Wiener,
    Extrapolation, Interpolation, and Smoothing of Stationary Time Series, 1949.
    """
    C_oo, C_to = feature_covariances(B_o, B_t, world)
    return np.asarray(np.linalg.solve(C_oo, C_to.T).T)


def optimal_predictor(b_o: Array, L_o: Array, b_t: Array, world: World, cutoff: float = 64 * 2.0**-52) -> Array:
    """P* = C_to C_oo^+ (k, k) from order parameters, also where C_oo is singular; by its factor F.

    With C_oo = F F^T and C_to = [Y, 0] F^T it is [Y, 0] F^+. Singular values of F below `cutoff` times the largest are
    taken for zero.
    """
    root_lam = np.sqrt(world.lam)
    noise = np.hstack([b_o, L_o]) if world.noise_inside else L_o
    F = np.hstack([b_o @ world.R * root_lam, world.sigma * noise])
    Y = b_t @ world.R_plus[:, : world.q] * root_lam
    return np.asarray(Y @ np.linalg.pinv(F, rcond=cutoff)[: world.q])


def fixed_point_predictor(M: Array, world: World) -> Array:
    """P = M W M^-1, W = Lambda A^T A (Lambda A^T A + sigma^2 I)^-1: with B_o = B_t = M A^+ a fixed point at eta = 0.

    For any invertible M (r, r): learning sets the row span of the encoder and the predictor, not M
    (docs/derivation.md, section 8). Of worlds x = A z + e, x+ = A z + e+ with k = r, whatever the noise of x+; other
    worlds and widths have the fixed points of section 18 there.
    """
    signal = world.lam[:, None] * (world.A.T @ world.A)
    W = np.linalg.solve((signal + world.sigma**2 * np.eye(world.q)).T, signal.T).T
    return np.asarray(M @ W @ np.linalg.inv(M))


def collapse_threshold(lam: Array | float, sigma: float) -> Array:
    """Weight decay above which a mode of signal variance lam must collapse: lam^2 / (4 (lam + sigma^2)).

    For two independent views, decay on both parameters and B_t = B_o (the mode equations of Tian, Chen and Ganguli,
    ICML 2021; docs/derivation.md, section 10). sigma is the noise of x; that of x+ is of no concern. In any world whose
    S_xx commutes with a symmetric S_px, `lam` is a mode's s_j = E[x+_j x_j] and sigma^2 is E[x_j^2] - s_j; a nuisance
    or the part of a latent that is not common to both views is noise (section 18).
    """
    lam = np.asarray(lam, dtype=np.float64)
    return np.asarray(lam**2 / (4 * (lam + sigma**2)))


def stable_gain(lam: Array | float, sigma: float, eta: float) -> Array:
    """Stable predictor gain [lam + sqrt(lam^2 - 4 eta (lam + sigma^2))] / (2 (lam + sigma^2)) of a mode.

    Zero above the collapse threshold (docs/derivation.md, section 10).
    """
    lam = np.asarray(lam, dtype=np.float64)
    square = lam**2 - 4 * eta * (lam + sigma**2)
    gain = (lam + np.sqrt(np.maximum(square, 0.0))) / (2 * (lam + sigma**2))
    return np.where(square >= 0, gain, 0.0)


def frozen_target_map(B_t: Array, world: World) -> Array:
    """B_t Sigma_px Sigma_x^+ (k, d), where P B_o ends if the target stands still (docs/derivation.md, section 18)."""
    inside = np.linalg.lstsq(world.S_xx, world.S_px.T, rcond=None)[0].T
    return np.asarray(B_t @ world.Q @ inside @ world.Q.T)


def frozen_target_loss(B_t: Array, world: World) -> float:
    """1/2 tr(B_t Sigma_plus B_t^T - F Sigma_px^T B_t^T), F = `frozen_target_map`: the least loss at a fixed target.

    At tau = 0 and eta = 0 the loss tends to it, in any world and for every k: P B_o is any (k, d) matrix.
    """
    F = frozen_target_map(B_t, world)
    return float(0.5 * (np.trace(B_t @ world.Sigma_plus @ B_t.T) - np.trace(F @ world.Sigma_s.T @ B_t.T)))


def bottleneck_modes(gains: Array, positive: int, negative: int = 0) -> NDArray[np.intp]:
    """Numbers of the modes that an encoder of k = positive + negative rows ends on, in ascending order.

    Those of the largest of the positive Wiener gains and of the most negative ones; where all gains have one sign, of
    the k largest |w_j|. How many of either sign is up to the start (docs/derivation.md, section 18).

    Raises
    ------
    ValueError
        If there are not so many gains of that sign.
    """
    gains = np.asarray(gains, dtype=np.float64)
    if positive > (gains > 0).sum() or negative > (gains < 0).sum():
        raise ValueError(f"gains {gains} do not have {positive} positive and {negative} negative ones")
    order = np.argsort(-gains, kind="stable")
    return np.sort(np.concatenate([order[:positive], order[len(order) - negative :]]))


def balance(P: Array, B_o: Array, alpha: float, beta: float) -> Array:
    """E = B_o B_o^T / beta - P^T P / alpha, conserved by the gradient flow at eta = 0 (r, r).

    With a learned predictor, the stop-gradient and any EMA; with eta > 0 and alpha = beta = lr it decays as
    exp(-2 eta lr steps). Tian, Chen and Ganguli, ICML 2021, Theorem 1.
    """
    return B_o @ B_o.T / beta - P.T @ P / alpha


def heavy_ball_limit(curvature: float, mu: float, eta: float = 0.0) -> float:
    """Learning rate 2 (1 + mu) / (curvature + eta) at which heavy-ball descent on a quadratic loses stability.

    Infinite where curvature + eta = 0 (docs/derivation.md, section 6).
    """
    total = curvature + eta
    return 2 * (1 + mu) / total if total > 0 else np.inf


def mean_square_limit(c: Array, n: int, mu: float) -> float:
    """Rate alpha of a predictor's heavy-ball SGD at which its second moment stops being bounded; inf where c = 0.

    Encoders fixed, minibatches of n, eta = 0, c (k,) the eigenvalues of C_oo: the least alpha > 0 with phi(alpha) = 1,

        phi = (alpha / n) sum_j c_j / (2 (1 - mu) - alpha c_j g),    g = (1 - mu) / (1 + mu) + 1 / n,

    which lies below the first pole. At small n it is far below `heavy_ball_limit`. Feuer and Weinstein, Convergence
    Analysis of LMS Filters with Uncorrelated Gaussian Data, IEEE Trans. ASSP 1985, for mu = 0; docs/derivation.md,
    section 6.
    """
    c = np.asarray(c, dtype=np.float64)
    largest = float(c.max(initial=0.0))
    if not largest > 0:
        return np.inf
    g = (1 - mu) / (1 + mu) + 1 / n
    low, high = 0.0, 2 * (1 - mu) / (largest * g)  # phi grows from 0 to infinity between them
    for _ in range(MEAN_SQUARE_HALVINGS):
        alpha = 0.5 * (low + high)
        phi = alpha / n * float((c / (2 * (1 - mu) - alpha * c * g)).sum())
        low, high = (alpha, high) if phi < 1 else (low, alpha)
    return low


def gap_variance(alpha: float, tau: float, noise_variance: float = 1.0) -> float:
    """Stationary variance of the student-teacher gap e = w - w_t of the scalar model, taken after the EMA.

    w <- w - alpha (w - w_t + xi) with Var xi = `noise_variance`, then w_t <- w_t + tau (w - w_t) with the new w:

        Var(e) = (1 - tau)^2 alpha^2 Var(xi) / (s (2 - s)),    s = alpha + tau - alpha tau,  0 < s < 2.
    """
    s = alpha + tau - alpha * tau
    if not 0 < s < 2:
        raise ValueError(f"alpha = {alpha} and tau = {tau} give s = {s}: must be 0 < s < 2 for a stationary gap")
    return (1 - tau) ** 2 * alpha**2 * noise_variance / (s * (2 - s))
