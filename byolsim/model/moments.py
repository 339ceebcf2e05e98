"""The moments sampler in plain form: what a step needs of its minibatch, drawn from its exact joint law.

delta = P B_o x - B_t x+ is D xi with a white xi of dimension q = 3r, so the step depends on the minibatch through
S = (1/n) sum xi xi^T and the cross moment of delta with the noise outside the encoder's rows. n S is Wishart with n
degrees of freedom: S = W W^T / n with Bartlett's W (Bartlett, On the Theory of Statistical Regression, 1933); given S
the cross moment is Gaussian. `docs/moments.md` derives both forms; the kernels of the backends equal these functions.

Shapes: m = min(3r, n), c = min(r, n); W is (3r, m), lower triangular or trapezoidal; N is (c, d) in the direct form
and (c, 3r) in the reduced one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import DTypeLike, NDArray

from byolsim.model.linalg import lower_factor, lq_factor, lq_factorisation
from byolsim.model.state import Evaluation
from byolsim.model.world import World

Array = NDArray[np.float64]


def direct_gradient(P: Array, B_o: Array, B_t: Array, world: World, W: Array, N: Array, n: int) -> Evaluation:
    """The direct form, from W (3r, m) and N (c, d); O(r^2 d + r^3).

    With B_o = L_b Q^T and xi = (z, u, w), u = Q^T e / sigma and w the noise of the second view,

        D = [(P B_o - B_t) A Lambda^(1/2), sigma P L_b, -sigma L_t],    E = D W / sqrt(n),    C C^T = E E^T,
        G = (D S)_z Lambda^(1/2) A^T + sigma (D S)_u Q^T + sigma n^(-1/2) C N (I - Q Q^T).
    """
    r, sigma, root_lam = world.r, world.sigma, np.sqrt(world.lam)
    L_b, rows = lq_factorisation(B_o)
    M_o, M_t = B_o @ world.A * root_lam, B_t @ world.A * root_lam
    D = np.hstack([P @ M_o - M_t, sigma * P @ L_b, -sigma * lq_factor(B_t)])
    E = D @ W / math.sqrt(n)
    DS = E @ W.T / math.sqrt(n)
    Y = sigma / math.sqrt(n) * lower_factor(E)[:, : len(N)] @ N
    G = DS[:, :r] * root_lam @ world.A.T + (sigma * DS[:, r : 2 * r] - Y @ rows.T) @ rows + Y
    F = np.hstack([M_o, sigma * L_b]) @ W[: 2 * r] / math.sqrt(n)
    return Evaluation(G, 0.5 * float((E**2).sum()), F @ F.T)


@dataclass(frozen=True)
class ReducedWorld:
    """The world as the reduced form sees it; T = R_A Lambda R_A^T is the signal in the basis Q_A.

    Attributes
    ----------
    L_x : (r, r) lower triangular factor of the covariance T + sigma^2 I of the inside part of a view.
    K : (r, r) T (T + sigma^2 I)^-1, symmetric: E[A z inside | x inside] = K x.
    root_K : (r, r) lower triangular factor of K + I; given x, the inside part of x+ has covariance sigma^2 (K + I).

    They are computed from `world` in double precision and given in `dtype`.
    """

    world: World
    dtype: DTypeLike = np.float64

    @cached_property
    def L_x(self) -> Array:
        """LQ factor of [R_A Lambda^(1/2), sigma I]."""
        world = self.world
        return lq_factor(np.hstack([world.R_A * np.sqrt(world.lam), world.sigma * np.eye(world.r)])).astype(self.dtype)

    @cached_property
    def K(self) -> Array:
        """`_gain` in the dtype of training."""
        return self._gain.astype(self.dtype)

    @cached_property
    def root_K(self) -> Array:
        """Cholesky factor of K + I, whose eigenvalues lie in [1, 2]."""
        return np.asarray(np.linalg.cholesky(self._gain + np.eye(self.world.r)), np.float64).astype(self.dtype)

    @cached_property
    def _gain(self) -> Array:
        """K by the singular values s of R_A Lambda^(1/2): the gains s^2 / (s^2 + sigma^2)."""
        world = self.world
        U, s, _ = np.linalg.svd(world.R_A * np.sqrt(world.lam))
        return np.asarray((U * (1 / (1 + (world.sigma / s) ** 2))) @ U.T)


def reduced_gradient(P: Array, X: Array, world: ReducedWorld, W: Array, N: Array, n: int) -> Evaluation:
    """The reduced form, from W (3r, m) and N (c, 3r), for coordinates X = [B_o; V_B; B_t] (3r, 5r); O(r^3).

    The columns of X are r inside the column space of A (b = B Q_A), r on each of O_1, O_2 and O_3, lower triangular in
    the order of the rows, and r of 0 for fresh directions. With xi = (x inside, u, w),

        D = [(P b_o - b_t K) L_x, sigma P L_oo, -sigma L_w],    L_w L_w^T = b_t (K + I) b_t^T + L_t L_t^T,
        G = [(D S)_x L_x^T, sigma (D S)_u, sigma n^(-1/2) C N],

    the columns of N belonging to O_2, O_3 and the fresh directions, there lower triangular with Bartlett's diagonal.
    """
    r, sigma = world.world.r, world.world.sigma
    b_o, L_oo, b_t, L_t = X[:r, :r], X[:r, r : 2 * r], X[2 * r :, :r], X[2 * r :, r : 4 * r]
    L_w = lq_factor(np.hstack([b_t @ world.root_K, L_t]))
    D = np.hstack([(P @ b_o - b_t @ world.K) @ world.L_x, sigma * P @ L_oo, -sigma * L_w])
    E = D @ W / math.sqrt(n)
    DS = E @ W.T / math.sqrt(n)
    rest = sigma / math.sqrt(n) * lower_factor(E)[:, : len(N)] @ N
    G = np.hstack([DS[:, :r] @ world.L_x.T, sigma * DS[:, r : 2 * r], rest])
    F = np.hstack([b_o @ world.L_x, sigma * L_oo]) @ W[: 2 * r] / math.sqrt(n)
    return Evaluation(G, 0.5 * float((E**2).sum()), F @ F.T)


def reduced_gradients(P: Array, X: Array, G: Array, eta: float = 0.0) -> tuple[Array, Array]:
    """(grad_P, grad_B) of `gradients.gradients` in reduced coordinates: (r, r), and (r, 5r) as the rows of X."""
    r = len(P)
    B_o = X[:r]
    return G @ B_o.T + eta * P, P.T @ G + eta * B_o


def reduced_coordinates(B_o: Array, world: World) -> Array:
    """X (3r, 5r) at the start, V_B = 0 and B_t = B_o: O_1 spans the outside part of B_o, all else is arbitrary."""
    r = world.r
    inside = B_o @ world.Q_A
    row = np.hstack([inside, lq_factor(B_o - inside @ world.Q_A.T) if world.d > r else np.zeros((r, r))])
    X = np.zeros((3 * r, 5 * r))
    X[:r, : 2 * r] = X[2 * r :, : 2 * r] = row
    return X


def retriangulate(X: Array) -> Array:
    """X with its outside columns [r:] brought back to lower triangular, 0 in the fresh directions."""
    r = X.shape[1] // 5
    return np.hstack([X[:, :r], lq_factor(X[:, r:]), np.zeros((3 * r, r), X.dtype)])
