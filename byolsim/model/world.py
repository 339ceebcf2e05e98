"""The world: the joint Gaussian law of a pair of views (docs/model.md, section 2; docs/derivation.md, section 1).

Every world is of one form. With white latents g (q of them for x, and c more that the target's view has alone),

    x = A Lambda^(1/2) g_(1..q) + sigma Pi e,    x+ = A_plus Lambda_plus^(1/2) g + sigma_plus Pi e+,

e and e+ white in d dimensions and independent of all else. In a world of options Pi = I; in one that is given by its
second moments inside the span of Q, Pi projects on the complement of that span.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

from byolsim.config.run import RunConfig
from byolsim.config.second_moments import SecondMoments, checked_moments
from byolsim.config.world_file import read_moments
from byolsim.draws.streams import keyed_generator
from byolsim.errors import UserError
from byolsim.machine.whole import whole_file
from byolsim.model.linalg import lq_factor

Array = NDArray[np.float64]

SUPPORT = 1e-12
"""Directions in which S_xx is below this multiple of its largest eigenvalue are outside the support of x."""

SYMMETRIC = 1e-9
"""W counts as symmetric where norm(W - W^T) is at most this multiple of norm(W)."""


EQUAL = 1e-12
"""Gains that differ by at most this multiple of the largest are equal."""


def latent_variances(spectrum: str, r: int) -> Array:
    """Latent variances lambda_1 >= ... >= lambda_r > 0 from the canonical text of a spectrum; shape (r,).

    `geometric:LO:HI` and `linear:LO:HI` run from HI down to LO (for r = 1: HI alone), `flat:V` is r times V, and a
    list is used as it is.
    """
    kind, colon, rest = spectrum.partition(":")
    numbers = [float(v) for v in (rest.split(":") if colon else spectrum.split(","))]
    if not colon:
        return np.array(numbers)
    if kind == "flat":
        return np.full(r, numbers[0])
    spaced = np.geomspace if kind == "geometric" else np.linspace
    return np.asarray(spaced(max(numbers), min(numbers), r), dtype=np.float64)


def correlations(text: str | None, r: int) -> Array:
    """rho_1, ..., rho_r in [-1, 1] from their canonical text; `linear:FIRST:LAST` runs over the latents in order."""
    if text is None:
        return np.ones(r)
    kind, colon, rest = text.partition(":")
    numbers = [float(v) for v in (rest.split(":") if colon else text.split(","))]
    if not colon:
        return np.array(numbers)
    return np.full(r, numbers[0]) if kind == "flat" else np.linspace(numbers[0], numbers[1], r)


@dataclass(frozen=True, eq=False)
class World:
    """The joint law of a pair of views; see the module.

    Attributes
    ----------
    A : (d, q) loadings of x, of rank q but for moments that are singular. Where the world has r latents, the first r
        columns are the mixing matrix.
    lam : (q,) variances of the latents of x, >= 0; those of the mixing matrix descend.
    sigma : standard deviation of the isotropic noise of x, >= 0.
    A_plus : (d, q + c) loadings of x+, or None for those of x.
    lam_plus : (q + c,) variances of its latents, of which the first q are `lam`, or None likewise.
    sigma_plus : that of x+, or None for sigma.
    latents : columns of A that are the mixing matrix: -1 for all, None where there is none.
    moments : the second moments that the world was given by, or None.
    """

    A: Array
    lam: Array
    sigma: float
    A_plus: Array | None = None
    lam_plus: Array | None = None
    sigma_plus: float | None = None
    latents: int | None = -1
    moments: SecondMoments | None = None

    @classmethod
    def from_config(cls, config: RunConfig) -> World:
        """The world of a run. A is drawn by its key (seed, d, r, mixing): the same on every backend and for every rate.

        Raises
        ------
        UserError
            If its file cannot be read, or is not the one that the configuration was made with.
        """
        if config.world_id is not None:
            return cls._from_file(config)
        d, r, p = config.d_obs, config.d_latent, config.d_nuisance or 0
        normal = keyed_generator("world", config.seed, d, r, str(config.mixing)).standard_normal((d, r))
        if config.mixing == "orthonormal":
            Q, R = np.linalg.qr(normal)
            A = Q * np.where(np.diag(R) < 0, -1.0, 1.0)
        else:
            A = normal / np.sqrt(d)
        A, lam = np.ascontiguousarray(A), latent_variances(str(config.latent_spectrum), r)
        rho = correlations(config.correlation, r)
        if config.correlation is None and not p:
            return cls(A=A, lam=lam, sigma=config.sigma_n, sigma_plus=config.sigma_n_target, latents=r)
        # x = [A, N] (z, nu), x+ = [A rho, 0, A (1 - rho^2)^(1/2), N] (z, nu, zeta, nu+)
        N = complement(A, keyed_generator("nuisance", config.seed, d, r, str(config.mixing), p).standard_normal((d, p)))
        nu = latent_variances(config.nuisance_spectrum or "flat:1", p) if p else np.zeros(0)
        return cls(
            A=np.hstack([A, N]),
            lam=np.concatenate([lam, nu]),
            sigma=config.sigma_n,
            A_plus=np.hstack([A * rho, np.zeros((d, p)), A * np.sqrt(1 - rho**2), N]),
            lam_plus=np.concatenate([lam, nu, lam, nu]),
            sigma_plus=config.sigma_n_target,
            latents=r,
        )

    @classmethod
    def _from_file(cls, config: RunConfig) -> World:
        if config.world is None:
            raise UserError(f"world_id = {config.world_id!r} names a world without its file: give world")
        try:
            moments = read_moments(config.world)
        except ValueError as error:
            raise UserError(f"world = {config.world!r} is not a world file: {error}") from error
        if moments.digest != config.world_id:
            raise UserError(
                f"world = {config.world!r} has changed: its digest is {moments.digest}, not {config.world_id}"
            )
        return cls._of_moments(moments)

    @classmethod
    def from_moments(
        cls,
        S_xx: ArrayLike,
        S_px: ArrayLike,
        S_pp: ArrayLike,
        Q: ArrayLike | None = None,
        sigma: float = 0.0,
        sigma_plus: float | None = None,
    ) -> World:
        """The world with these second moments; see `byolsim.config.second_moments`.

        Parameters
        ----------
        S_xx, S_px, S_pp : (q, q) Q^T E[x x^T] Q, Q^T E[x+ x^T] Q and Q^T E[x+ x+^T] Q.
        Q : (d, q) with orthonormal columns; None for q = d.
        sigma, sigma_plus : isotropic noise outside the span of Q, of x and of x+ (that of x).

        Raises
        ------
        ValueError
            If no pair of views has these moments.
        """
        arrays = {"S_xx": S_xx, "S_px": S_px, "S_pp": S_pp, "Q": Q}
        noise = {} if Q is None and not sigma else {"sigma": sigma}
        return cls._of_moments(checked_moments(arrays | noise | {"sigma_plus": sigma_plus}))

    @classmethod
    def from_pairs(cls, X: ArrayLike, X_plus: ArrayLike, exchangeable: bool = False) -> World:
        """The world whose second moments are those of a data set of pairs of views, about the mean of each view.

        Parameters
        ----------
        X, X_plus : (samples, d) the pairs, a sample a row.
        exchangeable : count each pair in both orders, as where one law of augmentation makes both views: S_px is
            symmetric then.

        Raises
        ------
        ValueError
            If the arrays are not two of one shape with at least two rows of numbers.
        """
        one, other = np.asarray(X, dtype=np.float64), np.asarray(X_plus, dtype=np.float64)
        if one.ndim != 2 or one.shape != other.shape or len(one) < 2:
            raise ValueError(f"X and X_plus have shapes {one.shape} and {other.shape}: must be one (samples, d)")
        if exchangeable:
            one, other = np.vstack([one, other]), np.vstack([other, one])
        one, other = one - one.mean(axis=0), other - other.mean(axis=0)
        n = len(one)
        return cls.from_moments(one.T @ one / n, other.T @ one / n, other.T @ other / n)

    @classmethod
    def _of_moments(cls, moments: SecondMoments) -> World:
        """With F F^T the joint moments, F lower triangular: x = Q F_xx g, x+ = Q [F_px, F_pp] g inside the span."""
        q, Q = moments.q, np.eye(moments.q) if moments.Q is None else moments.Q
        F = _root(np.block([[moments.S_xx, moments.S_px.T], [moments.S_px, moments.S_pp]]))
        return cls(
            A=Q @ F[:q, :q],
            lam=np.ones(q),
            sigma=moments.sigma,
            A_plus=Q @ F[q:],
            lam_plus=np.ones(2 * q),
            sigma_plus=moments.sigma_plus,
            latents=None,
            moments=moments,
        )

    @cached_property
    def second_moments(self) -> SecondMoments:
        """What says all there is to say of this world; those that it was given by, if it was.

        Raises
        ------
        ValueError
            If q is larger than a file of moments may have.
        """
        if self.moments is not None:
            return self.moments
        if self.q == self.d:
            return checked_moments({"S_xx": self.Sigma_x, "S_px": self.Sigma_s, "S_pp": self.Sigma_plus})
        inside = {"S_xx": self.S_xx, "S_px": self.S_px, "S_pp": self.S_pp}
        return checked_moments(inside | {"Q": self.Q, "sigma": self.sigma, "sigma_plus": self.noise_plus})

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write `second_moments` as a file for `--world`; it appears whole or not at all.

        The file has the digest of the moments: what is read from it and saved again has the same.

        Raises
        ------
        UserError
            If it cannot be written, or the world is too large for a file.
        """
        path = Path(path)
        try:
            moments = self.second_moments
        except ValueError as error:
            raise UserError(f"this world cannot be saved: {error}") from error
        arrays: dict[str, Any] = {"S_xx": moments.S_xx, "S_px": moments.S_px, "S_pp": moments.S_pp}
        if moments.Q is not None:
            arrays |= {"Q": moments.Q, "sigma": moments.sigma, "sigma_plus": moments.sigma_plus}
        with whole_file(path) as file:
            np.savez(file, **arrays)
        return path

    def exchanged(self) -> World:
        """The world of the exchanged views (x+, x); itself where both have the same latents and noise."""
        if self.is_plain:
            return self
        full = self.q == self.d
        moments = SecondMoments(
            self.S_pp,
            self.S_px.T,
            self.S_xx,
            None if full and self.moments is not None else self.Q,
            0.0 if full else self.noise_plus,
            0.0 if full else self.sigma,
        )
        return World._of_moments(moments)

    def cast(self, dtype: DTypeLike) -> World:
        """The same world with loadings and variances in another dtype."""
        arrays = {name: getattr(self, name) for name in ("A", "lam", "A_plus", "lam_plus")}
        return replace(self, **{name: M.astype(dtype) for name, M in arrays.items() if M is not None})

    @property
    def r(self) -> int | None:
        """Latents that the views have in common, the columns of the mixing matrix; None where there is none."""
        return self.q if self.latents == -1 else self.latents

    @property
    def q(self) -> int:
        """Dimension of the structured subspace."""
        return int(self.A.shape[1])

    @property
    def d(self) -> int:
        """Observed dimension."""
        return int(self.A.shape[0])

    @property
    def loadings_plus(self) -> Array:
        """(d, q + c) A_plus."""
        return self.A if self.A_plus is None else self.A_plus

    @property
    def variances_plus(self) -> Array:
        """(q + c,) Lambda_plus."""
        return self.lam if self.lam_plus is None else self.lam_plus

    @property
    def noise_plus(self) -> float:
        """sigma_plus."""
        return self.sigma if self.sigma_plus is None else self.sigma_plus

    @property
    def is_plain(self) -> bool:
        """Whether both views have the same latents and noise of one strength: x = A z + e, x+ = A z + e+."""
        return self.A_plus is None and self.noise_plus == self.sigma and self.moments is None

    @property
    def noise_inside(self) -> bool:
        """Whether the isotropic noise is in the structured subspace too: Pi = I."""
        return self.moments is None

    @property
    def hole(self) -> Array | None:
        """(d, q) orthonormal directions without isotropic noise, those that Pi takes away; None if Pi = I.

        Where the moments say all there is, q = d, there is no noise and nothing to take away.
        """
        return None if self.noise_inside or self.q == self.d else self.Q

    @cached_property
    def _qr(self) -> tuple[Array, Array]:
        if self.moments is not None:
            Q = np.eye(self.q) if self.moments.Q is None else self.moments.Q
            return np.ascontiguousarray(Q), np.ascontiguousarray(Q.T @ self.A)
        Q, R = np.linalg.qr(self.A)
        sign = np.where(np.diag(R) < 0, -1.0, 1.0)
        return np.ascontiguousarray(Q * sign), np.ascontiguousarray(R * sign[:, None])

    @property
    def Q(self) -> Array:
        """(d, q) orthonormal basis of the structured subspace, the columns of A: A = Q R."""
        return self._qr[0]

    @property
    def R(self) -> Array:
        """(q, q) A in the basis Q; upper triangular with positive diagonal, or F_xx for moments."""
        return self._qr[1]

    @cached_property
    def R_plus(self) -> Array:
        """(q, q + c) A_plus in the basis Q."""
        return self.R if self.A_plus is None else np.ascontiguousarray(self.Q.T @ self.A_plus)

    @property
    def mixing(self) -> Array | None:
        """(d, r) the mixing matrix; None where there is none."""
        return None if self.r is None else self.A[:, : self.r]

    @cached_property
    def A_pinv_inside(self) -> Array | None:
        """(r, q) the pseudo-inverse of the mixing matrix in the basis Q; None where there is none.

        Nuisance is orthonormal to the columns of the mixing matrix, so R is block diagonal.
        """
        if self.r is None:
            return None
        inverse = np.asarray(np.linalg.inv(self.R[: self.r, : self.r]), dtype=np.float64)
        return np.hstack([inverse, np.zeros((self.r, self.q - self.r))])

    @cached_property
    def A_pinv(self) -> Array:
        """(r, d) pseudo-inverse of the mixing matrix; `ValueError` where there is none."""
        if self.A_pinv_inside is None:
            raise ValueError("a world of second moments has no mixing matrix")
        return np.ascontiguousarray(self.A_pinv_inside @ self.Q.T)

    @cached_property
    def signal_inside(self) -> Array:
        """(q, q) R Lambda R^T: the second moments of x inside the structured subspace but for isotropic noise."""
        return (self.R * self.lam) @ self.R.T

    @cached_property
    def S_xx(self) -> Array:
        """(q, q) Q^T E[x x^T] Q."""
        return self.signal_inside + self.noise_inside * self.sigma**2 * np.eye(self.q)

    @cached_property
    def S_px(self) -> Array:
        """(q, q) Q^T E[x+ x^T] Q."""
        return (self.R_plus[:, : self.q] * self.lam) @ self.R.T

    @cached_property
    def S_pp(self) -> Array:
        """(q, q) Q^T E[x+ x+^T] Q."""
        signal = (self.R_plus * self.variances_plus) @ self.R_plus.T
        return np.asarray(signal + self.noise_inside * self.noise_plus**2 * np.eye(self.q))

    @cached_property
    def Sigma_s(self) -> Array:
        """(d, d) E[x+ x^T], the signal; A Lambda A^T where both views have the same latents."""
        return (self.loadings_plus[:, : self.q] * self.lam) @ self.A.T

    @cached_property
    def Sigma_x(self) -> Array:
        """(d, d) E[x x^T]."""
        return (self.A * self.lam) @ self.A.T + self.sigma**2 * self._noise

    @cached_property
    def Sigma_plus(self) -> Array:
        """(d, d) E[x+ x+^T]."""
        return (self.loadings_plus * self.variances_plus) @ self.loadings_plus.T + self.noise_plus**2 * self._noise

    @property
    def _noise(self) -> Array:
        """Pi, of rank 0 where the moments say all there is."""
        return np.eye(self.d) if self.noise_inside else np.eye(self.d) - self.Q @ self.Q.T

    @cached_property
    def lambda_max_x(self) -> float:
        """Largest eigenvalue of Sigma_x: that of R Lambda R^T, plus sigma^2 where the noise is inside too."""
        s = np.linalg.svd(self.R * np.sqrt(self.lam), compute_uv=False)
        return float(s[0] ** 2 + self.sigma**2) if self.noise_inside else float(max(s[0] ** 2, self.sigma**2))

    @cached_property
    def lambda_max_plus(self) -> float:
        """Largest eigenvalue of Sigma_plus = E[x+ x+^T]."""
        if self.is_plain:
            return self.lambda_max_x
        inside = float(np.linalg.eigvalsh(self.S_pp)[-1])
        return max(inside, self.noise_plus**2) if self.d > self.q else inside

    @cached_property
    def joint_factor(self) -> tuple[Array, Array, Array]:
        """(L_x, M, L_c), each (q, q), with [[L_x, 0], [M, L_c]] a factor of the joint moments inside Q.

        x inside is L_x g_x and x+ inside M g_x + L_c g_c with white g_x, g_c. L_x and L_c are lower triangular with
        non-negative diagonal. From the LQ factor of the unsquared matrix: no difference is formed that cancels.
        """
        q, c = self.q, len(self.variances_plus) - self.q
        e, e_plus = self.noise_inside * self.sigma * np.eye(q), self.noise_inside * self.noise_plus * np.eye(q)
        nothing = np.zeros((q, q))
        x = np.hstack([self.R * np.sqrt(self.lam), np.zeros((q, c)), e, nothing])
        x_plus = np.hstack([self.R_plus * np.sqrt(self.variances_plus), nothing, e_plus])
        F = lq_factor(np.vstack([x, x_plus]))
        return F[:q, :q], F[q:, :q], F[q:, q:]

    @cached_property
    def _canonical(self) -> tuple[Array, Array, Array, bool]:
        """(S_xx^(1/2), gains, directions (q, q) as columns, whether W is symmetric)."""
        values, U = np.linalg.eigh(self.S_xx)
        inside = values > SUPPORT * values[-1]
        root = np.sqrt(np.where(inside, values, 0.0))
        inverse = np.where(inside, 1.0, 0.0) / np.where(inside, root, 1.0)
        S_root, S_inv = (U * root) @ U.T, (U * inverse) @ U.T
        W = S_inv @ self.S_px @ S_inv
        symmetric = bool(np.linalg.norm(W - W.T) <= SYMMETRIC * np.linalg.norm(W))
        gains, V = np.linalg.eigh((W + W.T) / 2)
        gains, V = _by_variance(gains, V, self.S_xx)
        order = np.argsort(-np.abs(gains), kind="stable")
        V = V[:, order]
        # The sign of a direction is free: its largest entry is positive, so that no LAPACK build decides it.
        signs = np.sign(V[np.abs(V).argmax(axis=0), np.arange(self.q)])
        return S_root, gains[order], V * np.where(signs == 0, 1.0, signs), symmetric

    @property
    def S_root(self) -> Array:
        """(q, q) the symmetric root of S_xx."""
        return self._canonical[0]

    @property
    def gains(self) -> Array:
        """(q,) the Wiener gains w_1, ..., w_q, of descending modulus.

        The eigenvalues of W = Sigma_x^(-1/2) Sigma_px Sigma_x^(-1/2), or of its symmetric part where W has another;
        lambda_j / (lambda_j + sigma^2) where both views have the same latents. Outside Q all gains are 0.
        """
        return self._canonical[1]

    @property
    def directions(self) -> Array:
        """(q, q) the canonical directions v_1, ..., v_q as columns, in the basis Q.

        Of equal gains the directions diagonalise S_xx in the space that they span; where its eigenvalues are equal too
        they are any basis of it.
        """
        return self._canonical[2]

    @property
    def is_symmetric(self) -> bool:
        """Whether W is symmetric: only then do gains and directions decide what is learned."""
        return self._canonical[3]


def complement(A: Array, normal: Array) -> Array:
    """(d, p) orthonormal columns that span those of `normal` (d, p) but for their part in the span of A."""
    Q = np.linalg.qr(A)[0]
    for _ in range(2):  # once more takes away what rounding left
        normal = normal - Q @ (Q.T @ normal)
    N, R = np.linalg.qr(normal)
    return np.asarray(N * np.where(np.diag(R) < 0, -1.0, 1.0))


def _by_variance(gains: Array, V: Array, S_xx: Array) -> tuple[Array, Array]:
    """Gains, which ascend, and their columns of V, those of equal gains rotated so that V^T S_xx V is diagonal there.

    The largest variance comes first, and equal gains are given one value, so that rounding orders nothing.
    """
    gains, V = gains.copy(), V.copy()
    ends = np.flatnonzero(np.diff(gains) > EQUAL * np.abs(gains).max()) + 1
    for group in np.split(np.arange(len(gains)), ends):
        if len(group) > 1:
            _, U = np.linalg.eigh(V[:, group].T @ S_xx @ V[:, group])
            V[:, group] = V[:, group] @ U[:, ::-1]
            gains[group] = gains[group].mean()
    return gains, V


def _root(S: Array) -> Array:
    """Lower triangular F with F F^T = S, for a positive semi-definite S that may be singular."""
    try:
        return np.asarray(np.linalg.cholesky(S), dtype=np.float64)
    except np.linalg.LinAlgError:
        values, U = np.linalg.eigh(S)
        return lq_factor(U * np.sqrt(np.maximum(values, 0.0)))
