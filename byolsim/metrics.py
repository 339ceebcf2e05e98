"""Order parameters -> metric columns: exact population values, vectorised over runs and logged epochs (SPEC 6).

Everything is computed from unsquared factors. With F = [M_o Lambda^(1/2), sigma b_o, sigma L_o] (r x 3r),

    C_oo = F F^T,    F = U S V^T,    P* = C_to C_oo^+ = M_t Lambda^(1/2) V_z S^+ U^T,

V_z being the r rows of V that belong to the latent. Models with an MLP are measured on a sample (`sampled_metrics`).
A metric without a meaning at a state is NaN, a null in the file.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from byolsim.order import OrderParameters, SampledFeatures
from byolsim.world import World

Array = NDArray[np.float64]

RANK_CUTOFF = 1e-10
"""Singular values below this multiple of the largest count as zero, in ranks and in P*."""

LOG_FLOOR = 2.0**-52
"""The argument of log10 is at least this multiple of norm(P*)_F."""

LARGEST = 1e290
"""Entries of P* beyond this leave too little room for arithmetic: P* then has no value."""

METRICS = {
    "loss": "minibatch loss of the step (at the parameters before it)",
    "loss_pop": "population loss",
    "W_Fro_aligned": "log10 min over rotations O of ||O^T P - P*||_F",
    "W_Fro_raw": "log10 ||P - P*||_F",
    "W_rel_sv_err": "relative error of the singular values of P",
    "BA_err_aligned": "||R^T B_o A - I||_F",
    "enc_procrustes_fro": "||R^T B_o - A^+||_F",
    "enc_proj_dist": "distance of the row-span projectors of B_o and A^+",
    "erank_encoded": "effective rank of C_oo",
    "erank_pred": "effective rank of P C_oo P^T",
    "erank_sv_encoded": "effective rank of the features, from singular values",
    "erank_sv_pred": "effective rank of the predictions, from singular values",
    "Hmax": "curvature estimate H_t",
    "Hmax_exact": "largest eigenvalue of C_oo",
    "lr_pred_t": "predictor rate in force",
    "lr_enc_t": "encoder rate in force",
    "gap": "||B_o - B_t||_F",
}
"""Every logged column with its short title."""


def order_metrics(order: OrderParameters, world: World) -> dict[str, Array]:
    """The metrics that are functions of the order parameters; each of shape (K, L), NaN where there is no value.

    These are all the columns of `METRICS` but `loss`, `Hmax` and the two rates, which a training step reports itself.
    """
    sigma, root_lam = world.sigma, np.sqrt(world.lam)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        M_o, M_t = order.b_o @ world.R_A, order.b_t @ world.R_A
        Q_o = np.concatenate([order.b_o, order.L_o], axis=-1)
        Q_t = np.concatenate([order.b_t, order.L_t], axis=-1)
        F = np.concatenate([M_o * root_lam, sigma * Q_o], axis=-1)
        P_star, S, lost = _wiener(F, M_t * root_lam)
        residual = np.concatenate([(order.P @ M_o - M_t) * root_lam, sigma * (order.P @ Q_o), sigma * Q_t], axis=-1)
        columns = {"loss_pop": 0.5 * _norm(residual) ** 2, "Hmax_exact": S[..., 0] ** 2, "gap": order.gap}
        columns |= _predictor_metrics(order.P, P_star)
        columns |= _encoder_metrics(order.b_o, order.L_o, world)
        columns |= _rank_metrics(S, np.asarray(np.linalg.svd(order.P @ F, compute_uv=False)))
        return _without_lost(columns, lost)


def sampled_metrics(features: SampledFeatures, world: World) -> dict[str, Array]:
    """The same columns for models with an MLP, from their evaluation sample; each of shape (K, L).

    Ranks, `loss_pop` and `Hmax_exact` are those of the sample, and the encoder metrics those of the best linear fit.
    `W_*` compare a linear predictor with the sample's Wiener predictor, and are NaN for an MLP predictor.
    """
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        P_star, S, lost = _wiener(features.F, features.cross)
        columns = {"loss_pop": features.loss, "Hmax_exact": S[..., 0] ** 2, "gap": features.gap}
        if features.P is None:
            nothing = np.full(features.gap.shape, np.nan)
            columns |= dict.fromkeys(("W_Fro_aligned", "W_Fro_raw", "W_rel_sv_err"), nothing)
        else:
            columns |= _predictor_metrics(features.P, P_star)
        columns |= _encoder_metrics(features.b_o, features.L_o, world)
        columns |= _rank_metrics(S, np.asarray(np.linalg.svd(features.F_pred, compute_uv=False)))
        return _without_lost(columns, lost)


def _rank_metrics(S: Array, S_pred: Array) -> dict[str, Array]:
    """Effective ranks of the features and the predictions from the singular values of their factors."""
    columns: dict[str, Array] = {}
    for name, s in (("encoded", S), ("pred", S_pred)):
        relative = s / s[..., :1]
        columns[f"erank_{name}"] = effective_rank(relative**2)
        columns[f"erank_sv_{name}"] = effective_rank(relative)
    return columns


def _without_lost(columns: dict[str, Array], lost: NDArray[np.bool_]) -> dict[str, Array]:
    """`W_*` mean nothing where P* does not."""
    return {name: np.where(lost, np.nan, value) if name.startswith("W_") else value for name, value in columns.items()}


def effective_rank(weights: Array) -> Array:
    """Exp of the entropy of weights normalised to sum 1, over the last axis; NaN where all are zero.

    Roy and Vetterli, The Effective Rank, EUSIPCO 2007, where the weights are singular values; between 1 and their
    number.
    """
    scaled = weights / weights.max(axis=-1, keepdims=True)
    p = scaled / scaled.sum(axis=-1, keepdims=True)
    terms = np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0)
    return np.asarray(np.where(np.isfinite(scaled[..., 0]), np.exp(-terms.sum(axis=-1)), np.nan))


def _wiener(F: Array, M_t_white: Array) -> tuple[Array, Array, NDArray[np.bool_]]:
    """P* = C_to C_oo^+, the singular values of F, and where P* has no meaning; cut off at `RANK_CUTOFF`."""
    r = F.shape[-2]
    # Relative to the largest entry: 1 / S of a subnormal S would be infinite.
    scale = np.abs(F).max(axis=(-2, -1), keepdims=True)
    scale = np.where(scale > 0, scale, 1.0)
    U, S, Vt = np.linalg.svd(F / scale, full_matrices=False)
    keep = (RANK_CUTOFF * S[..., :1] < S) & (S > 0)
    S_inv = np.where(keep, 1.0 / np.where(keep, S, 1.0), 0.0)
    V_z = np.swapaxes(Vt[..., :r], -1, -2)
    P_star = (M_t_white / scale @ V_z * S_inv[..., None, :]) @ np.swapaxes(U, -1, -2)
    # B_o so small beside B_t that P* leaves the range of a float: no value, as at B_o = 0.
    lost = ~(np.abs(P_star).max(axis=(-2, -1)) < LARGEST) | (S[..., 0] == 0)
    return np.where(lost[..., None, None], 0.0, P_star), S * scale[..., 0], lost


def _predictor_metrics(P: Array, P_star: Array) -> dict[str, Array]:
    """W_Fro_aligned, W_Fro_raw and W_rel_sv_err; a relative error of P* = 0 and a logarithm of 0 are NaN."""
    size = _norm(P_star)
    unit = P_star / np.where(size > 0, size, 1.0)[..., None, None]
    O = _nearest_rotation(P @ np.swapaxes(unit, -1, -2))
    raw = _norm(P - P_star)
    # The identity is one of the rotations, so rounding must not lift the minimum above it.
    aligned = np.minimum(_norm(np.swapaxes(O, -1, -2) @ P - P_star), raw)
    s, s_star = (np.linalg.svd(M, compute_uv=False) for M in (P, P_star))
    relative = _norm((s - s_star)[..., None, :]) / size
    return {
        "W_Fro_aligned": _log10(aligned, size),
        "W_Fro_raw": _log10(raw, size),
        "W_rel_sv_err": np.where((size > 0) & np.isfinite(relative), relative, np.nan),
    }


def _log10(error: Array, size: Array) -> Array:
    argument = np.maximum(error, LOG_FLOOR * size)
    return np.where(argument > 0, np.log10(argument), np.nan)


def _encoder_metrics(b: Array, L: Array, world: World) -> dict[str, Array]:
    """BA_err_aligned, enc_procrustes_fro and enc_proj_dist.

    The projector distance is computed from sines, (r - k) + 2 norm(V_k outside the span of A)^2 with k the rank of
    B_o: the difference of the projectors itself would lose half the digits near zero.
    """
    r = world.r
    R_t = np.swapaxes(_nearest_rotation(b @ world.R_A_inv.T), -1, -2)
    inside, outside = _norm(R_t @ b - world.R_A_inv), _norm(L)
    _, s, Vt = np.linalg.svd(np.concatenate([b, L], axis=-1), full_matrices=False)
    in_rank = (s > RANK_CUTOFF * s[..., :1]) & (s > 0)
    rank = in_rank.sum(axis=-1)
    sines = np.where(in_rank, (Vt[..., r:] ** 2).sum(axis=-1), 0.0).sum(axis=-1)
    return {
        "BA_err_aligned": _norm(R_t @ (b @ world.R_A) - np.eye(r)),
        "enc_procrustes_fro": np.sqrt(inside**2 + outside**2),
        "enc_proj_dist": np.where(rank > 0, np.sqrt((r - rank) + 2 * sines), np.nan),
    }


def _nearest_rotation(M: Array) -> Array:
    """U V^T of M = U S V^T: the orthogonal O that maximises tr(O^T M)."""
    U, _, Vt = np.linalg.svd(M)
    return np.asarray(U @ Vt)


def _norm(M: Array) -> Array:
    """Frobenius norm over the last two axes, scaled so that squares neither overflow nor vanish."""
    flat = np.abs(M).reshape(*M.shape[:-2], -1)
    scale = flat.max(axis=-1, keepdims=True)
    safe = np.where(scale > 0, scale, 1.0)
    return np.asarray(np.sqrt(((flat / safe) ** 2).sum(axis=-1)) * safe[..., 0])
