"""Closed forms of the linear model: gradients, Hessians, the Wiener predictor, fixed points and thresholds.

Symbols as in SPEC: B_o, B_t are (r, d), P is (r, r), samples are the columns of X and X_plus (d, n).
`docs/derivation.md` derives every formula. These are the plain forms that the kernels of the backends must equal.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from byolsim.model.world import World

Array = NDArray[np.float64]


def sample_loss(P: Array, B_o: Array, B_t: Array, X: Array, X_plus: Array) -> float:
    """1/2 mean over the batch of ||P B_o x - B_t x+||^2 (SPEC 3)."""
    delta = P @ B_o @ X - B_t @ X_plus
    return float(0.5 * (delta**2).sum() / X.shape[1])


def sample_residual_gradient(P: Array, B_o: Array, B_t: Array, X: Array, X_plus: Array) -> Array:
    """G = (1/n) sum_i (P B_o x_i - B_t x+_i) x_i^T, shape (r, d)."""
    delta = P @ B_o @ X - B_t @ X_plus
    return np.asarray(delta @ X.T / X.shape[1])


def moment_residual_gradient(P: Array, B_o: Array, B_t: Array, S_xx: Array, S_px: Array) -> Array:
    """G = P B_o S_xx - B_t S_px from the second moments S_xx = E[x x^T] and S_px = E[x+ x^T], both (d, d).

    Sample moments give the minibatch G, and (Sigma_x, Sigma_s) the population one.
    """
    return P @ B_o @ S_xx - B_t @ S_px


def population_residual_gradient(P: Array, B_o: Array, B_t: Array, world: World) -> Array:
    """G = (P M_o - M_t) Lambda A^T + sigma^2 P B_o, with M = B A: the population G without a (d, d) matrix."""
    M_o, M_t = B_o @ world.A, B_t @ world.A
    return ((P @ M_o - M_t) * world.lam) @ world.A.T + world.sigma**2 * P @ B_o


def population_loss(P: Array, B_o: Array, B_t: Array, world: World) -> float:
    """1/2 [ ||(P M_o - M_t) Lambda^(1/2)||^2 + sigma^2 ||P B_o||^2 + sigma^2 ||B_t||^2 ], Frobenius norms."""
    M_o, M_t = B_o @ world.A, B_t @ world.A
    signal = ((P @ M_o - M_t) ** 2 * world.lam).sum()
    return float(0.5 * (signal + world.sigma**2 * (((P @ B_o) ** 2).sum() + (B_t**2).sum())))


def gradients(P: Array, B_o: Array, G: Array, eta: float = 0.0) -> tuple[Array, Array]:
    """(grad_P, grad_B) = (G B_o^T + eta P, P^T G + eta B_o) of loss + eta/2 (||P||^2 + ||B_o||^2), SPEC 3."""
    return G @ B_o.T + eta * P, P.T @ G + eta * B_o


def gradients_kron(P: Array, B_o: Array, B_t: Array, S_xx: Array, S_px: Array, eta: float = 0.0) -> tuple[Array, Array]:
    """(grad_P, grad_B) by vec and Kronecker products, as (r, r) and (r, d) matrices.

    With vec stacking columns and vec(U X V) = (V^T kron U) vec(X) (Petersen and Pedersen, The Matrix Cookbook),

        vec grad_P = (C_oo kron I_r + eta I) vec P   - vec(B_t S_px B_o^T),         C_oo = B_o S_xx B_o^T,
        vec grad_B = (S_xx kron P^T P + eta I) vec B_o - (I_d kron P^T) vec(B_t S_px).

    Forms an (r d, r d) matrix: for tests and small shapes.
    """
    r, d = B_o.shape
    H_P, H_B = hessians(P, B_o, S_xx, eta)
    grad_P = H_P @ _vec(P) - _vec(B_t @ S_px @ B_o.T)
    grad_B = H_B @ _vec(B_o) - np.kron(np.eye(d), P.T) @ _vec(B_t @ S_px)
    return grad_P.reshape((r, r), order="F"), grad_B.reshape((r, d), order="F")


def hessians(P: Array, B_o: Array, S_xx: Array, eta: float = 0.0) -> tuple[Array, Array]:
    """Hessian blocks in vec(P), C_oo kron I_r + eta I, and in vec(B_o), S_xx kron P^T P + eta I (SPEC 3)."""
    r, d = B_o.shape
    C_oo = B_o @ S_xx @ B_o.T
    return np.kron(C_oo, np.eye(r)) + eta * np.eye(r * r), np.kron(S_xx, P.T @ P) + eta * np.eye(r * d)


def _vec(M: Array) -> Array:
    return M.reshape(-1, order="F")


def feature_covariances(B_o: Array, B_t: Array, world: World) -> tuple[Array, Array]:
    """(C_oo, C_to) = (M_o Lambda M_o^T + sigma^2 B_o B_o^T, M_t Lambda M_o^T), population values (SPEC 6)."""
    M_o, M_t = B_o @ world.A, B_t @ world.A
    return (M_o * world.lam) @ M_o.T + world.sigma**2 * B_o @ B_o.T, (M_t * world.lam) @ M_o.T


def wiener_predictor(B_o: Array, B_t: Array, world: World) -> Array:
    """P* = C_to C_oo^-1, the predictor of least population loss at fixed encoders of full rank.

    A Wiener filter: at B_o = B_t = A^+ with orthonormal A it is diag(lam_j / (lam_j + sigma^2)). Wiener,
    Extrapolation, Interpolation, and Smoothing of Stationary Time Series, 1949.
    """
    C_oo, C_to = feature_covariances(B_o, B_t, world)
    return np.asarray(np.linalg.solve(C_oo, C_to.T).T)


def fixed_point_predictor(M: Array, world: World) -> Array:
    """P = M W M^-1, W = Lambda A^T A (Lambda A^T A + sigma^2 I)^-1: with B_o = B_t = M A^+ a fixed point at eta = 0.

    For any invertible M (r, r): learning sets the row span of the encoder and the predictor, not M (PHYSICS 4).
    """
    signal = world.lam[:, None] * (world.A.T @ world.A)
    W = np.linalg.solve((signal + world.sigma**2 * np.eye(world.r)).T, signal.T).T
    return np.asarray(M @ W @ np.linalg.inv(M))


def collapse_threshold(lam: Array | float, sigma: float) -> Array:
    """Weight decay above which a mode of signal variance lam must collapse: lam^2 / (4 (lam + sigma^2)).

    For two independent views, decay on both parameters and B_t = B_o (the mode equations of Tian, Chen and Ganguli,
    ICML 2021; PHYSICS 5).
    """
    lam = np.asarray(lam, dtype=np.float64)
    return np.asarray(lam**2 / (4 * (lam + sigma**2)))


def stable_gain(lam: Array | float, sigma: float, eta: float) -> Array:
    """Stable predictor gain [lam + sqrt(lam^2 - 4 eta (lam + sigma^2))] / (2 (lam + sigma^2)) of a mode (PHYSICS 5).

    Zero above the collapse threshold.
    """
    lam = np.asarray(lam, dtype=np.float64)
    square = lam**2 - 4 * eta * (lam + sigma**2)
    gain = (lam + np.sqrt(np.maximum(square, 0.0))) / (2 * (lam + sigma**2))
    return np.where(square >= 0, gain, 0.0)


def balance(P: Array, B_o: Array, alpha: float, beta: float) -> Array:
    """E = B_o B_o^T / beta - P^T P / alpha, conserved by the gradient flow at eta = 0 (r, r).

    With a learned predictor, the stop-gradient and any EMA; with eta > 0 and alpha = beta = lr it decays as
    exp(-2 eta lr steps). Tian, Chen and Ganguli, ICML 2021, Theorem 1.
    """
    return B_o @ B_o.T / beta - P.T @ P / alpha


def heavy_ball_limit(curvature: float, mu: float, eta: float = 0.0) -> float:
    """Learning rate 2 (1 + mu) / (curvature + eta) at which heavy-ball descent on a quadratic loses stability.

    Infinite where curvature + eta = 0 (PHYSICS 10).
    """
    total = curvature + eta
    return 2 * (1 + mu) / total if total > 0 else np.inf


def gap_variance(alpha: float, tau: float, noise_variance: float = 1.0) -> float:
    """Stationary variance of the student-teacher gap e = w - w_t of the scalar model, taken after the EMA.

    w <- w - alpha (w - w_t + xi) with Var xi = `noise_variance`, then w_t <- w_t + tau (w - w_t) with the new w:

        Var(e) = (1 - tau)^2 alpha^2 Var(xi) / (s (2 - s)),    s = alpha + tau - alpha tau,  0 < s < 2 (PHYSICS 9).
    """
    s = alpha + tau - alpha * tau
    if not 0 < s < 2:
        raise ValueError(f"alpha = {alpha} and tau = {tau} give s = {s}: must be 0 < s < 2 for a stationary gap")
    return (1 - tau) ** 2 * alpha**2 * noise_variance / (s * (2 - s))
