"""What moves a parameter: heavy ball, and the target's average, entry by entry."""

from __future__ import annotations

import numpy as np

from byolsim.backends.numba.linalg import dot
from byolsim.machine.jit import fma, kernel


@kernel
def heavy_ball(parameter, velocity, gradient, rate, mu, eta):
    """V <- mu V + (gradient + eta parameter), parameter <- parameter - rate V, entry by entry; the squared norm."""
    for j in range(gradient.size):
        v = fma(mu, velocity[j], fma(eta, parameter[j], gradient[j]))
        velocity[j] = v
        parameter[j] = fma(-rate, v, parameter[j])
    return np.float64(dot(parameter, parameter))


@kernel
def heavy_ball_and_average(parameter, velocity, target, gradient, rate, mu, eta, tau, keep):
    """Both in one pass in double precision: what they read and write is most of their cost."""
    weight = tau if tau < 0.5 else -keep
    for j in range(gradient.size):
        v = fma(mu, velocity[j], fma(eta, parameter[j], gradient[j]))
        velocity[j] = v
        new = fma(-rate, v, parameter[j])
        parameter[j] = new
        target[j] = fma(weight, new - target[j], target[j] if tau < 0.5 else new)
    return np.float64(dot(parameter, parameter))


@kernel
def average(parameter, target, lost, tau, keep):
    """The EMA, target <- (1 - tau) target + tau parameter, as a step from the nearer of the two.

    tau and 1 - tau, each rounded, need not add to 1: with tau near the rounding error that would be a weight decay.
    In single precision steps can also be too small to change the target: `lost` keeps what rounding took from it,
    with the sign turned, for the next step (Kahan, Further Remarks on Reducing Truncation Errors, 1965).
    """
    weight = tau if tau < 0.5 else -keep
    for j in range(target.size):
        old, new = target[j], parameter[j]
        start = old if tau < 0.5 else new
        if target.itemsize == 8:
            target[j] = fma(weight, new - old, start)
        else:
            step = fma(weight, new - old, -lost[j])
            moved = start + step
            lost[j] = (moved - start) - step
            target[j] = moved
