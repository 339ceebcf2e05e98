"""Under every rule of the predictor, Jacobian and depth the moments sampler has the law of explicit sampling.

As `test_moments_law.py`: 3,000 seeds of the program, 8 to 12 steps each, against 3,000 explicit trainings whose pairs
(x, x+) are drawn from a root of their joint covariance. What is new is what else of a minibatch a step sees: the rules
that set P from a spectrum take its C_oo into a memory and use P in the same step, so the joint law of C_oo and G shows;
an encoder of layers sees x through all of them. Settings and statistics were fixed in advance and the seeds are fixed;
over seeds this file raises a false alarm with probability 1 % (two-sample Kolmogorov-Smirnov, Bonferroni over all
comparisons). Deliberately wrong trainings must be caught by the same comparison.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import ensembles
import numpy as np
import pytest
from ensembles import Array, Ends, Explicit, general_start, joint_of_options, pairs, smallest_p, turned, whole

from byolsim.config.run import RunConfig
from byolsim.draws import streams
from byolsim.model.world import World

SEEDS = 3000
STATISTICS = (*ensembles.STATISTICS, "smallest singular value of P", "smallest singular value of L_o")
COMMON: dict[str, Any] = {
    "backend": "numba", "sampler": "moments", "d_latent": 3, "d_obs": 15, "latent_spectrum": "1.5,1.0,0.5",
    "mixing": "gaussian", "sigma_n": 0.8, "epochs": 10, "log_every": 10, "auto_every": 5, "ema_m": 0.8,
    "auto_alpha_c": 0.0, "auto_beta_c": 0.0, "mom_pred": 0.0, "mom_enc": 0.0, "lr_enc": 0.1,
}  # fmt: skip
FEW: dict[str, Any] = {"batch_size": 2}
"""n < k, at the smallest d that the reduced form takes."""

MANY: dict[str, Any] = {"batch_size": 11, "mom_enc": 0.5, "weight_decay_enc": 0.1, "lr_enc": 0.15}
"""n > q + 2k, with momentum and decay."""

LEARNED: dict[str, Any] = {"lr_pred": 0.1}
DIRECTPRED: dict[str, Any] = {"pred_rule": "directpred"}
OPTIMAL: dict[str, Any] = {"pred_rule": "optimal", "latent_spectrum": "6,3,1"}
STRAIGHT: dict[str, Any] = {"pred_jacobian": "straight"}
DEEP: dict[str, Any] = {"enc_depth": 2}
RUNS: dict[str, dict[str, Any]] = {
    "directpred, n<k": DIRECTPRED | FEW | {"lr_enc": 0.01},
    # P is set on every third step from a memory that takes in all of them
    "directpred, n>3k": DIRECTPRED | MANY | {"pred_every": 3, "pred_corr_rate": 0.5, "epochs": 12, "log_every": 12},
    # k <= n < 3k, normalised by the maximum, another power
    "spectral, k<=n<3k": {
        "pred_rule": "spectral", "pred_power": 2.0, "pred_eps": 0.2, "pred_norm": "max", "batch_size": 5,
        "enc_update_every": 2, "lr_enc": 0.2, "pred_corr_rate": 0.2,
    },
    "optimal, n<k": OPTIMAL | FEW | {"lr_enc": 0.3},
    "optimal, n>3k": OPTIMAL | MANY | {"lr_enc": 0.3, "pred_every": 2},
    "straight, n<k": LEARNED | STRAIGHT | FEW,
    "straight, n>3k": LEARNED | STRAIGHT | MANY | {"pred_symmetric": True, "mom_pred": 0.6, "pred_update_every": 2},
    "depth 2, n<k": LEARNED | DEEP | FEW,
    "depth 2, n>3k": LEARNED | DEEP | MANY | {"mom_pred": 0.6, "weight_decay_pred": 0.05},
    # All at once, in a world with nuisance, correlations of both signs and a noisier target, at k < q
    "all": DIRECTPRED | DEEP | STRAIGHT | {
        "d_latent": 3, "d_embed": 2, "d_obs": 14, "d_nuisance": 2, "nuisance_spectrum": "2,0.5", "sigma_n_target": 1.2,
        "correlation": "0.9,-0.6,0.5", "batch_size": 4, "mom_enc": 0.4, "lr_enc": 0.02,
    },
}  # fmt: skip
FORMS = ("direct", "reduced")
ALARM = 0.01 / (len(STATISTICS) * len(RUNS) * len(FORMS))


def setting(case: str, form: str = "direct") -> tuple[RunConfig, World]:
    """The configuration and its world."""
    config = RunConfig(**(COMMON | RUNS[case]), moments_form=form)
    return config, World.from_config(config)


def statistics(ends: Ends) -> Array:
    """One column for each of `STATISTICS`."""
    values = (np.linalg.svd(M, compute_uv=False) for M in (ends.P, ends.L_o))
    return ensembles.statistics(ends, *(s[:, ends.P.shape[1] - 1] for s in values))


def program(case: str, form: str) -> Array:
    """Statistics (SEEDS, len(STATISTICS)) of runs of the program."""
    config, world = setting(case, form)
    return statistics(ensembles.program(config, world, general_start(config), SEEDS))


def explicit(case: str, training: type[Explicit] = Explicit, **changed: Any) -> Array:
    """The same statistics with every pair of views drawn; a wrong `training`, or one with options changed."""
    config, world = setting(case)
    covariance = joint_of_options(config, world)
    config = config.model_copy(update=changed)
    draw = pairs(covariance, config.batch_size, SEEDS)
    return statistics(training(config, general_start(config), draw, covariance).ends(world.Q))


program_sample, explicit_sample = cache(program), cache(explicit)
"""Made once for each case."""


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", RUNS)
def test_same_law_as_explicit_sampling(case, form):
    p, name = smallest_p(program_sample(case, form), explicit_sample(case), STATISTICS)
    assert p > ALARM, f"{name}: p = {p:.1e}"


class PopulationFeatures(Explicit):
    """The memory of the features' covariance takes in that of the population."""

    def correlation(self, z: Array) -> Array:
        B_o, d = whole(self.W), self.config.d_obs
        return np.broadcast_to(B_o @ self.covariance[:d, :d] @ turned(B_o), (SEEDS, *self.P.shape[-2:]))


class AnotherMinibatch(Explicit):
    """The memory takes in the features of a minibatch of its own, which are independent of the step's gradient."""

    def correlation(self, z: Array) -> Array:
        return super().correlation(self.features(self.draw()[0]))


class MemoryFromZero(Explicit):
    """The moving average starts at 0 in place of the first covariance."""

    def averaged(self, C: Array) -> Array:
        self.F = 0 * C if self.F is None else self.F
        return super().averaged(C)


class MinibatchOptimum(Explicit):
    """The predictor of least loss on the minibatch, where it has enough samples."""

    def optimum(self, z: Array, z_t: Array) -> Array:
        return turned(np.linalg.solve(z @ turned(z), z @ turned(z_t)))


class NoiseWithoutUpperLayers(Explicit):
    """The noise outside reaches the features through the first layer alone, sigma L_11 u in place of sigma U L_11 u."""

    def features(self, x: Array) -> Array:
        inside = self.Q @ (self.Q.T @ x)
        return whole(self.W) @ inside + self.W[0] @ (x - inside)


class GradientWithoutUpperLayers(Explicit):
    """The first layer has the gradient in the whole encoder."""

    def encoder_gradients(self, G: Array) -> list[Array]:
        return [turned(self.P) @ G, *super().encoder_gradients(G)[1:]]


class AverageOfTheProduct(Explicit):
    """The target is the average of the whole encoder, not the product of averages."""

    def target(self) -> list[Array]:
        tau = self.config.tau
        return [(1 - tau) * whole(self.W_t) + tau * whole(self.W)]


WRONG: dict[str, tuple[str, type[Explicit], dict[str, Any]]] = {
    "the population's C_oo": ("directpred, n<k", PopulationFeatures, {}),
    "the population's C_oo, n>3k": ("directpred, n>3k", PopulationFeatures, {}),
    "C_oo of another minibatch": ("directpred, n<k", AnotherMinibatch, {}),
    "C_oo of another minibatch, n>3k": ("directpred, n>3k", AnotherMinibatch, {}),
    "no memory": ("directpred, n>3k", Explicit, {"pred_corr_rate": 1.0}),
    "another memory": ("directpred, n<k", Explicit, {"pred_corr_rate": 0.2}),
    "a memory that starts at 0": ("directpred, n>3k", MemoryFromZero, {}),
    "a memory of the steps that set P": ("directpred, n>3k", Explicit, {"pred_every": 1}),
    "the other form, normalised by the maximum": ("directpred, n>3k", Explicit, {"pred_norm": "max"}),
    "the minibatch's optimum": ("optimal, n>3k", MinibatchOptimum, {}),
    "an optimum that is a step old": ("optimal, n<k", Explicit, {"pred_every": 2}),
    "full for straight": ("straight, n<k", Explicit, {"pred_jacobian": None}),
    "full for straight, n>3k": ("straight, n>3k", Explicit, {"pred_jacobian": None}),
    "straight for full": ("depth 2, n<k", Explicit, {"pred_jacobian": "straight"}),
    "a predictor that is not symmetric": ("straight, n>3k", Explicit, {"pred_symmetric": None}),
    "upper layers not in the noise": ("depth 2, n<k", NoiseWithoutUpperLayers, {}),
    "upper layers not in the noise, n>3k": ("depth 2, n>3k", NoiseWithoutUpperLayers, {}),
    "upper layers not in the gradient": ("depth 2, n<k", GradientWithoutUpperLayers, {}),
    "upper layers not in the gradient, n>3k": ("depth 2, n>3k", GradientWithoutUpperLayers, {}),
    "the average of the product": ("depth 2, n>3k", AverageOfTheProduct, {}),
    "all: the population's C_oo": ("all", PopulationFeatures, {}),
    "all: upper layers not in the noise": ("all", NoiseWithoutUpperLayers, {}),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_a_wrong_training_is_caught(wrong):
    case, training, changed = WRONG[wrong]
    sample = explicit(case, training, **changed)
    for form in FORMS:
        p, name = smallest_p(program_sample(case, form), sample, STATISTICS)
        assert p < ALARM, f"{form}, {name}: p = {p:.1e}"


DEGREES = streams.MomentsKey.degrees


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("case", ["directpred, n<k", "depth 2, n<k"])
def test_a_degree_of_freedom_too_many_is_caught(monkeypatch, case, form):
    def wrong(key):
        on_W, fresh = DEGREES.fget(key)
        return on_W + 1, fresh

    monkeypatch.setattr(streams.MomentsKey, "degrees", property(wrong))
    assert smallest_p(program(case, form), explicit_sample(case), STATISTICS)[0] < ALARM
