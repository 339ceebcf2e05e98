"""How the target encoder follows the online one: one short class a rule."""

from __future__ import annotations

from typing import Protocol

from byolsim.model.state import Array, State


class Target(Protocol):
    """One way to move the target."""

    def after_step(self, state: State) -> State:
        """The state with the target moved; B_o is that after the step."""


class EMA:
    """B_t <- (1 - tau) B_t + tau B_o, an exponential moving average of the online encoder with momentum m = 1 - tau."""

    def __init__(self, tau: float) -> None:
        self.tau = tau

    def after_step(self, state: State) -> State:
        """Move the target, with the new B_o."""
        return state._replace(B_t=towards(state.B_t, state.B_o, self.tau))


def towards(M: Array, N: Array, tau: float) -> Array:
    """(1 - tau) M + tau N as the nearer of the two plus a part of their difference.

    So M = N stays as it is to the last bit, a tau below the precision does not let M grow, and tau = 1 gives N.
    """
    return M + tau * (N - M) if tau <= 0.5 else N - (1 - tau) * (N - M)
