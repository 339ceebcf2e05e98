"""What a world is, in numbers: shapes, noise, symmetry, gains, and the energies that a random encoder has in its modes.

docs/model.md, section 2, says what each means.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from byolsim.model.world import SUPPORT, World

Array = NDArray[np.float64]

COMMUTING = 1e-9
"""S_xx and W commute where norm(S_xx W - W S_xx) is at most this multiple of norm(S_xx) norm(W)."""


@dataclass(frozen=True)
class WorldFacts:
    """The facts of a world for an encoder of k rows; see `world_facts`.

    Attributes
    ----------
    d, q, k : observed dimension, dimension of the structured subspace, rows of the encoder.
    r : latents that the views share, or None for second moments.
    rank : of S_xx, the dimensions of the structured subspace in which x varies.
    sigma, sigma_plus : isotropic noise of x and x+; `noise_inside` says whether S_xx and S_pp hold it too.
    S_px_symmetric, W_symmetric : whether they are; gains and directions decide what is learned only if W is.
    decoupled : whether W is symmetric and commutes with S_xx, so that modes can stay decoupled.
    gains : (q,) w_j, of descending modulus.
    variances : (q,) kappa_j = v_j^T S_xx v_j, of x along the canonical directions.
    energies : (q,) the expected mode energies of a random encoder.
    tr_C_oo : the expected sum of its feature variances; `energies` and what comes from outside the subspace.
    thresholds : (q,) eta_c, or None where the modes do not decouple.
    lambda_max_x : largest eigenvalue of Sigma_x.
    room, room_needed : D = d - q and 4k; the reduced form needs as much room.
    """

    d: int
    q: int
    r: int | None
    k: int
    rank: int
    sigma: float
    sigma_plus: float
    noise_inside: bool
    S_px_symmetric: bool
    W_symmetric: bool
    decoupled: bool
    gains: Array
    variances: Array
    energies: Array
    tr_C_oo: float
    thresholds: Array | None
    lambda_max_x: float

    @property
    def room(self) -> int:
        """D = d - q, the dimensions outside the structured subspace."""
        return self.d - self.q

    @property
    def room_needed(self) -> int:
        """4k: the directions of a step of the reduced form."""
        return 4 * self.k

    @property
    def has_reduced_form(self) -> bool:
        """Whether the moments sampler has its reduced form here."""
        return self.room >= self.room_needed


def world_facts(world: World, k: int) -> WorldFacts:
    """The facts of a world, for an encoder of k rows.

    For B (k, d) with independent entries N(0, 1/d), as `zero_pred` draws them, E[B^T B] = (k/d) I and so

        E norm(B Sigma_x^(1/2) v_j)^2 = (k/d) v_j^T S_xx v_j,    E tr C_oo = (k/d) tr Sigma_x.

    Where W is symmetric and commutes with S_xx the canonical directions are eigenvectors of both, and a mode of
    variance kappa_j and cross-covariance s_j = w_j kappa_j collapses at weight decays above

        eta_c = s_j^2 / (4 kappa_j) = w_j^2 kappa_j / 4

    (docs/derivation.md, section 10, whose mode equations hold for s_j < 0 with p_j < 0). The noise of x+ is in neither.
    """
    d, V, S_xx = world.d, world.directions, world.S_xx
    variances = np.einsum("ij,ij->j", V, S_xx @ V)
    trace = float(np.trace(S_xx) + world.sigma**2 * (d - world.q))
    decoupled = world.is_symmetric and _commute(S_xx, (V * world.gains) @ V.T)
    values = np.linalg.eigvalsh(S_xx)
    return WorldFacts(
        d=d,
        q=world.q,
        r=world.r,
        k=k,
        rank=int((values > SUPPORT * values[-1]).sum()),
        sigma=world.sigma,
        sigma_plus=world.noise_plus,
        noise_inside=world.noise_inside,
        S_px_symmetric=_equal(world.S_px, world.S_px.T),
        W_symmetric=world.is_symmetric,
        decoupled=decoupled,
        gains=world.gains,
        variances=variances,
        energies=k / d * variances,
        tr_C_oo=k / d * trace,
        thresholds=world.gains**2 * variances / 4 if decoupled else None,
        lambda_max_x=world.lambda_max_x,
    )


def _commute(S: Array, W: Array) -> bool:
    size = np.linalg.norm(S) * np.linalg.norm(W)
    return bool(np.linalg.norm(S @ W - W @ S) <= COMMUTING * size)


def _equal(S: Array, T: Array) -> bool:
    return bool(np.linalg.norm(S - T) <= COMMUTING * np.linalg.norm(S))
