"""START HERE: one step of training, the central equation of the program, in plain form.

Before the step the rule says which predictor P it uses. At the parameters before the step a sampler gives the residual
gradient G = (1/n) sum (P B_o x - B_t x+) x^T, the loss and the feature covariance (`state.Evaluation`). Then, with
decays eta_P and eta_B and heavy-ball momenta mu_P and mu_B,

    grad_P = G B_o^T + eta_P P            V_P <- mu_P V_P + grad_P       P   <- P   - alpha_t V_P    (if P learns)
    grad_B = P^T G + eta_B B_o            V_B <- mu_B V_B + grad_B       B_o <- B_o - beta_t V_B
    B_t <- (1 - tau_t) B_t + tau_t B_o

where both gradients are taken before either parameter moves, each parameter moves at multiples of its own period only,
and the target takes the new B_o at every step. An encoder of several layers has the gradient of each (`gradients`), and
its target is the average of each. The rates are fixed or follow the curvature estimate, times a factor of time
(`schedule`).

Everything here is a function of one run: `backends/plain` calls it for each run of a group, and every other backend
equals it to rounding.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from byolsim.config.run import RunConfig
from byolsim.model.gradients import encoder_gradient, layer_gradients
from byolsim.model.predictor import PredictorRule, Seen
from byolsim.model.schedule import AutoRates, CurvatureEstimate, ema_rate, rate_factor
from byolsim.model.start import Curvature
from byolsim.model.state import DIVERGENCE_BOUND, Array, Evaluation, State, product
from byolsim.model.target import Target


@dataclass(frozen=True)
class Rules:
    """What does not change during a run.

    Attributes
    ----------
    lambda_max_x : for the bound of beta, the largest eigenvalue of Sigma_x, or the larger one of both views where the
        encoder's gradient flows through both.
    predictor, target : how they follow.
    settle : brings the state of a sampler's coordinates back to their form after a step that moved the encoder.
    """

    config: RunConfig
    lambda_max_x: float
    predictor: PredictorRule
    target: Target
    settle: Callable[[State], State]


class Rates(NamedTuple):
    """Learning rates of a step, the rate of its EMA, and which of the schedule's safeguards were active in it.

    Attributes
    ----------
    alpha, beta : NaN for one that the schedule has not set yet.
    tau : of the target's average.
    clips : the limit of alpha, the limit of beta, the floor of H_t.
    """

    alpha: float
    beta: float
    tau: float
    clips: tuple[bool, bool, bool] = (False, False, False)


@dataclass(frozen=True)
class Run:
    """Where a run stands.

    Attributes
    ----------
    memory : of the predictor rule.
    loss : of the last step, at the parameters before it; NaN at epoch 0.
    rates : of the last step.
    clips : steps so far at which each of `Rates.clips` was active.
    diverged_epoch : the step after which the run diverged, or -1; it takes no further step.
    """

    state: State
    memory: Any
    curvature: CurvatureEstimate
    rates: Rates
    loss: float = math.nan
    clips: tuple[int, int, int] = (0, 0, 0)
    diverged_epoch: int = -1


def start(
    state: State,
    rules: Rules,
    seen: Seen,
    curvature: Curvature | None = None,
    goes_on: bool = False,
    kept: Array | None = None,
) -> Run:
    """A run at epoch 0, with what it knows of the curvature: no rate set yet that follows the schedule.

    Where it `goes_on` from the end of another one its predictor is in force, and `kept` is what the rule left there.
    """
    config = rules.config
    alpha, beta = (math.nan if rate is None else rate for rate in (config.lr_pred, config.lr_enc))
    if goes_on or kept is not None:
        P, memory = rules.predictor.goes_on(state.P, kept)
    else:
        P, memory = rules.predictor.start(seen)
    return Run(
        state=state._replace(P=P),
        memory=memory,
        curvature=CurvatureEstimate.of(len(state.P), config.power_iters, curvature),
        rates=Rates(alpha, beta, config.tau),
    )


def step(t: int, run: Run, rules: Rules, seen: Seen, evaluate: Callable[[State], Evaluation]) -> Run:
    """Step t = 1, 2, ...; t counts what is behind the run's start too.

    Parameters
    ----------
    seen : what the predictor rule may look at, at `run.state`.
    evaluate : what a sampler computes at a state, from the draw of the step.
    """
    P, memory = rules.predictor.before_step(t, seen, run.memory)
    before = run.state._replace(P=P)
    if not is_bounded(before):  # a rule may set any P
        return dataclasses.replace(run, diverged_epoch=t)
    evaluation = evaluate(before)
    curvature = curvature_after(t, run.curvature, evaluation.C_oo, rules.config)
    rates = rates_in_force(t, curvature, before, rules)
    state = descend(t, before, evaluation, rates, rules)
    P, memory = rules.predictor.after_step(state.P, memory)
    state = rules.target.after_step(state._replace(P=P), rates.tau)
    finite = is_bounded(state)
    return Run(
        state=rules.settle(state) if finite and t % rules.config.enc_update_every == 0 else state,
        memory=memory,
        curvature=curvature,
        rates=rates,
        loss=evaluation.loss,
        clips=(run.clips[0] + rates.clips[0], run.clips[1] + rates.clips[1], run.clips[2] + rates.clips[2]),
        diverged_epoch=-1 if finite else t,
    )


def curvature_after(t: int, estimate: CurvatureEstimate, C_oo: Array, config: RunConfig) -> CurvatureEstimate:
    """The estimate H_t, which takes in C_oo on the ticks t = 1, 1 + auto_every, ... of its clock."""
    if (t - 1) % config.auto_every != 0:
        return estimate
    after = copy.copy(estimate)
    after.tick(C_oo.astype(np.float64))
    return after


def rates_in_force(t: int, curvature: CurvatureEstimate, before: State, rules: Rules) -> Rates:
    """alpha_t, beta_t and tau_t: fixed, or min(c tau_t / H, limit) with H = max(H_t, H_floor), times `rate_factor`.

    The limit of beta is that of the first layer, by P and the other layers before the step.
    """
    config, tau = rules.config, ema_rate(t, rules.config)
    decays, losses = (config.eta_P, config.eta_B), (config.pred_jacobian == "straight", not config.stop_grad)
    auto = AutoRates(tau, config.mom_pred, config.mom_enc, *decays, rules.lambda_max_x, *losses)
    H, floored = max(curvature.H, curvature.H_floor), curvature.H_floor > curvature.H
    alpha, alpha_cut, beta, beta_cut = config.lr_pred, False, config.lr_enc, False
    if alpha is None:
        noise = curvature.noise_limit(config.batch_size, config.mom_pred) if config.auto_noise_limit else math.inf
        alpha, alpha_cut = auto.alpha(config.auto_alpha_c, H, noise)
    if beta is None:
        above = product(before.upper).astype(np.float64) if len(before.upper) else None
        beta, beta_cut = auto.beta(config.auto_beta_c, H, before.P.astype(np.float64), above)
    scheduled = config.lr_pred is None or config.lr_enc is None
    factor = rate_factor(t, config)
    return Rates(factor * alpha, factor * beta, tau, (alpha_cut, beta_cut, floored and scheduled))


def descend(t: int, state: State, evaluation: Evaluation, rates: Rates, rules: Rules) -> State:
    """P and the layers of the encoder after their gradient steps, each where t is a multiple of its period."""
    config, P, B_o, upper = rules.config, state.P, state.B_o, state.upper
    G, whole = evaluation.G, state.whole
    if rules.predictor.learns and t % config.pred_update_every == 0:
        grad_P = G @ whole.B_o.T + config.eta_P * P
        new_P, V_P = heavy_ball(P, state.V_P, grad_P, rates.alpha, config.mom_pred)
        state = state._replace(P=new_P, V_P=V_P)
    if t % config.enc_update_every == 0:
        gradient = encoder_gradient(P, G, evaluation.G_plus, config.pred_jacobian == "straight")
        grad_B, grad_upper = layer_gradients(gradient, B_o, upper)
        B_o, V_B = heavy_ball(B_o, state.V_B, grad_B + config.eta_B * B_o, rates.beta, config.mom_enc)
        upper, V_upper = heavy_ball(upper, state.V_upper, grad_upper + config.eta_B * upper, rates.beta, config.mom_enc)
        state = state._replace(B_o=B_o, V_B=V_B, upper=upper, V_upper=V_upper)
    return state


def heavy_ball(W: Array, V: Array, gradient: Array, rate: float, mu: float) -> tuple[Array, Array]:
    """(W, V) after V <- mu V + gradient, W <- W - rate V. Polyak, Some Methods of Speeding Up Convergence, 1964."""
    V = mu * V + gradient
    return W - rate * V, V


def is_bounded(state: State) -> bool:
    """Whether the Frobenius norms of P, of every layer and of encoders of layers are at most `DIVERGENCE_BOUND`.

    Products of many layers that are each below it could leave the range of a float.
    """
    whole = state.whole
    matrices = [state.P, state.B_o, *state.upper, *([whole.B_o, whole.B_t] if len(state.upper) else [])]
    return all(float(np.linalg.norm(W)) <= DIVERGENCE_BOUND for W in matrices)
