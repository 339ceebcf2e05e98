"""Losses, gradients, Hessians and feature covariances of the linear model, at given parameters.

B_o, B_t are (k, d), P is (k, k), samples are the columns of X and X_plus (d, n). docs/derivation.md, sections 2 to 5,
derives every formula. These are the plain forms that the kernels of the backends must equal. Population values are
those of any `World`; where both views have the same latents and noise they read as in docs/derivation.md, section 4.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from byolsim.model.world import World

Array = NDArray[np.float64]


def sample_loss(P: Array, B_o: Array, B_t: Array, X: Array, X_plus: Array) -> float:
    """1/2 mean over the batch of ||P B_o x - B_t x+||^2 (docs/derivation.md, section 2)."""
    delta = P @ B_o @ X - B_t @ X_plus
    return float(0.5 * (delta**2).sum() / X.shape[1])


def sample_residual_gradient(P: Array, B_o: Array, B_t: Array, X: Array, X_plus: Array) -> Array:
    """G = (1/n) sum_i (P B_o x_i - B_t x+_i) x_i^T, shape (k, d)."""
    delta = P @ B_o @ X - B_t @ X_plus
    return np.asarray(delta @ X.T / X.shape[1])


def moment_residual_gradient(P: Array, B_o: Array, B_t: Array, S_xx: Array, S_px: Array) -> Array:
    """G = P B_o S_xx - B_t S_px from the second moments S_xx = E[x x^T] and S_px = E[x+ x^T], both (d, d).

    Sample moments give the minibatch G, and (Sigma_x, Sigma_s) the population one.
    """
    return P @ B_o @ S_xx - B_t @ S_px


def population_residual_gradient(P: Array, B_o: Array, B_t: Array, world: World) -> Array:
    """G = (P M_o - M_t) Lambda A^T + sigma^2 P B_o Pi, with M_o = B_o A and M_t = B_t A_plus on the latents of x.

    The population G without a (d, d) matrix; Pi takes away what lies in the hole of the noise (`outside_hole`).
    """
    M_o, M_t = B_o @ world.A, B_t @ world.loadings_plus[:, : world.q]
    return ((P @ M_o - M_t) * world.lam) @ world.A.T + world.sigma**2 * P @ outside_hole(B_o, world)


def population_target_gradient(P: Array, B_o: Array, B_t: Array, world: World) -> Array:
    """G_plus = E[delta x+^T] = [P M_o - M_t, -M_c] Lambda_plus A_plus^T - sigma_plus^2 B_t Pi (k, d).

    M_t is B_t A_plus on the latents of x and M_c on those that x+ has alone.
    """
    D = -(B_t @ world.loadings_plus)
    D[:, : world.q] += P @ (B_o @ world.A)
    return (D * world.variances_plus) @ world.loadings_plus.T - world.noise_plus**2 * outside_hole(B_t, world)


def population_loss(P: Array, B_o: Array, B_t: Array, world: World) -> float:
    """1/2 [ ||(P M_o - M_t) Lambda^(1/2)||^2 + sigma^2 ||P B_o Pi||^2 + (what x+ has alone) ], Frobenius norms.

    What x+ has alone is ||M_c Lambda_c^(1/2)||^2 + sigma_plus^2 ||B_t Pi||^2, M_c = B_t A_plus on the last c latents.
    """
    q, M_o, M_t = world.q, B_o @ world.A, B_t @ world.loadings_plus
    signal = ((P @ M_o - M_t[:, :q]) ** 2 * world.lam).sum()
    alone = (M_t[:, q:] ** 2 * world.variances_plus[q:]).sum()
    online, target = ((P @ outside_hole(B_o, world)) ** 2).sum(), (outside_hole(B_t, world) ** 2).sum()
    return float(0.5 * (signal + noise_power(online, target, world.sigma, world.noise_plus) + alone))


def noise_power(online: Any, target: Any, sigma: float, sigma_plus: float) -> Any:
    """sigma^2 online + sigma_plus^2 target, of numbers or of arrays of them of any library.

    One product where the two views have noise of one strength.
    """
    if sigma == sigma_plus:
        return sigma**2 * (online + target)
    return sigma**2 * online + sigma_plus**2 * target


def outside_hole(B: Array, world: World) -> Array:
    """B Pi: B (k, d) without its part in directions that have no isotropic noise; B itself where there are none."""
    if world.hole is None:
        return B
    hole = world.hole.astype(B.dtype)
    return np.asarray(B - (B @ hole) @ hole.T)


def feature_covariances(B_o: Array, B_t: Array, world: World) -> tuple[Array, Array]:
    """(C_oo, C_to) = (M_o Lambda M_o^T + sigma^2 B_o Pi B_o^T, M_t Lambda M_o^T), population values."""
    M_o, M_t = B_o @ world.A, B_t @ world.loadings_plus[:, : world.q]
    noise = world.sigma**2 * outside_hole(B_o, world) @ B_o.T
    return (M_o * world.lam) @ M_o.T + noise, (M_t * world.lam) @ M_o.T


def gradients(P: Array, B_o: Array, G: Array, eta: float = 0.0) -> tuple[Array, Array]:
    """(grad_P, grad_B) = (G B_o^T + eta P, P^T G + eta B_o) of loss + eta/2 (||P||^2 + ||B_o||^2)."""
    return G @ B_o.T + eta * P, P.T @ G + eta * B_o


def encoder_gradient(P: Array, G: Array, G_plus: Array | None = None, straight: bool = False) -> Array:
    """P^T G (k, d), the gradient in the whole encoder; G itself with the straight Jacobian; less G_plus if it is given.

    With one encoder, B_t = B_o, the loss depends on it through the target too: - (1/n) sum delta x+^T
    (docs/derivation.md, sections 12 and 16).
    """
    through = G if straight else P.T @ G
    return through if G_plus is None else through - G_plus


def layer_gradients(whole: Array, first: Array, upper: Array) -> tuple[Array, Array]:
    """The gradients in W_1 (k, d) and in W_2, ..., W_L (L - 1, k, k) from that in their product W_L ... W_1 (k, d).

    grad W_l = (W_L ... W_(l+1))^T grad (W_(l-1) ... W_1)^T (docs/derivation.md, section 15).
    """
    below = [first]  # W_(l-1) ... W_1
    for W in upper[:-1]:
        below.append(W @ below[-1])
    grads = np.empty_like(upper)
    for i in range(len(upper) - 1, -1, -1):
        grads[i] = whole @ below[i].T
        whole = upper[i].T @ whole
    return whole, grads


def gradients_kron(P: Array, B_o: Array, B_t: Array, S_xx: Array, S_px: Array, eta: float = 0.0) -> tuple[Array, Array]:
    """(grad_P, grad_B) by vec and Kronecker products, as (k, k) and (k, d) matrices.

    With vec stacking columns and vec(U X V) = (V^T kron U) vec(X) (Petersen and Pedersen, The Matrix Cookbook),

        vec grad_P = (C_oo kron I_k + eta I) vec P   - vec(B_t S_px B_o^T),         C_oo = B_o S_xx B_o^T,
        vec grad_B = (S_xx kron P^T P + eta I) vec B_o - (I_d kron P^T) vec(B_t S_px).

    Forms a (k d, k d) matrix: for tests and small shapes.
    """
    k, d = B_o.shape
    H_P, H_B = hessians(P, B_o, S_xx, eta)
    grad_P = H_P @ _vec(P) - _vec(B_t @ S_px @ B_o.T)
    grad_B = H_B @ _vec(B_o) - np.kron(np.eye(d), P.T) @ _vec(B_t @ S_px)
    return grad_P.reshape((k, k), order="F"), grad_B.reshape((k, d), order="F")


def hessians(P: Array, B_o: Array, S_xx: Array, eta: float = 0.0) -> tuple[Array, Array]:
    """Hessian blocks in vec(P), C_oo kron I_k + eta I, and in vec(B_o), S_xx kron P^T P + eta I."""
    k, d = B_o.shape
    C_oo = B_o @ S_xx @ B_o.T
    return np.kron(C_oo, np.eye(k)) + eta * np.eye(k * k), np.kron(S_xx, P.T @ P) + eta * np.eye(k * d)


def _vec(M: Array) -> Array:
    return M.reshape(-1, order="F")
