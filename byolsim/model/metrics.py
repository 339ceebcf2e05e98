"""Order parameters -> metric columns: exact population values, vectorised over runs and logged epochs.

What a step reports of itself stands in `step_metrics`; everything else is computed from unsquared factors. With
F = [M_o Lambda^(1/2), sigma b_o, sigma L_o] (k x (2q + k); without sigma b_o where the noise is outside the structured
subspace alone),

    C_oo = F F^T,    F = U S V^T,    P* = C_to C_oo^+ = T S^+ U^T,    T = M_t Lambda^(1/2) V_g,

V_g being the q rows of V that belong to the latents of x, and without dividing by a singular value

    norm((P - P*) C_oo^(1/2))_F = norm(P U S - T)_F,    half its square = loss_pop - the loss at P*.

docs/derivation.md, section 7, derives both, and how far P* can be known. Models with an MLP are measured on a sample
(`sampled_metrics`). A metric without a meaning at a state is NaN, a null in the file.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from byolsim.model.linalg import norm
from byolsim.model.modes import Modes, sampled_lists, symmetry
from byolsim.model.order import OrderParameters, SampledFeatures
from byolsim.model.step import Run
from byolsim.model.wiener import ZERO, Wiener, factored
from byolsim.model.world import World

Array = NDArray[np.float64]

RANK_CUTOFF = 1e-10
"""Singular values below this multiple of the largest do not count in the rank of B_o, nor those below `ZERO`."""

LOG_FLOOR = 2.0**-52
"""The argument of log10 is at least this multiple of norm(P*)_F, in `W_excess` of (tr C_tt)^(1/2)."""

COLLAPSED = 1e-6
"""The features have vanished where Hmax_exact is below this multiple of its value at epoch 0."""

METRICS = {
    "loss": "minibatch loss of the step (at the parameters before it)",
    "loss_pop": "population loss",
    "loss_rel": "population loss over tr C_tt / 2",
    "W_Fro_aligned": "log10 min over rotations O of ||O^T P - P*||_F",
    "W_Fro_raw": "log10 ||P - P*||_F",
    "W_rel_sv_err": "relative error of the singular values of P",
    "W_excess": "log10 ||(P - P*) C_oo^(1/2)||_F, root of twice the excess loss",
    "P_asymmetry": "||P - P^T||_F over ||P||_F",
    "commutator": "||P C_oo - C_oo P||_F over ||P||_F ||C_oo||_F",
    "gain_err": "distance of the eigenvalues of P from the Wiener gains w_1..w_k",
    "BA_err_aligned": "||R^T B_o A - I||_F",
    "enc_procrustes_fro": "||R^T B_o - A^+||_F",
    "enc_proj_dist": "distance of the row-span projectors of B_o and A^+",
    "span_err": "distance of the projectors on the row span of B_o Sigma_x^(1/2) and on V_k",
    "erank_encoded": "effective rank of C_oo",
    "erank_pred": "effective rank of P C_oo P^T",
    "erank_sv_encoded": "effective rank of the features, from singular values",
    "erank_sv_pred": "effective rank of the predictions, from singular values",
    "Hmax": "curvature estimate H_t",
    "Hmax_exact": "largest eigenvalue of C_oo",
    "lr_pred_t": "predictor rate in force",
    "lr_enc_t": "encoder rate in force",
    "tau_t": "EMA rate in force",
    "gap": "||B_o - B_t||_F",
}
"""Every logged column with its short title."""

OF_LINEAR_P = ("W_Fro_aligned", "W_Fro_raw", "W_rel_sv_err", "W_excess", "P_asymmetry", "commutator")
"""The columns that need the matrix P: null for an MLP predictor."""

OF_LINEAR_MODELS = ("span_err", "gain_err")
"""The columns that compare a linear model with the canonical directions of its world: null beside any MLP."""


@dataclass(frozen=True)
class Measured:
    """What was measured at K x L states: columns, each (K, L), and, if asked for, `SPECTRA`, each (K, L, number)."""

    columns: dict[str, Array]
    spectra: dict[str, Array]


def order_metrics(order: OrderParameters, world: World, dtype: str = "float64") -> dict[str, Array]:
    """The metrics that are functions of the order parameters; each of shape (K, L), NaN where there is no value.

    These are all the columns of `METRICS` but those that a training step reports itself, `step_metrics`.
    `dtype` is that of the training, float64 or float32: it says how far the state can be trusted.
    """
    return measure(order, world, dtype).columns


def sampled_metrics(features: SampledFeatures, world: World, dtype: str = "float64") -> dict[str, Array]:
    """The same columns for models with an MLP, from their evaluation sample; each of shape (K, L).

    Ranks, losses and `Hmax_exact` are those of the sample, and the encoder metrics those of the best linear fit.
    `W_*` compare a linear predictor with the sample's Wiener predictor; an MLP predictor has none of `OF_LINEAR_P`.
    `OF_LINEAR_MODELS` have no meaning here.
    """
    return measure(features, world, dtype).columns


def measure(
    state: OrderParameters | SampledFeatures, world: World, dtype: str = "float64", spectra: bool = False
) -> Measured:
    """`order_metrics` or `sampled_metrics`, and with `spectra` the lists, from the same decompositions."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
        if isinstance(state, OrderParameters):
            return _measure_order(state, world, dtype, spectra)
        return _measure_sample(state, world, dtype, spectra)


def _measure_order(order: OrderParameters, world: World, dtype: str, spectra: bool) -> Measured:
    q, sigma, root_lam, root_plus = world.q, world.sigma, np.sqrt(world.lam), np.sqrt(world.variances_plus)
    M_o, M_t = order.b_o @ world.R, order.b_t @ world.R_plus
    Q_o, Q_t = order.L_o, order.L_t
    if world.noise_inside:
        Q_o, Q_t = (np.concatenate(pair, axis=-1) for pair in ((order.b_o, Q_o), (order.b_t, Q_t)))
    F = np.concatenate([M_o * root_lam, sigma * Q_o], axis=-1)
    Y, M_t, alone = M_t[..., :q] * root_lam, M_t[..., :q], (M_t * root_plus)[..., q:]
    signal, noise = norm(Y), world.noise_plus * norm(Q_t)
    if alone.shape[-1]:
        noise = np.hypot(noise, norm(alone))
    residual = np.concatenate([(order.P @ M_o - M_t) * root_lam, sigma * (order.P @ Q_o)], axis=-1)
    error, target = np.hypot(norm(residual), noise), np.hypot(signal, noise)
    wiener = factored(F, Y, signal, dtype)
    modes = Modes(order, world, wiener.U, wiener.S, wiener.scale, _in_rank(wiener.S, dtype))
    sizes, rows = _row_space(order.b_o, order.L_o)
    columns = {"loss_pop": 0.5 * error**2, "loss_rel": _finite((error / target) ** 2), "gap": order.gap}
    columns |= _predictor_metrics(order.P, wiener)
    columns |= _feature_metrics(order.P, wiener, target)
    columns |= _encoder_metrics(order.b_o, order.L_o, sizes, rows, world, dtype)
    return Measured(columns | modes.columns(), modes.lists(sizes) if spectra else {})


def _measure_sample(features: SampledFeatures, world: World, dtype: str, spectra: bool) -> Measured:
    nothing = np.full(features.gap.shape, np.nan)
    target = np.sqrt(features.target_power)
    wiener = factored(features.F, features.cross, target, dtype)
    columns = {
        "loss_pop": features.loss,
        "loss_rel": _finite(2 * features.loss / features.target_power),
        "gap": features.gap,
    }
    columns |= dict.fromkeys(OF_LINEAR_MODELS, nothing)
    if features.P is None:
        columns |= dict.fromkeys(OF_LINEAR_P, nothing)
        columns |= _rank_metrics(wiener.S, np.asarray(np.linalg.svd(features.F_pred, compute_uv=False)))
        columns["Hmax_exact"] = wiener.H
    else:
        columns |= _predictor_metrics(features.P, wiener)
        columns |= _feature_metrics(features.P, wiener, target)
        columns |= symmetry(features.P, wiener.U, wiener.S)
    sizes, rows = _row_space(features.b_o, features.L_o)
    columns |= _encoder_metrics(features.b_o, features.L_o, sizes, rows, world, dtype)
    return Measured(columns, sampled_lists(features, world, wiener.S, wiener.scale) if spectra else {})


def step_metrics(run: Run) -> dict[str, float]:
    """The columns that a training step reports of itself, in plain form; every other backend logs them by these names.

    The loss of its minibatch and the curvature estimate, NaN at epoch 0; the learning rates that it used, at epoch 0
    the fixed rate, NaN under the schedule; the rate of its EMA, at epoch 0 the configuration's.
    """
    rates = run.rates
    return {
        "loss": run.loss,
        "Hmax": run.curvature.H,
        "lr_pred_t": rates.alpha,
        "lr_enc_t": rates.beta,
        "tau_t": rates.tau,
    }


def _feature_metrics(P: Array, wiener: Wiener, target: Array) -> dict[str, Array]:
    """W_excess, Hmax_exact and the effective ranks, of a linear predictor; `target` is (tr C_tt)^(1/2).

    P and F are scaled before their product, which would vanish at 1e-162 each.
    """
    size = np.abs(P).max(axis=(-2, -1))
    unit = np.where(size > 0, size, 1.0)
    predicted = (P / unit[..., None, None]) @ (wiener.U * wiener.S[..., None, :])
    excess = predicted * (unit * wiener.scale)[..., None, None] - wiener.T
    return {
        "W_excess": _log10(norm(excess), target),
        "Hmax_exact": wiener.H,
        **_rank_metrics(wiener.S, np.asarray(np.linalg.svd(predicted, compute_uv=False))),
    }


def _rank_metrics(S: Array, S_pred: Array) -> dict[str, Array]:
    """Effective ranks of the features and the predictions from the singular values of their factors."""
    relative = np.stack((S, S_pred))
    relative = relative / relative[..., :1]
    (encoded, pred), (sv_encoded, sv_pred) = effective_rank(np.stack((relative**2, relative)))
    return {
        "erank_encoded": encoded,
        "erank_pred": pred,
        "erank_sv_encoded": sv_encoded,
        "erank_sv_pred": sv_pred,
    }


def has_collapsed(now: Array | float, start: Array | float) -> NDArray[np.bool_]:
    """Whether all features have vanished, from `Hmax_exact` now and at epoch 0.

    Below `COLLAPSED` of the start, that is, features a thousandth as long: no mode is left, as Hmax_exact is the
    variance of the largest. Modes that die beside others that live are what the effective ranks show. False where a
    value is missing.
    """
    return np.asarray(np.less(now, COLLAPSED * np.asarray(start)))


def effective_rank(weights: Array) -> Array:
    """exp of the entropy of weights normalised to sum 1, over the last axis; NaN where all are zero.

    Roy and Vetterli, The Effective Rank, EUSIPCO 2007, where the weights are singular values; between 1 and their
    number.
    """
    scaled = weights / weights.max(axis=-1, keepdims=True)
    p = scaled / scaled.sum(axis=-1, keepdims=True)
    terms = np.where(p > 0, p * np.log(np.where(p > 0, p, 1.0)), 0.0)
    return np.asarray(np.where(np.isfinite(scaled[..., 0]), np.exp(-terms.sum(axis=-1)), np.nan))


def _predictor_metrics(P: Array, wiener: Wiener) -> dict[str, Array]:
    """W_Fro_aligned, W_Fro_raw and W_rel_sv_err, NaN where P* is not known; also the relative error of P* = 0."""
    P_star, known = wiener.P_star, wiener.known
    size = norm(P_star)
    unit = P_star / np.where(size > 0, size, 1.0)[..., None, None]
    O = _nearest_rotation(P @ np.swapaxes(unit, -1, -2))
    raw = norm(P - P_star)
    # The identity is one of the rotations, so rounding must not lift the minimum above it.
    aligned = np.minimum(norm(np.swapaxes(O, -1, -2) @ P - P_star), raw)
    s, s_star = np.linalg.svd(np.stack((P, P_star)), compute_uv=False)
    columns = {
        "W_Fro_aligned": _log10(aligned, size),
        "W_Fro_raw": _log10(raw, size),
        "W_rel_sv_err": np.where(size > 0, _finite(norm((s - s_star)[..., None, :]) / size), np.nan),
    }
    return {name: np.where(known, value, np.nan) for name, value in columns.items()}


def _finite(values: Array) -> Array:
    """NaN in place of what has left the range of a float."""
    return np.where(np.isfinite(values), values, np.nan)


def _log10(error: Array, size: Array) -> Array:
    argument = np.maximum(error, LOG_FLOOR * size)
    return np.where(argument > 0, np.log10(argument), np.nan)


def _row_space(b: Array, L: Array) -> tuple[Array, Array]:
    """Singular values of B_o = [b, L] and its orthonormal rows, in the basis of [b, L]."""
    _, sizes, rows = np.linalg.svd(np.concatenate([b, L], axis=-1), full_matrices=False)
    return np.asarray(sizes), np.asarray(rows)


def _encoder_metrics(b: Array, L: Array, sizes: Array, rows: Array, world: World, dtype: str) -> dict[str, Array]:
    """BA_err_aligned, enc_procrustes_fro and enc_proj_dist; NaN where they need what the world does not have.

    All three need a mixing matrix, and the first two as many rows as it has columns. The projector distance is computed
    from sines, (r - rank) + 2 norm(rows outside the span of A)^2 with the rank and the row space of B_o: the difference
    of the projectors itself would lose half the digits near zero.
    """
    r, nothing = world.r, np.full(b.shape[:-2], np.nan)
    columns = {"BA_err_aligned": nothing, "enc_procrustes_fro": nothing, "enc_proj_dist": nothing}
    if r is None or world.A_pinv_inside is None:
        return columns
    in_rank = _in_rank(sizes, dtype)
    rank = in_rank.sum(axis=-1)
    sines = np.where(in_rank, (rows[..., r:] ** 2).sum(axis=-1), 0.0).sum(axis=-1)
    columns["enc_proj_dist"] = np.where(rank > 0, np.sqrt(np.maximum((r - rank) + 2 * sines, 0.0)), np.nan)
    if b.shape[-2] == r:
        R_t = np.swapaxes(_nearest_rotation(b @ world.A_pinv_inside.T), -1, -2)
        inside, outside = norm(R_t @ b - world.A_pinv_inside), norm(L)
        columns["BA_err_aligned"] = norm(R_t @ (b[..., :r] @ world.R[:r, :r]) - np.eye(r))
        columns["enc_procrustes_fro"] = np.sqrt(inside**2 + outside**2)
    return columns


def _in_rank(s: Array, dtype: str) -> NDArray[np.bool_]:
    """Which singular values, in descending order, count in the rank of a matrix."""
    cutoff = max(RANK_CUTOFF, ZERO * float(np.finfo(dtype).eps))
    return np.asarray((s > cutoff * s[..., :1]) & (s > 0))


def _nearest_rotation(M: Array) -> Array:
    """U V^T of M = U S V^T: the orthogonal O that maximises tr(O^T M)."""
    U, _, Vt = np.linalg.svd(M)
    return np.asarray(U @ Vt)
