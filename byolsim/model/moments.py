"""The moments sampler in plain form: what a step needs of its minibatch, drawn from its exact joint law.

delta = P B_o x - B_t x+ is D xi with a white xi of dimension q + 2k, so the step depends on the minibatch through
S = (1/n) sum xi xi^T and the cross moment of delta with the noise outside the encoder's rows. n S is Wishart with n
degrees of freedom: S = W W^T / n with Bartlett's W (Bartlett, On the Theory of Statistical Regression, 1933); given S
the cross moment is Gaussian. `docs/moments.md` derives both forms; the kernels of the backends equal these functions.

Shapes: encoders are (k, d), the structured subspace has dimension q; m = min(q + 2k, n), c = min(k, n); W is
(q + 2k, m), lower triangular or trapezoidal; N is (c, d) in the direct form and (c, 3k) in the reduced one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import DTypeLike, NDArray

from byolsim.model.gradients import outside_hole
from byolsim.model.linalg import lower_factor, lq_factor, lq_factorisation
from byolsim.model.start import Start
from byolsim.model.state import Evaluation
from byolsim.model.world import World

Array = NDArray[np.float64]


def direct_gradient(P: Array, B_o: Array, B_t: Array, world: World, W: Array, N: Array, n: int) -> Evaluation:
    """The direct form, from W (q + 2k, m) and N (c, d); O(k^2 d + k q d).

    With B_o Pi = L_b O and xi = (g, u, w): g (q) the white latents of x, u = O e (k), and w (k) what x+ has alone,

        D = [(P B_o A - B_t A_plus) Lambda^(1/2), sigma P L_b, -L_w],    E = D W / sqrt(n),    C C^T = E E^T,
        L_w L_w^T = B_t A_c Lambda_c A_c^T B_t^T + sigma_plus^2 B_t Pi B_t^T,    A_c the last c columns of A_plus,
        G = (D S)_g Lambda^(1/2) A^T + [sigma (D S)_u O + sigma n^(-1/2) C N (I - O^T O)] Pi.

    Rows of O that complete a singular B_o Pi may lie in the hole, where the last projection takes them away.
    """
    k, q, sigma = len(P), world.q, world.sigma
    root_lam, root_plus = np.sqrt(world.lam), np.sqrt(world.variances_plus)
    L_b, rows = lq_factorisation(outside_hole(B_o, world))
    M_o, M_t = B_o @ world.A * root_lam, B_t @ world.loadings_plus * root_plus
    L_w = world.noise_plus * lq_factor(outside_hole(B_t, world))
    if M_t.shape[1] > q:
        L_w = lq_factor(np.hstack([M_t[:, q:], L_w]))
    D = np.hstack([P @ M_o - M_t[:, :q], sigma * P @ L_b, -L_w])
    E = D @ W / math.sqrt(n)
    DS = E @ W.T / math.sqrt(n)
    Y = sigma / math.sqrt(n) * lower_factor(E)[:, : len(N)] @ N
    signal, along = DS[:, :q] * root_lam @ world.A.T, (sigma * DS[:, q : q + k] - Y @ rows.T) @ rows
    G = signal + along + Y if world.hole is None else signal + outside_hole(along + Y, world)
    F = np.hstack([M_o, sigma * L_b]) @ W[: q + k] / math.sqrt(n)
    return Evaluation(G, 0.5 * float((E**2).sum()), F @ F.T)


@dataclass(frozen=True)
class ReducedWorld:
    """The world as the reduced form sees it, inside the structured subspace; every matrix is (q, q).

    Computed from `world` in double precision and given in `dtype`. Where both views have the same latents and noise,
    `World.is_plain`, T = R Lambda R^T is the signal and the conditional mean of x+ inside is that of A z.

    Attributes
    ----------
    L_x : lower triangular factor of the covariance of the inside part of a view x, x = L_x g.
    M : E[x+ g^T] inside: given g the inside part of x+ has mean M g. S_px S_xx^-1 L_x where S_xx is regular.
    root, scale, ratio : given x, the part of z_t that is left has the factor scale LQ[b_t root, ratio L_t].
    """

    world: World
    dtype: DTypeLike = np.float64

    @cached_property
    def L_x(self) -> Array:
        """LQ factor of [R Lambda^(1/2), sigma I], or for moments what they say."""
        world = self.world
        if not world.is_plain:
            return world.joint_factor[0].astype(self.dtype)
        return lq_factor(np.hstack([world.R * np.sqrt(world.lam), world.sigma * np.eye(world.q)])).astype(self.dtype)

    @cached_property
    def M(self) -> Array:
        """K L_x in a plain world, K = T (T + sigma^2 I)^-1; else from the LQ factor of the joint moments."""
        if self.world.is_plain:
            return self.K @ self.L_x
        return self.world.joint_factor[1].astype(self.dtype)

    @cached_property
    def K(self) -> Array:
        """T (T + sigma^2 I)^-1, symmetric, of a plain world: E[A z inside | x inside] = K x."""
        return self._gain.astype(self.dtype)

    @cached_property
    def root(self) -> Array:
        """Cholesky factor of K + I, whose eigenvalues lie in [1, 2]; in other worlds L_c."""
        if self.world.is_plain:
            return np.asarray(np.linalg.cholesky(self._gain + np.eye(self.world.q)), np.float64).astype(self.dtype)
        return self.world.joint_factor[2].astype(self.dtype)

    @property
    def scale(self) -> float:
        """sigma in a plain world, where the covariance inside is sigma^2 (K + I); else 1."""
        return self.world.sigma if self.world.is_plain else 1.0

    @property
    def ratio(self) -> float:
        """Noise of x+ outside, over `scale`."""
        return 1.0 if self.world.is_plain else self.world.noise_plus

    @cached_property
    def _gain(self) -> Array:
        """K by the singular values s of R Lambda^(1/2): the gains s^2 / (s^2 + sigma^2)."""
        world = self.world
        U, s, _ = np.linalg.svd(world.R * np.sqrt(world.lam))
        return np.asarray((U * (1 / (1 + (world.sigma / s) ** 2))) @ U.T)

    def residual(self, P: Array, b_o: Array, b_t: Array) -> Array:
        """P b_o L_x - b_t M (k, q): what delta has of g; (P b_o - b_t K) L_x in a plain world."""
        if self.world.is_plain:
            return np.asarray((P @ b_o - b_t @ self.K) @ self.L_x)
        return np.asarray(P @ b_o @ self.L_x - b_t @ self.M)


def reduced_gradient(P: Array, X: Array, world: ReducedWorld, W: Array, N: Array, n: int) -> Evaluation:
    """The reduced form, from W (q + 2k, m) and N (c, 3k), for coordinates X = [B_o; V_B; B_t] (3k, q + 4k).

    The columns of X are q inside the structured subspace (b = B Q), k on each of O_1, O_2 and O_3, lower triangular in
    the order of the rows, and k of 0 for fresh directions. With xi = (g, u, w), O(k^2 (q + k)),

        D = [P b_o L_x - b_t M, sigma P L_oo, -L_w],    L_w = scale LQ[b_t root, ratio L_t],
        G = [(D S)_g L_x^T, sigma (D S)_u, sigma n^(-1/2) C N],

    the columns of N belonging to O_2, O_3 and the fresh directions, there lower triangular with Bartlett's diagonal.
    """
    k, q, sigma = len(P), world.world.q, world.world.sigma
    b_o, L_oo, b_t, L_t = X[:k, :q], X[:k, q : q + k], X[2 * k :, :q], X[2 * k :, q : q + 3 * k]
    L_w = lq_factor(np.hstack([b_t @ world.root, world.ratio * L_t]))
    D = np.hstack([world.residual(P, b_o, b_t), sigma * P @ L_oo, -world.scale * L_w])
    E = D @ W / math.sqrt(n)
    DS = E @ W.T / math.sqrt(n)
    rest = sigma / math.sqrt(n) * lower_factor(E)[:, : len(N)] @ N
    G = np.hstack([DS[:, :q] @ world.L_x.T, sigma * DS[:, q : q + k], rest])
    F = np.hstack([b_o @ world.L_x, sigma * L_oo]) @ W[: q + k] / math.sqrt(n)
    return Evaluation(G, 0.5 * float((E**2).sum()), F @ F.T)


def reduced_gradients(P: Array, X: Array, G: Array, eta: float = 0.0) -> tuple[Array, Array]:
    """(grad_P, grad_B) of `gradients.gradients` in reduced coordinates: (k, k), and (k, q + 4k) as the rows of X."""
    k = len(P)
    B_o = X[:k]
    return G @ B_o.T + eta * P, P.T @ G + eta * B_o


def reduced_coordinates(start: Start, world: World) -> Array:
    """X (3k, q + 4k) of a start: the inside parts of B_o, V_B and B_t, the LQ factor of the rest, 0 in fresh columns.

    Where there is no momentum and the target is at the encoder, O_1 spans the outside part of B_o and all else is
    arbitrary. A start that is given in coordinates is taken as it is.
    """
    k, q = len(start.P), world.q
    X = np.zeros((3 * k, q + 4 * k))
    if start.B_o.shape[1] == q + 3 * k < world.d:
        X[:, : q + 3 * k] = np.vstack([start.B_o, start.V_B, start.B_t])
    elif not start.V_B.any() and np.array_equal(start.B_t, start.B_o):
        inside = start.B_o @ world.Q
        row = np.hstack([inside, lq_factor(start.B_o - inside @ world.Q.T) if world.d > q else np.zeros((k, k))])
        X[:k, : q + k] = X[2 * k :, : q + k] = row
    else:
        rows = np.vstack([start.B_o, start.V_B, start.B_t])
        X[:, :q] = rows @ world.Q
        X[:, q : q + 3 * k] = lq_factor(rows - X[:, :q] @ world.Q.T)
    return X


def retriangulate(X: Array, k: int) -> Array:
    """X with its outside columns [-4k:] brought back to lower triangular, 0 in the fresh directions."""
    q = X.shape[1] - 4 * k
    return np.hstack([X[:, :q], lq_factor(X[:, q:]), np.zeros((3 * k, k), X.dtype)])
