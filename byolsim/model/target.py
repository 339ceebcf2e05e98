"""How the target encoder follows the online one: one short class a rule."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from byolsim.model.state import Array, State


class Target(Protocol):
    """One way to move the target."""

    def after_step(self, state: State, tau: float) -> State:
        """The state with the target moved at the rate tau; B_o is that after the step."""


class EMA:
    """B_t <- (1 - tau) B_t + tau B_o, an exponential moving average of the online encoder with momentum m = 1 - tau.

    Every layer has its own. tau = 1 is one encoder, B_t = B_o.
    """

    def after_step(self, state: State, tau: float) -> State:
        """Move the target, with the new B_o and the rate in force."""
        B_t, lost = towards(state.B_t, state.B_o, tau, state.lost)
        state = state._replace(B_t=B_t, lost=lost)
        if len(state.upper):
            upper_t, lost_upper = towards(state.upper_t, state.upper, tau, state.lost_upper)
            state = state._replace(upper_t=upper_t, lost_upper=lost_upper)
        return state


def towards(M: Array, N: Array, tau: float, lost: Array) -> tuple[Array, Array]:
    """(1 - tau) M + tau N as the nearer of the two plus a part of their difference, and what rounding gave too much.

    So M = N stays as it is to the last bit, a tau below the precision does not let M grow, and tau = 1 gives N. In
    single precision a step can be less than the last digit of M: what was `lost` in one is made good in the next
    (Kahan, Further Remarks on Reducing Truncation Errors, 1965). In double precision it is left at 0.
    """
    start, part = (M, tau) if tau <= 0.5 else (N, tau - 1)
    step = part * (N - M) - lost
    moved = start + step
    return moved, (moved - start) - step if moved.dtype == np.float32 else lost
