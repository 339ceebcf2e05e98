"""Lines that theory draws across the plane of predictor rate and EMA rate."""

from __future__ import annotations

from dataclasses import dataclass


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
