"""Naive oracle of the linear model: the definitions written out literally, slow on purpose.

It imports nothing of the package, so that agreement with it says something. The dynamics are loops over samples with
the chain rule written out; the metrics form d x d matrices and use pinv, svd and eigvalsh as the definitions read. The
metrics square their inputs (C_oo = B_o Sigma_x B_o^T), so near collapse, where the singular values of B_o spread over
more than about six decades, they lose digits: compare there with a wide tolerance, or not at all.

Shapes: A (d, r), lam (r,), B_o and B_t (r, d), P (r, r); one sample: zeta (r,), eps (d,), eps_plus (d,).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from scipy.optimize import brentq

Array = np.ndarray
# loss, grad_P and grad_B (without weight decay), covariance of z_o: all at the parameters handed in
Evaluation = tuple[float, Array, Array, Array]

COVARIANCE_RATE = 0.1  # S <- 0.9 S + 0.1 C
FIRST_POWER_ITERS = 100
FLOOR_OF_FIRST_H = 1e-3
ABSOLUTE_FLOOR = 1e-12
CAP = 0.99
WIENER_RCOND = 1e-12  # on the eigenvalues of C_oo, hence about 1e-6 on the singular values of B_o
RANK_RTOL = 1e-10
LOG_FLOOR = 2.0**-52


# ---------------------------------------------------------------------------------------------------------------------
# trajectories
# ---------------------------------------------------------------------------------------------------------------------


def trajectory(
    A: Array,
    lam: Array,
    sigma: float,
    B_o: Array,
    P: Array,
    draws: Sequence[tuple[Array, Array, Array]],
    *,
    mu_P: float,
    mu_B: float,
    tau: float,
    eta: float,
    pred_every: int,
    enc_every: int,
    alpha: float | None = None,
    beta: float | None = None,
    c_alpha: float = 0.0,
    c_beta: float = 0.0,
    power_iters: int = 1,
    auto_every: int = 10,
    log_every: int = 1,
    Sigma_x_max: float | None = None,
    noise_cap: bool = False,
) -> list[dict[str, Any]]:
    """Minibatch run on given white draws: step t = 1..T uses draws[t - 1] = (zeta (n, r), eps (n, d), eps_plus (n, d)).

    z = sqrt(lam) zeta, x = A z + sigma eps, x+ = A z + sigma eps_plus; B_t starts at B_o. A rate given as None follows
    the auto schedule with its constant c; alpha stays below half its mean-square limit too with a `noise_cap`.
    See `_descend` for the step and for the rows returned.
    """

    def evaluate(t: int, P: Array, B_o: Array, B_t: Array) -> Evaluation:
        x, x_plus = views(A, lam, sigma, *draws[t - 1])
        return sample_gradients(P, B_o, B_t, x, x_plus)

    return _descend(
        A, lam, sigma, B_o, P, evaluate, range(1, len(draws) + 1),
        mu_P=mu_P, mu_B=mu_B, tau=tau, eta=eta, pred_every=pred_every, enc_every=enc_every, alpha=alpha, beta=beta,
        c_alpha=c_alpha, c_beta=c_beta, power_iters=power_iters, auto_every=auto_every, log_every=log_every,
        Sigma_x_max=Sigma_x_max, noise_n=len(draws[0][0]) if noise_cap else None,
    )  # fmt: skip


def population_trajectory(
    A: Array,
    lam: Array,
    sigma: float,
    B_o: Array,
    P: Array,
    epochs: int,
    *,
    mu_P: float,
    mu_B: float,
    tau: float,
    eta: float,
    pred_every: int,
    enc_every: int,
    alpha: float | None = None,
    beta: float | None = None,
    c_alpha: float = 0.0,
    c_beta: float = 0.0,
    power_iters: int = 1,
    auto_every: int = 10,
    log_every: int = 1,
    Sigma_x_max: float | None = None,
) -> list[dict[str, Any]]:
    """Run of the population sampler (n -> infinity): G = P B_o Sigma_x - B_t Sigma_s and C = C_oo in place of means."""

    def evaluate(t: int, P: Array, B_o: Array, B_t: Array) -> Evaluation:
        return population_gradients(P, B_o, B_t, A, lam, sigma)

    return _descend(
        A, lam, sigma, B_o, P, evaluate, range(1, epochs + 1),
        mu_P=mu_P, mu_B=mu_B, tau=tau, eta=eta, pred_every=pred_every, enc_every=enc_every, alpha=alpha, beta=beta,
        c_alpha=c_alpha, c_beta=c_beta, power_iters=power_iters, auto_every=auto_every, log_every=log_every,
        Sigma_x_max=Sigma_x_max, noise_n=None,
    )  # fmt: skip


def _descend(
    A: Array,
    lam: Array,
    sigma: float,
    B_o: Array,
    P: Array,
    evaluate: Callable[[int, Array, Array, Array], Evaluation],
    steps: Iterable[int],
    *,
    mu_P: float,
    mu_B: float,
    tau: float,
    eta: float,
    pred_every: int,
    enc_every: int,
    alpha: float | None,
    beta: float | None,
    c_alpha: float,
    c_beta: float,
    power_iters: int,
    auto_every: int,
    log_every: int,
    Sigma_x_max: float | None,
    noise_n: int | None,
) -> list[dict[str, Any]]:
    """The steps, in the order of the contract.

    Step t: (1) loss, gradients and covariance at the parameters before the step; (2) on a tick of the clock
    t = 1, 1 + auto_every, ... the curvature estimate; the rates; (3) if t is a multiple of the parameter's period,
    V <- mu V + grad + eta param and param <- param - rate V, otherwise neither moves; (4) B_t <- (1 - tau) B_t +
    tau B_o with the new B_o.

    Rows: epoch, loss (of step t: before it; population loss at epoch 0), P, B_o, B_t (copies, after step t), Hmax (not
    floored; nan at epoch 0), lr_pred_t, lr_enc_t (used by step t; at epoch 0 the fixed rate, or nan for a scheduled
    one), tau_t, and counts of steps so far: n_cap_pred, n_cap_enc (the scheduled rate met its cap) and n_floor (H was
    floored while at least one rate followed the schedule).
    """
    P, B_o, B_t = np.array(P, float), np.array(B_o, float), np.array(B_o, float)
    V_P, V_B = np.zeros_like(P), np.zeros_like(B_o)
    if Sigma_x_max is None:
        Sigma_x_max = float(np.linalg.eigvalsh(covariances(A, lam, sigma)[1])[-1])
    curvature = CurvatureEstimate(P.shape[0], power_iters)
    n_cap_pred = n_cap_enc = n_floor = 0
    steps = list(steps)

    def row(epoch: int, loss: float, H: float, alpha_t: float, beta_t: float) -> dict[str, Any]:
        return {
            "epoch": epoch, "loss": loss, "P": P.copy(), "B_o": B_o.copy(), "B_t": B_t.copy(), "Hmax": H,
            "lr_pred_t": alpha_t, "lr_enc_t": beta_t, "tau_t": tau,
            "n_cap_pred": n_cap_pred, "n_cap_enc": n_cap_enc, "n_floor": n_floor,
        }  # fmt: skip

    loss_0 = population_loss(P, B_o, B_t, A, lam, sigma)
    rows = [row(0, loss_0, math.nan, math.nan if alpha is None else alpha, math.nan if beta is None else beta)]

    for t in steps:
        loss, grad_P, grad_B, C = evaluate(t, P, B_o, B_t)
        grad_P = grad_P + eta * P
        grad_B = grad_B + eta * B_o

        if (t - 1) % auto_every == 0:
            curvature.tick(C)
        H_used = max(curvature.H, curvature.H_floor)
        if (alpha is None or beta is None) and curvature.H_floor > curvature.H:
            n_floor += 1
        if alpha is None:
            wanted, cap = c_alpha * tau / H_used, heavy_ball_cap(mu_P, H_used + eta)
            if noise_n is not None:
                cap = min(cap, mean_square_cap(mu_P, curvature.C_bar, noise_n))
            n_cap_pred += int(wanted > cap)
            alpha_t = min(wanted, cap)
        else:
            alpha_t = alpha
        if beta is None:
            wanted, cap = (
                c_beta * tau / H_used,
                heavy_ball_cap(mu_B, Sigma_x_max * float(np.linalg.norm(P, 2)) ** 2 + eta),
            )
            n_cap_enc += int(wanted > cap)
            beta_t = min(wanted, cap)
        else:
            beta_t = beta

        if t % pred_every == 0:
            V_P = mu_P * V_P + grad_P
            P = P - alpha_t * V_P
        if t % enc_every == 0:
            V_B = mu_B * V_B + grad_B
            B_o = B_o - beta_t * V_B
        B_t = (1.0 - tau) * B_t + tau * B_o

        if t % log_every == 0 or t == steps[-1]:
            rows.append(row(t, loss, curvature.H, alpha_t, beta_t))
    return rows


class CurvatureEstimate:
    """H, an estimate of lambda_max(C_oo): power iteration on a bias-corrected moving average of the covariances.

    Tick k: S <- 0.9 S + 0.1 C, C_bar = S / (1 - 0.9^k), some times v <- C_bar v / ||C_bar v||, H = v^T C_bar v.
    """

    def __init__(self, r: int, power_iters: int) -> None:
        self.S = np.zeros((r, r))
        self.v = np.ones(r) / math.sqrt(r)
        self.k = 0
        self.power_iters = power_iters
        self.C_bar = self.S
        self.H = math.nan
        self.H_floor = math.nan

    def tick(self, C: Array) -> None:
        """Take in one covariance; sets H, and at the first tick H_floor = max(1e-3 H, 1e-12)."""
        self.k += 1
        self.S = (1.0 - COVARIANCE_RATE) * self.S + COVARIANCE_RATE * C
        C_bar = self.C_bar = self.S / (1.0 - (1.0 - COVARIANCE_RATE) ** self.k)
        for _ in range(FIRST_POWER_ITERS if self.k == 1 else self.power_iters):
            w = C_bar @ self.v
            norm = float(np.linalg.norm(w))
            if norm > 0.0:
                self.v = w / norm
        self.H = float(self.v @ C_bar @ self.v)
        if self.k == 1:
            self.H_floor = max(FLOOR_OF_FIRST_H * self.H, ABSOLUTE_FLOOR)


def heavy_ball_cap(mu: float, curvature: float) -> float:
    """0.99 of the heavy-ball limit 2 (1 + mu) / curvature; infinite where there is no curvature."""
    return CAP * 2.0 * (1.0 + mu) / curvature if curvature > 0.0 else math.inf


def mean_square_cap(mu: float, C: Array, n: int) -> float:
    """Half of the least alpha with (alpha / n) sum_j c_j / (2 (1 - mu) - alpha c_j ((1 - mu) / (1 + mu) + 1 / n)) = 1.

    c_j are the eigenvalues of C; infinite where there is no curvature.
    """
    c = np.maximum(np.linalg.eigvalsh(C), 0.0)
    if not c.max() > 0.0:
        return math.inf
    c_of_1 = c / c.max()  # of alpha times the largest

    def excess(x: float) -> float:
        return float(sum(x / n * c_j / (2.0 * (1.0 - mu) - x * c_j * g) for c_j in c_of_1)) - 1.0

    g = (1.0 - mu) / (1.0 + mu) + 1.0 / n
    pole = 2.0 * (1.0 - mu) / g
    root = float(brentq(excess, 0.0, pole * (1.0 - 1e-14), xtol=1e-300, rtol=1e-15))
    return 0.5 * root / float(c.max())


# ---------------------------------------------------------------------------------------------------------------------
# losses and gradients
# ---------------------------------------------------------------------------------------------------------------------


def views(A: Array, lam: Array, sigma: float, zeta: Array, eps: Array, eps_plus: Array) -> tuple[Array, Array]:
    """Two views of each sample, one per row: z = sqrt(lam) zeta, x = A z + sigma eps, x+ = A z + sigma eps_plus."""
    x, x_plus = np.zeros(eps.shape), np.zeros(eps_plus.shape)
    for i in range(len(zeta)):
        z = np.sqrt(lam) * zeta[i]
        x[i] = A @ z + sigma * eps[i]
        x_plus[i] = A @ z + sigma * eps_plus[i]
    return x, x_plus


def sample_loss(P: Array, B_o: Array, B_t: Array, x: Array, x_plus: Array) -> float:
    """(1/n) sum_i 1/2 ||P B_o x_i - B_t x+_i||^2."""
    n = len(x)
    loss = 0.0
    for i in range(n):
        delta = P @ (B_o @ x[i]) - B_t @ x_plus[i]
        loss += 0.5 * float(delta @ delta) / n
    return loss


def sample_gradients(P: Array, B_o: Array, B_t: Array, x: Array, x_plus: Array) -> Evaluation:
    """Chain rule sample by sample, B_t held fixed: delta z_o^T for P, (P^T delta) x^T for B_o; and mean z_o z_o^T."""
    n = len(x)
    loss, grad_P, grad_B, C = 0.0, np.zeros(P.shape), np.zeros(B_o.shape), np.zeros(P.shape)
    for i in range(n):
        z_o = B_o @ x[i]
        z_t = B_t @ x_plus[i]
        p = P @ z_o
        delta = p - z_t
        loss += 0.5 * float(delta @ delta) / n
        grad_P += np.outer(delta, z_o) / n
        grad_B += np.outer(P.T @ delta, x[i]) / n
        C += np.outer(z_o, z_o) / n
    return loss, grad_P, grad_B, C


def sample_gradients_fd(
    P: Array, B_o: Array, B_t: Array, x: Array, x_plus: Array, eta: float = 0.0, h: float = 1e-3
) -> tuple[Array, Array]:
    """Central differences of sample_loss + (eta/2)(||P||_F^2 + ||B_o||_F^2) in each entry of P and of B_o, B_t fixed.

    In any one entry the objective is a quadratic, for which central differences have no truncation error: h is chosen
    for rounding alone.
    """

    def objective(P: Array, B_o: Array) -> float:
        return sample_loss(P, B_o, B_t, x, x_plus) + 0.5 * eta * (float(np.sum(P**2)) + float(np.sum(B_o**2)))

    grad_P, grad_B = np.zeros(P.shape), np.zeros(B_o.shape)
    for index in np.ndindex(*P.shape):
        step = np.zeros(P.shape)
        step[index] = h
        grad_P[index] = (objective(P + step, B_o) - objective(P - step, B_o)) / (2.0 * h)
    for index in np.ndindex(*B_o.shape):
        step = np.zeros(B_o.shape)
        step[index] = h
        grad_B[index] = (objective(P, B_o + step) - objective(P, B_o - step)) / (2.0 * h)
    return grad_P, grad_B


def covariances(A: Array, lam: Array, sigma: float) -> tuple[Array, Array]:
    """Sigma_s = A Lambda A^T and Sigma_x = Sigma_s + sigma^2 I, both (d, d)."""
    Sigma_s = A @ np.diag(lam) @ A.T
    return Sigma_s, Sigma_s + sigma**2 * np.eye(A.shape[0])


def population_loss(P: Array, B_o: Array, B_t: Array, A: Array, lam: Array, sigma: float) -> float:
    """1/2 E||P B_o x - B_t x+||^2 = 1/2 tr(P B_o Sigma_x B_o^T P^T - 2 P B_o Sigma_s B_t^T + B_t Sigma_x B_t^T)."""
    Sigma_s, Sigma_x = covariances(A, lam, sigma)
    predicted = np.trace(P @ B_o @ Sigma_x @ B_o.T @ P.T)
    cross = np.trace(P @ B_o @ Sigma_s @ B_t.T)
    target = np.trace(B_t @ Sigma_x @ B_t.T)
    return float(0.5 * (predicted - 2.0 * cross + target))


def population_gradients(P: Array, B_o: Array, B_t: Array, A: Array, lam: Array, sigma: float) -> Evaluation:
    """G = P B_o Sigma_x - B_t Sigma_s; G B_o^T for P, P^T G for B_o; and C_oo = B_o Sigma_x B_o^T."""
    Sigma_s, Sigma_x = covariances(A, lam, sigma)
    G = P @ B_o @ Sigma_x - B_t @ Sigma_s
    return population_loss(P, B_o, B_t, A, lam, sigma), G @ B_o.T, P.T @ G, B_o @ Sigma_x @ B_o.T


# ---------------------------------------------------------------------------------------------------------------------
# metrics
# ---------------------------------------------------------------------------------------------------------------------


def metrics(P: Array, B_o: Array, B_t: Array, A: Array, lam: Array, sigma: float) -> dict[str, float | None]:
    """Every metric that is a function of the state, from its definition; None for null.

    Not here: loss, Hmax and the rates, which the trajectory returns. Beyond B_o = 0, None also stands where a
    definition divides by zero or takes the entropy of nothing: erank_pred at P C_oo P^T = 0, P_asymmetry and
    commutator at P = 0, W_rel_sv_err at P* = 0, W_Fro_* where both the error and P* are 0, loss_rel at C_tt = 0,
    W_excess where the loss is 0 too, and span_err where the gains w_k and w_k+1 have one modulus. Digits are lost near
    collapse (see the top of the file).
    """
    r = P.shape[0]
    Sigma_s, Sigma_x = covariances(A, lam, sigma)
    C_oo = B_o @ Sigma_x @ B_o.T
    C_to = B_t @ Sigma_s @ B_o.T
    C_tt = B_t @ Sigma_x @ B_t.T
    A_pinv = np.linalg.pinv(A)
    R = procrustes(B_o, A_pinv)
    of_nothing = population_loss(np.zeros((r, r)), B_o, B_t, A, lam, sigma)
    P_star = C_to @ np.linalg.pinv(C_oo, rcond=WIENER_RCOND, hermitian=True)
    excess = float(np.trace((P - P_star) @ C_oo @ (P - P_star).T))

    out: dict[str, float | None] = {
        "loss_pop": population_loss(P, B_o, B_t, A, lam, sigma),
        "loss_rel": population_loss(P, B_o, B_t, A, lam, sigma) / of_nothing if of_nothing > 0.0 else None,
        "W_excess": floored_log10(math.sqrt(max(excess, 0.0)), math.sqrt(float(np.trace(C_tt)))),
        "BA_err_aligned": float(np.linalg.norm(R.T @ B_o @ A - np.eye(r))),
        "enc_procrustes_fro": float(np.linalg.norm(R.T @ B_o - A_pinv)),
        "Hmax_exact": float(np.linalg.eigvalsh(C_oo)[-1]),
        "gap": float(np.linalg.norm(B_o - B_t)),
        "P_asymmetry": float(np.linalg.norm(P - P.T) / np.linalg.norm(P)) if np.any(P) else None,
        "commutator": None,
        "gain_err": gain_error(P, Sigma_x, Sigma_s),
    }
    encoded = ["span_err", "W_Fro_aligned", "W_Fro_raw", "W_rel_sv_err", "enc_proj_dist"]
    encoded += ["erank_encoded", "erank_pred", "erank_sv_encoded", "erank_sv_pred"]
    if not np.any(B_o):
        return out | dict.fromkeys(encoded)

    O = procrustes(P, P_star)
    out["W_Fro_aligned"] = floored_log10(float(np.linalg.norm(O.T @ P - P_star)), float(np.linalg.norm(P_star)))
    out["W_Fro_raw"] = floored_log10(float(np.linalg.norm(P - P_star)), float(np.linalg.norm(P_star)))
    s, s_star = np.linalg.svd(P, compute_uv=False), np.linalg.svd(P_star, compute_uv=False)
    size = float(np.linalg.norm(s_star))
    out["W_rel_sv_err"] = float(np.linalg.norm(s - s_star)) / size if size > 0.0 else None
    out["enc_proj_dist"] = float(np.linalg.norm(row_projector(B_o) - row_projector(A_pinv)))
    out["span_err"] = span_error(B_o, Sigma_x, Sigma_s)
    if np.any(P):
        sizes = np.linalg.norm(P) * np.linalg.norm(C_oo)
        out["commutator"] = float(np.linalg.norm(P @ C_oo - C_oo @ P) / sizes)
    out["erank_encoded"] = effective_rank(C_oo)
    out["erank_pred"] = effective_rank(P @ C_oo @ P.T)
    out["erank_sv_encoded"] = effective_rank(C_oo, square_root=True)
    out["erank_sv_pred"] = effective_rank(P @ C_oo @ P.T, square_root=True)
    return out


def wiener_gains(Sigma_x: Array, Sigma_px: Array) -> tuple[Array, Array, Array]:
    """Eigenvalues by descending modulus and eigenvectors of Sigma_x^-1/2 Sigma_px Sigma_x^-1/2; and Sigma_x^1/2."""
    values, U = np.linalg.eigh(Sigma_x)
    inside = values > 1e-12 * values[-1]
    root = U @ np.diag(np.sqrt(np.where(inside, values, 0.0))) @ U.T
    inverse = np.linalg.pinv(root, rcond=1e-7, hermitian=True)
    gains, V = np.linalg.eigh(inverse @ Sigma_px @ inverse)
    order = np.argsort(-np.abs(gains))
    return gains[order], V[:, order], root


def gain_error(P: Array, Sigma_x: Array, Sigma_px: Array) -> float:
    """||eigenvalues of P - (w_1, ..., w_k)||, both by descending modulus."""
    eigenvalues = sorted(np.linalg.eigvals(P), key=lambda v: (-abs(v), -v.real, -v.imag))
    gains = wiener_gains(Sigma_x, Sigma_px)[0]
    return math.sqrt(sum(abs(v - w) ** 2 for v, w in zip(eigenvalues, gains, strict=False)))


def span_error(B_o: Array, Sigma_x: Array, Sigma_px: Array) -> float | None:
    """||projector on the rows of B_o Sigma_x^1/2 - projector on the first k directions||; None if w_k and w_k+1 tie."""
    k, d = B_o.shape
    gains, V, root = wiener_gains(Sigma_x, Sigma_px)
    if k < d and abs(gains[k - 1]) - abs(gains[k]) <= 1e-9 * abs(gains[0]):
        return None
    return float(np.linalg.norm(row_projector(B_o @ root) - V[:, :k] @ V[:, :k].T))


def procrustes(X: Array, Y: Array) -> Array:
    """argmin over O in O(r) of ||O^T X - Y||_F = U V^T, with X Y^T = U S V^T."""
    U, _, Vt = np.linalg.svd(X @ Y.T)
    return np.asarray(U @ Vt)


def row_projector(X: Array) -> Array:
    """Orthogonal projector (d, d) on the row span of X; directions with s <= 1e-10 s_max do not count."""
    _, s, Vt = np.linalg.svd(X, full_matrices=False)
    kept = Vt[s > RANK_RTOL * s[0]]
    return np.asarray(kept.T @ kept)


def effective_rank(C: Array, square_root: bool = False) -> float | None:
    """exp(-sum q log q), q the normalised eigenvalues of C >= 0 (or their square roots); None at C = 0."""
    weights = np.clip(np.linalg.eigvalsh((C + C.T) / 2.0), 0.0, None)
    if square_root:
        weights = np.sqrt(weights)
    total = float(weights.sum())
    if total == 0.0:
        return None
    entropy = 0.0
    for q in weights / total:
        if q > 0.0:
            entropy -= float(q * math.log(q))
    return math.exp(entropy)


def floored_log10(value: float, reference: float) -> float | None:
    """log10 max(value, 2^-52 reference); None where both are 0."""
    floored = max(value, LOG_FLOOR * reference)
    return math.log10(floored) if floored > 0.0 else None
