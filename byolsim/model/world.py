"""The linear-Gaussian world: mixing matrix, latent variances and covariances (docs/derivation.md, section 1)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from byolsim.config.run import RunConfig
from byolsim.draws.streams import keyed_generator

Array = NDArray[np.float64]


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


@dataclass(frozen=True)
class World:
    """x = A z + e, x+ = A z + e+, with z ~ N(0, diag(lam)) and e, e+ ~ N(0, sigma^2 I_d).

    Attributes
    ----------
    A : (d, r) mixing matrix of rank r.
    lam : (r,) latent variances, descending, > 0.
    sigma : standard deviation of the observation noise, >= 0.
    """

    A: Array
    lam: Array
    sigma: float

    @classmethod
    def from_config(cls, config: RunConfig) -> World:
        """Draw A by its key (seed, d, r, mixing): the same on every backend, for every batch size and rate."""
        d, r = config.d_obs, config.d_latent
        normal = keyed_generator("world", config.seed, d, r, config.mixing).standard_normal((d, r))
        if config.mixing == "orthonormal":
            Q, R = np.linalg.qr(normal)
            A = Q * np.where(np.diag(R) < 0, -1.0, 1.0)
        else:
            A = normal / np.sqrt(d)
        return cls(A=np.ascontiguousarray(A), lam=latent_variances(config.latent_spectrum, r), sigma=config.sigma_n)

    @property
    def r(self) -> int:
        """Latent dimension."""
        return int(self.A.shape[1])

    @property
    def d(self) -> int:
        """Observed dimension."""
        return int(self.A.shape[0])

    @cached_property
    def _qr(self) -> tuple[Array, Array]:
        Q, R = np.linalg.qr(self.A)
        sign = np.where(np.diag(R) < 0, -1.0, 1.0)
        return np.ascontiguousarray(Q * sign), np.ascontiguousarray(R * sign[:, None])

    @property
    def Q_A(self) -> Array:
        """(d, r) orthonormal basis of the column space of A: A = Q_A R_A."""
        return self._qr[0]

    @property
    def R_A(self) -> Array:
        """(r, r) upper triangular with positive diagonal: A = Q_A R_A."""
        return self._qr[1]

    @cached_property
    def R_A_inv(self) -> Array:
        """(r, r) inverse of R_A, so that the pseudo-inverse is A^+ = R_A_inv Q_A^T."""
        return np.asarray(np.linalg.inv(self.R_A), dtype=np.float64)

    @cached_property
    def A_pinv(self) -> Array:
        """(r, d) pseudo-inverse A^+."""
        return np.ascontiguousarray(self.R_A_inv @ self.Q_A.T)

    @cached_property
    def Sigma_s(self) -> Array:
        """(d, d) signal covariance A Lambda A^T."""
        return (self.A * self.lam) @ self.A.T

    @cached_property
    def Sigma_x(self) -> Array:
        """(d, d) covariance of one view, Sigma_s + sigma^2 I."""
        return self.Sigma_s + self.sigma**2 * np.eye(self.d)

    @cached_property
    def lambda_max_x(self) -> float:
        """Largest eigenvalue of Sigma_x: that of R_A Lambda R_A^T, plus sigma^2."""
        s = np.linalg.svd(self.R_A * np.sqrt(self.lam), compute_uv=False)
        return float(s[0] ** 2 + self.sigma**2)
