"""The oracle of naive.py checked by itself: finite differences, torch's autograd and optimiser, known states."""

from __future__ import annotations

import math

import naive
import numpy as np
import pytest

Array = np.ndarray


def problem(
    seed: int = 0, r: int = 3, d: int = 7, n: int = 5, steps: int = 40
) -> tuple[Array, Array, Array, Array, list[tuple[Array, Array, Array]]]:
    """A generic world (A not orthonormal), start and white draws: A, lam, B_o, P, draws."""
    rng = np.random.default_rng(seed)
    A = rng.normal(size=(d, r)) / math.sqrt(d)
    lam = np.sort(rng.uniform(0.5, 3.0, r))[::-1]
    B_o = rng.normal(size=(r, d)) / math.sqrt(d)
    P = rng.normal(size=(r, r)) / math.sqrt(r)
    draws = [(rng.normal(size=(n, r)), rng.normal(size=(n, d)), rng.normal(size=(n, d))) for _ in range(steps)]
    return A, lam, B_o, P, draws


def test_gradients_equal_finite_differences() -> None:
    A, lam, B_o, P, draws = problem()
    B_t = B_o + 0.3 * problem(seed=1)[2]
    x, x_plus = naive.views(A, lam, 0.5, *draws[0])
    eta = 0.07
    loss, grad_P, grad_B, C = naive.sample_gradients(P, B_o, B_t, x, x_plus)
    fd_P, fd_B = naive.sample_gradients_fd(P, B_o, B_t, x, x_plus, eta=eta)
    # no truncation error (quadratic in each entry), so what is left is rounding: about 1e-16 / h
    np.testing.assert_allclose(grad_P + eta * P, fd_P, atol=1e-11)
    np.testing.assert_allclose(grad_B + eta * B_o, fd_B, atol=1e-11)
    assert loss == pytest.approx(naive.sample_loss(P, B_o, B_t, x, x_plus), rel=1e-14)
    np.testing.assert_allclose(C, (x @ B_o.T).T @ (x @ B_o.T) / len(x), atol=1e-14)


def test_population_is_the_sample_formula_on_exact_moments() -> None:
    """A point set with exactly the population's second moments gives the population's loss, gradients and C_oo."""
    A, lam, B_o, P, _ = problem()
    d, r = A.shape
    B_t = B_o + 0.3 * problem(seed=1)[2]
    N = r + 2 * d
    white = math.sqrt(N) * np.eye(N)  # mean of w w^T over its rows is exactly the identity
    x, x_plus = naive.views(A, lam, 0.5, white[:, :r], white[:, r : r + d], white[:, r + d :])
    of_points = naive.sample_gradients(P, B_o, B_t, x, x_plus)
    of_population = naive.population_gradients(P, B_o, B_t, A, lam, 0.5)
    for left, right in zip(of_points, of_population, strict=True):
        np.testing.assert_allclose(left, right, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize(
    ("eta", "pred_every", "enc_every", "tau"), [(0.0, 1, 1, 0.01), (0.05, 2, 3, 0.2), (0.01, 3, 1, 0.0)]
)
def test_trajectory_is_torch_sgd_with_an_ema(eta: float, pred_every: int, enc_every: int, tau: float) -> None:
    torch = pytest.importorskip("torch")
    A, lam, B_o, P, draws = problem()
    sigma, alpha, beta, mu_P, mu_B = 0.5, 0.03, 0.02, 0.9, 0.8
    rows = naive.trajectory(
        A, lam, sigma, B_o, P, draws,
        mu_P=mu_P, mu_B=mu_B, tau=tau, eta=eta, pred_every=pred_every, enc_every=enc_every, alpha=alpha, beta=beta,
    )  # fmt: skip
    assert [row["epoch"] for row in rows] == list(range(len(draws) + 1))

    def tensor(a: Array) -> torch.Tensor:
        return torch.tensor(a, dtype=torch.float64)

    weight_P, weight_B, target = tensor(P).requires_grad_(), tensor(B_o).requires_grad_(), tensor(B_o)
    opt_P = torch.optim.SGD([weight_P], lr=alpha, momentum=mu_P, weight_decay=eta)
    opt_B = torch.optim.SGD([weight_B], lr=beta, momentum=mu_B, weight_decay=eta)
    for t, (zeta, eps, eps_plus) in enumerate(draws, start=1):
        signal = tensor(zeta * np.sqrt(lam)) @ tensor(A).T
        x, x_plus = signal + sigma * tensor(eps), signal + sigma * tensor(eps_plus)
        loss = 0.5 * ((x @ weight_B.T @ weight_P.T - x_plus @ target.T) ** 2).sum(dim=1).mean()
        opt_P.zero_grad()
        opt_B.zero_grad()
        loss.backward()
        if t % pred_every == 0:
            opt_P.step()
        if t % enc_every == 0:
            opt_B.step()
        target = (1.0 - tau) * target + tau * weight_B.detach()
        row = rows[t]
        assert row["loss"] == pytest.approx(loss.item(), rel=1e-10)
        np.testing.assert_allclose(row["P"], weight_P.detach().numpy(), atol=1e-10)
        np.testing.assert_allclose(row["B_o"], weight_B.detach().numpy(), atol=1e-10)
        np.testing.assert_allclose(row["B_t"], target.numpy(), atol=1e-10)


def test_schedule_gives_the_rates_it_promises() -> None:
    """Logging does not change the run; the rates are c tau / H on the clock's H; the clock's first H is exact."""
    A, lam, B_o, P, draws = problem(steps=25)
    options = dict(mu_P=0.9, mu_B=0.9, tau=0.02, eta=0.0, pred_every=1, enc_every=1, c_alpha=0.4, c_beta=0.2)
    rows = naive.trajectory(A, lam, 0.5, B_o, P, draws, **options)
    sparse = naive.trajectory(A, lam, 0.5, B_o, P, draws, log_every=10, **options)
    assert [row["epoch"] for row in sparse] == [0, 10, 20, 25]
    np.testing.assert_array_equal(sparse[-1]["B_o"], rows[-1]["B_o"])

    assert math.isnan(rows[0]["Hmax"]) and math.isnan(rows[0]["lr_pred_t"]) and math.isnan(rows[0]["lr_enc_t"])
    x, x_plus = naive.views(A, lam, 0.5, *draws[0])
    C = naive.sample_gradients(P, B_o, B_o, x, x_plus)[3]
    assert rows[1]["Hmax"] == pytest.approx(np.linalg.eigvalsh(C)[-1], rel=1e-6)
    for row in rows[1:]:
        assert row["Hmax"] == rows[row["epoch"] - (row["epoch"] - 1) % 10]["Hmax"]  # it moves at 1, 11, 21 only
        assert row["lr_pred_t"] == pytest.approx(0.4 * 0.02 / row["Hmax"])
        assert row["lr_enc_t"] == pytest.approx(0.2 * 0.02 / row["Hmax"])

    # constants far too large: both rates sit at 0.99 of the heavy-ball limits, and each step is counted
    capped = naive.trajectory(A, lam, 0.5, B_o, P, draws[:1], **(options | dict(c_alpha=1e9, c_beta=1e9)))[-1]
    Sigma_x_max = np.linalg.eigvalsh(naive.covariances(A, lam, 0.5)[1])[-1]
    assert capped["lr_pred_t"] == pytest.approx(0.99 * 2 * 1.9 / capped["Hmax"])
    assert capped["lr_enc_t"] == pytest.approx(0.99 * 2 * 1.9 / (Sigma_x_max * np.linalg.norm(P, 2) ** 2))
    assert (capped["n_cap_pred"], capped["n_cap_enc"], capped["n_floor"]) == (1, 1, 0)


def test_metrics_at_the_ideal_state() -> None:
    """Orthonormal A, B_o = B_t = A^T, P = P* = diag(lam / (lam + sigma^2)); and the same with rotated features."""
    rng = np.random.default_rng(3)
    r, d, sigma = 4, 9, 0.5
    A = np.linalg.qr(rng.normal(size=(d, r)))[0]
    lam = np.array([4.0, 2.0, 1.0, 0.5])
    gain = lam / (lam + sigma**2)
    rotation = np.linalg.qr(rng.normal(size=(r, r)))[0]
    for O in (np.eye(r), rotation):
        m = naive.metrics(O @ np.diag(gain) @ O.T, O @ A.T, O @ A.T, A, lam, sigma)
        assert m["W_Fro_raw"] < -14 and m["W_Fro_aligned"] < -14
        for name in (
            "W_rel_sv_err",
            "BA_err_aligned",
            "enc_procrustes_fro",
            "enc_proj_dist",
            "gap",
            "P_asymmetry",
            "commutator",
            "gain_err",
            "span_err",
        ):
            assert m[name] == pytest.approx(0.0, abs=1e-13)
        assert m["Hmax_exact"] == pytest.approx(lam[0] + sigma**2)
        # 1/2 sum_j [gain^2 (lam + s2) - 2 gain lam + lam + s2] = 1/2 sum_j [(lam + s2) - lam^2 / (lam + s2)]
        assert m["loss_pop"] == pytest.approx(0.5 * np.sum(lam + sigma**2 - gain * lam))
        q = (lam + sigma**2) / np.sum(lam + sigma**2)
        assert m["erank_encoded"] == pytest.approx(math.exp(-np.sum(q * np.log(q))))
        q = gain * np.sqrt(lam + sigma**2) / np.sum(gain * np.sqrt(lam + sigma**2))
        assert m["erank_sv_pred"] == pytest.approx(math.exp(-np.sum(q * np.log(q))))


def test_metrics_are_null_where_the_contract_says_so() -> None:
    A, lam, B_o, P, _ = problem()
    r = len(lam)
    m = naive.metrics(P, np.zeros_like(B_o), B_o, A, lam, 0.5)
    null = {"W_Fro_aligned", "W_Fro_raw", "W_rel_sv_err", "enc_proj_dist", "span_err", "commutator"}
    null |= {"erank_encoded", "erank_pred", "erank_sv_encoded", "erank_sv_pred"}
    assert {name for name, value in m.items() if value is None} == null
    assert m["BA_err_aligned"] == pytest.approx(math.sqrt(r))
    assert m["enc_procrustes_fro"] == pytest.approx(np.linalg.norm(np.linalg.pinv(A)))
    assert m["gap"] == pytest.approx(np.linalg.norm(B_o))
    at_start = naive.metrics(np.zeros_like(P), B_o, B_o, A, lam, 0.5)  # zero_pred: only P's own ranks have no meaning
    assert {name for name, value in at_start.items() if value is None} == {
        "erank_pred", "erank_sv_pred", "P_asymmetry", "commutator",
    }  # fmt: skip
    assert at_start["W_rel_sv_err"] == pytest.approx(1.0)
