"""One step of the reference is that which autograd makes of the loss alone, over the whole space of rules and losses.

The torch side knows no formula of the program: it draws the same views, forms the loss, detaches what is not to be
differentiated, and lets `torch.optim.SGD` move the parameters.
"""

from __future__ import annotations

from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
from hypothesis import given, settings

from byolsim.backends.plain.backend import rules_of, start_of
from byolsim.backends.plain.samplers import sampler_class
from byolsim.config.run import RunConfig
from byolsim.model.start import Start
from byolsim.model.state import State
from byolsim.model.step import step
from byolsim.model.world import World

torch = pytest.importorskip("torch")

RULES = ("learned", "identity", "optimal", "directpred", "directcopy", "spectral")


@st.composite
def configurations(draw: Any) -> RunConfig:
    """Any rule, loss, Jacobian, depth, decay and schedule, in a world of any kind."""
    r = draw(st.integers(1, 4))
    options: dict[str, Any] = {
        "backend": "numpy",
        "d_latent": r,
        "d_obs": r + draw(st.integers(2, 6)),
        "d_embed": draw(st.integers(1, r + 2)),
        "latent_spectrum": "geometric:0.5:3",
        "seed": draw(st.integers(0, 5)),
        "batch_size": draw(st.integers(1, 9)),
        "epochs": 3,
        "sampler": draw(st.sampled_from(("minibatch", "population"))),
        "pred_rule": draw(st.sampled_from(RULES)),
        "init": draw(st.sampled_from(("random", "modes"))),
        "correlation": draw(st.sampled_from((None, "flat:0.6", "linear:-0.9:1"))),
        "sigma_n_target": draw(st.sampled_from((None, 0.0, 1.0))),
        "d_nuisance": draw(st.sampled_from((None, 1, 2))),
        "enc_depth": draw(st.integers(1, 3)),
        "pred_jacobian": draw(st.sampled_from((None, "straight"))),
        "stop_grad": draw(st.booleans()),
        "symmetric_loss": draw(st.sampled_from((None, True))),
        "weight_decay": draw(st.sampled_from((0.0, 0.03))),
        "weight_decay_enc": draw(st.sampled_from((None, 0.01))),
        "mom_pred": 0.5,
        "mom_enc": 0.3,
        "lr_enc": 0.01,
        "warmup": draw(st.sampled_from((None, 2))),
        "lr_schedule": draw(st.sampled_from((None, "cosine"))),
    }
    if options["stop_grad"]:
        options |= {"tau": 0.2, "ema_schedule": draw(st.sampled_from((None, "cosine")))}
    if options["pred_rule"] == "learned":
        options |= {"lr_pred": 0.02, "pred_symmetric": draw(st.sampled_from((None, True)))}
        options |= {"weight_decay_pred": draw(st.sampled_from((None, 0.02)))}
    if options["pred_rule"] in ("directpred", "directcopy", "spectral"):
        options |= {
            "pred_norm": draw(st.sampled_from((None, "max"))),
            "pred_corr": draw(st.sampled_from((None, "BBT"))),
        }
        options |= {"pred_power": draw(st.sampled_from((None, 2.0))), "pred_eps": draw(st.sampled_from((None, 0.3)))}
    return RunConfig(**options)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(configurations())
def test_a_step_is_that_of_autograd(config: RunConfig) -> None:
    """Both sides differ by rounding: 1e-9 of the largest entry, after one step from a random state with momentum."""
    world = World.from_config(config)
    sampler = sampler_class(config)(config, world)
    rng = np.random.default_rng(config.seed)
    k, d, above = config.k, config.d_obs, (config.depth - 1, config.k, config.k)

    def normal(*shape: int) -> np.ndarray:
        return rng.normal(size=shape) / np.sqrt(shape[-1])

    B_o, upper = normal(k, d), normal(*above) + np.eye(k)
    B_t, upper_t = (normal(k, d), normal(*above) + np.eye(k)) if config.stop_grad else (B_o, upper)
    initial = Start(normal(k, k), normal(k, k), B_o, normal(k, d), B_t)
    if config.depth > 1:
        initial = initial._replace(upper=upper, V_upper=normal(*above), upper_t=upper_t)
    rules = rules_of(config, sampler)
    run = start_of(rules, sampler, initial)
    draw = next(iter(sampler.draws()))
    before = run.state

    def evaluate(state: State) -> Any:
        return sampler.evaluate(state.whole, draw)

    seen = sampler.seen(before.whole, lambda: evaluate(before).C_oo)
    P, _ = rules.predictor.before_step(1, seen, run.memory)
    after = step(1, run, rules, seen, evaluate)
    expected, loss = _autograd(config, world, before._replace(P=P), draw)
    assert after.loss == pytest.approx(loss, rel=1e-9)
    for name, value in expected.items():
        got = getattr(after.state, name)
        np.testing.assert_allclose(got, value, atol=1e-9 * max(1.0, float(np.abs(got).max(initial=0.0))), err_msg=name)


def _autograd(config: RunConfig, world: World, state: State, draw: Any) -> tuple[dict[str, np.ndarray], float]:
    """The state after one step by autograd and torch's optimiser, and the loss before it."""
    P = torch.tensor(state.P, requires_grad=True)
    layers = [torch.tensor(W, requires_grad=True) for W in (state.B_o, *state.upper)]
    target = [torch.tensor(W) for W in (state.B_t, *state.upper_t)] if config.stop_grad else layers

    def product(factors: list[Any]) -> Any:
        whole = factors[0]
        for W in factors[1:]:
            whole = W @ whole
        return whole

    E, E_t = product(layers), product(target)
    E_t = E_t.detach() if config.stop_grad else E_t
    if config.sampler == "population":
        S_xx, S_px, S_pp = map(torch.tensor, (world.Sigma_x, world.Sigma_s, world.Sigma_plus))
    else:
        X, X_plus = draw
        n = X.shape[1]
        S_xx, S_px, S_pp = (torch.tensor(M / n) for M in (X @ X.T, X_plus @ X.T, X_plus @ X_plus.T))

    def one_way(PE: Any, S_xx: Any, S_px: Any, S_pp: Any) -> Any:
        cross = torch.trace(E_t @ S_px @ PE.T)
        return 0.5 * (torch.trace(PE @ S_xx @ PE.T) - 2 * cross + torch.trace(E_t @ S_pp @ E_t.T))

    def total(PE: Any) -> Any:
        one = one_way(PE, S_xx, S_px, S_pp)
        return (one + one_way(PE, S_pp, S_px.T, S_xx)) / 2 if config.symmetric_loss else one

    loss = total(P @ E)
    grads = list(torch.autograd.grad(loss, [P, *layers], retain_graph=True))
    if config.pred_jacobian == "straight":  # the value of P E, with the derivative of E
        grads[1:] = torch.autograd.grad(total((P @ E).detach() + E - E.detach()), layers)
    if config.pred_rule != "learned":
        grads[0] = torch.zeros_like(P)
    factor = _factor(config)
    for parameter, velocity, grad, eta, mu, lr in [
        (P, state.V_P, grads[0], config.eta_P, config.mom_pred, config.lr_pred),
        *(
            (W, V, grad, config.eta_B, config.mom_enc, config.lr_enc)
            for W, V, grad in zip(layers, (state.V_B, *state.V_upper), grads[1:], strict=True)
        ),
    ]:
        if parameter is P and config.pred_rule != "learned":
            continue
        optimiser = torch.optim.SGD([parameter], lr=factor * lr, momentum=mu, weight_decay=eta)
        optimiser.state[parameter]["momentum_buffer"] = torch.tensor(velocity)
        parameter.grad = grad
        optimiser.step()
    new_P = P.detach().numpy()
    if config.pred_symmetric:
        new_P = (new_P + new_P.T) / 2
    new = [W.detach().numpy() for W in layers]
    tau = config.tau * ((1 + np.cos(np.pi / config.epochs)) / 2 if config.ema_schedule else 1.0)
    moved = [(1 - tau) * W_t + tau * W for W_t, W in zip((state.B_t, *state.upper_t), new, strict=True)]
    above = (len(new) - 1, *state.P.shape)
    expected = {"P": new_P, "B_o": new[0], "B_t": moved[0]}
    expected |= {"upper": np.reshape(new[1:], above), "upper_t": np.reshape(moved[1:], above)}
    return expected, float(loss.detach())


def _factor(config: RunConfig) -> float:
    w, T, t = config.warmup or 0, config.epochs, 1
    if t <= w:
        return t / w
    return (1 + np.cos(np.pi * (t - w) / (T - w))) / 2 if config.lr_schedule else 1.0
