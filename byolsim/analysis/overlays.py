"""What is particular to the plane of predictor rate alpha and EMA rate tau: the rule of the rates, and lines of theory.

Figures over other axes (`on_rates`) use nothing of it but the auto schedule.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from byolsim.analysis.axes import Layout, fact, grid_axes, text_of
from byolsim.config.fields import names
from byolsim.config.run import RunConfig
from byolsim.errors import UserError

_OVER = {"same": "lr_pred", "ratio": "lr_pred", "from_tau": "tau"}
"""What beta is a multiple of, in the modes where it is one of a rate."""


def on_rates(layout: Layout) -> bool:
    """Whether the plane of a figure is that of alpha and tau."""
    return (layout.x, layout.y) == ("lr_pred", "tau")


# --- the rule of the rates ---


@dataclass(frozen=True)
class RateRule:
    """How the rates of a sweep follow from the axes.

    Attributes
    ----------
    mode : the `lr_enc_mode`.
    factor : beta / alpha (modes same and ratio), beta / tau (from_tau), c_beta (auto), None where beta has an axis.
    auto_alpha_c : c_alpha of the runs whose alpha follows the schedule, None where there is no such run.
    """

    mode: str
    factor: float | None
    auto_alpha_c: float | None

    def text(self, layout: Layout) -> str:
        """The rule in one line: how beta follows, or where it is seen; and what an auto alpha is.

        Off the plane of the rates there is but the auto schedule to tell: beta is one value, or an axis of its own.
        """
        beta, rule = fact("lr_enc", "symbol"), ""
        c = "" if self.factor is None else f"{self.factor:.6g} "
        if self.mode == "auto":
            rule = f"{beta}_t = {c}τ / H_t (auto schedule, {fact('auto_beta_c', 'symbol')} = {c.strip()})"
        elif self.mode in _OVER and on_rates(layout):
            bare = self.mode == "same" and self.factor == 1
            rule = f"{beta} = {'' if bare else c}{fact(_OVER[self.mode], 'symbol')}"
        elif layout.panel == "lr_enc":
            rule = f"one panel per {fact('lr_enc', 'title')} {beta}"
        alpha = "" if self.auto_alpha_c is None else f"α_t = {self.auto_alpha_c:.6g} τ / H_t"
        column = "column auto: " if alpha and layout.x == "lr_pred" else ""
        return "; ".join(filter(None, (rule, column + alpha)))


def rate_rule(configs: Sequence[RunConfig]) -> RateRule:
    """The rule of the runs of one sweep, which agree in it (`rule_values`, `schedule_constants`)."""
    constants = schedule_constants(configs)["auto_alpha_c"]
    return RateRule(str(configs[0].lr_enc_mode), _factor(configs[0]), min(constants, default=None))


def by_rule(mode: str) -> frozenset[str]:
    """The hyperparameters that differ between the points of such a grid, but by a rule: it has no axis for them."""
    return frozenset(names(RunConfig, "point")) - grid_axes(mode).keys()


def rule_values(configs: Sequence[RunConfig]) -> dict[str, set[Any]]:
    """The constant of the rule of beta at these runs, by its name: of one sweep it has one value."""
    over = _OVER.get(str(configs[0].lr_enc_mode))
    return {} if over is None else {f"lr_enc / {over}": {_factor(config) for config in configs}}


def schedule_constants(configs: Sequence[RunConfig]) -> dict[str, set[float]]:
    """The constants of the auto schedule in the runs whose rate it sets: in the others, where it is 0, none is used."""
    return {
        "auto_alpha_c": {config.auto_alpha_c for config in configs if config.lr_pred is None},
        "auto_beta_c": {config.auto_beta_c for config in configs if config.lr_enc is None},
    }


def check_rates(config: RunConfig) -> None:
    """`UserError` where a run has no place on the axes, or, made in Python, claims a mode that is not its rates'."""
    if config.pred_rule != "learned" or not config.stop_grad:
        missing = "no EMA rate tau (stop_grad = False)"
        if config.stop_grad:
            missing = f"no predictor rate alpha (pred_rule = {config.pred_rule!r})"
        raise UserError(
            f"run {config.run_id} has {missing}: figures over alpha and tau need both; leave it out with --where, or "
            "read the folder from Python"
        )
    auto = config.lr_enc_mode == "auto"
    fits = (config.lr_enc is None) == auto and (auto or config.lr_pred is not None)
    if not fits or config.tau == 0 or config.lr_pred == 0:
        rates = ", ".join(f"{name} = {text_of(name, getattr(config, name))}" for name in ("tau", "lr_pred", "lr_enc"))
        raise UserError(
            f"run {config.run_id} ({rates}) is no grid point of lr_enc_mode {config.lr_enc_mode!r}: tau and lr_pred "
            "must be positive, and rates are auto in mode 'auto' only; take it out of the folder"
        )


def _factor(config: RunConfig) -> float | None:
    """Constant c of the rule beta = c alpha, beta = c tau or beta_t = c tau / H_t; None where the mode has no rule."""
    if config.lr_enc is None:
        return config.auto_beta_c
    over = getattr(config, _OVER.get(str(config.lr_enc_mode), ""), None)
    # grid points are rounded to 12 digits, so their ratio is the user's number in fewer digits only
    return float(f"{config.lr_enc / over:.9g}") if over else None


# --- lines of theory ---


@dataclass(frozen=True)
class RateLine:
    """The line alpha = factor * tau inside a rectangle: straight, and of slope 1, where both axes are logarithmic."""

    label: str
    dashed: bool
    alphas: tuple[float, float]
    taus: tuple[float, float]


def rate_lines(alpha_range: tuple[float, float], tau_range: tuple[float, float], mom_pred: float) -> list[RateLine]:
    """The lines on which the student moves as fast as its teacher, cut to the visible rectangle.

    alpha = tau compares the bare rates: with alpha <= tau the student tracks its teacher without noise dominating.
    With heavy-ball momentum the effective rate is alpha/(1 - mu_P), so the line moves to
    alpha = (1 - mu_P) tau; at mu_P = 0 both are one line. A line that does not cross the rectangle is left out.

    Parameters
    ----------
    alpha_range, tau_range : lowest and highest visible rate, positive.
    mom_pred : mu_P, 0 <= mu_P < 1.
    """
    bare, effective = "α = τ", "α / (1 − μ_P) = τ"
    if mom_pred == 0:
        candidates = [(f"{bare}  (μ_P = 0)", 1.0, False)]
    else:
        candidates = [(bare, 1.0, False), (effective, 1 - mom_pred, True)]
    lines = []
    for label, factor, dashed in candidates:
        low = max(tau_range[0], alpha_range[0] / factor)
        high = min(tau_range[1], alpha_range[1] / factor)
        if low < high:
            lines.append(RateLine(label, dashed, (factor * low, factor * high), (low, high)))
    return lines
