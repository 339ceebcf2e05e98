"""Losses, gradients, Hessians and feature covariances of the linear model, at given parameters.

B_o, B_t are (r, d), P is (r, r), samples are the columns of X and X_plus (d, n). docs/derivation.md, sections 2 to 5,
derives every formula. These are the plain forms that the kernels of the backends must equal.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from byolsim.model.world import World

Array = NDArray[np.float64]


def sample_loss(P: Array, B_o: Array, B_t: Array, X: Array, X_plus: Array) -> float:
    """1/2 mean over the batch of ||P B_o x - B_t x+||^2 (docs/derivation.md, section 2)."""
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


def feature_covariances(B_o: Array, B_t: Array, world: World) -> tuple[Array, Array]:
    """(C_oo, C_to) = (M_o Lambda M_o^T + sigma^2 B_o B_o^T, M_t Lambda M_o^T), population values."""
    M_o, M_t = B_o @ world.A, B_t @ world.A
    return (M_o * world.lam) @ M_o.T + world.sigma**2 * B_o @ B_o.T, (M_t * world.lam) @ M_o.T


def gradients(P: Array, B_o: Array, G: Array, eta: float = 0.0) -> tuple[Array, Array]:
    """(grad_P, grad_B) = (G B_o^T + eta P, P^T G + eta B_o) of loss + eta/2 (||P||^2 + ||B_o||^2)."""
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
    """Hessian blocks in vec(P), C_oo kron I_r + eta I, and in vec(B_o), S_xx kron P^T P + eta I."""
    r, d = B_o.shape
    C_oo = B_o @ S_xx @ B_o.T
    return np.kron(C_oo, np.eye(r)) + eta * np.eye(r * r), np.kron(S_xx, P.T @ P) + eta * np.eye(r * d)


def _vec(M: Array) -> Array:
    return M.reshape(-1, order="F")
