"""The step of every sampler that keeps its encoders as they are: heavy ball, predictor rule, EMA, divergence.

`model.step` from the gradients on, for one run. Every product has a shape that does not depend on the group, so a run
has the same bits in any group.
"""

from __future__ import annotations

from byolsim.backends.numba.layers import (
    above,
    above_square,
    check_whole,
    gradient_of_whole,
    is_deep,
    move_upper,
    through,
    through_square,
    to_layers,
)
from byolsim.backends.numba.losses import encoder_gradient, first_layer_gain, gain_bound
from byolsim.backends.numba.moves import average, heavy_ball, heavy_ball_and_average
from byolsim.backends.numba.rates import beta_may_be_cut, check_divergence, is_bounded, set_clock, set_rates
from byolsim.backends.numba.rules import follow, follows, learns, sets
from byolsim.backends.numba.structures import (
    ALPHA_T,
    BETA_T,
    ENC_EVERY,
    ETA_B,
    ETA_P,
    MU_B,
    MU_P,
    PRED_EVERY,
    SQUARE_B,
    SQUARE_P,
    TAU_T,
)  # fmt: skip
from byolsim.machine.jit import inlined

IN_CACHE = 2048
"""Entries of an encoder that single precision moves and averages at once: two loops, as one has too many arrays."""


@inlined
def update(run, t, lambda_max_x, hyper, state, course, work, method):
    """Step t of a run from `work.G` and `work.grad_P`, which is G E_o^T with the whole encoder E_o."""
    P, now, clips = state.P[run], course.now, course.clips
    if sets(method.rule) and not is_bounded(run, now):  # a rule may set any P
        course.diverged[run] = t
        return
    real = P.dtype.type
    set_clock(run, t, hyper, now)
    PU = through(P, method.layers)
    gain = gain_bound(through_square(run, now, method.layers), above_square(method.layers), method.loss)
    may_be_cut = beta_may_be_cut(run, gain, lambda_max_x, hyper, now)
    if may_be_cut:
        gain = first_layer_gain(PU, above(P, method.layers), work.square, method.loss)
    set_rates(run, gain, may_be_cut, lambda_max_x, work.square, hyper, now, clips, course)
    pred_steps, enc_steps = t % int(hyper[run, PRED_EVERY]) == 0, t % int(hyper[run, ENC_EVERY]) == 0
    if enc_steps:
        encoder_gradient(P, work.G, gradient_of_whole(work.grad_B, method.layers), method.loss)
        if is_deep(method.layers):
            to_layers(run, state.B_o[run], work.grad_B, method.layers)
    eta, tau, keep = real(hyper[run, ETA_B]), real(now[run, TAU_T]), real(1.0 - now[run, TAU_T])
    if pred_steps and learns(method.rule):
        rate, mu, eta_P = real(now[run, ALPHA_T]), real(hyper[run, MU_P]), real(hyper[run, ETA_P])
        now[run, SQUARE_P] = heavy_ball(
            P.reshape(-1), state.V_P[run].reshape(-1), work.grad_P.reshape(-1), rate, mu, eta_P
        )
    if follows(method.rule):
        follow(run, P, now, method.rule)
    B_o, V_B, B_t = state.B_o[run].reshape(-1), state.V_B[run].reshape(-1), state.B_t[run].reshape(-1)
    rate, mu = real(now[run, BETA_T]), real(hyper[run, MU_B])
    gradient, lost = work.grad_B.reshape(-1), state.lost[run].reshape(-1)
    if not enc_steps:
        average(B_o, B_t, lost, tau, keep)
    elif P.itemsize == 8:
        now[run, SQUARE_B] = heavy_ball_and_average(B_o, V_B, B_t, gradient, rate, mu, eta, tau, keep)
    else:
        square = 0.0
        for lo in range(0, B_o.size, IN_CACHE):
            hi = min(lo + IN_CACHE, B_o.size)
            square += heavy_ball(B_o[lo:hi], V_B[lo:hi], gradient[lo:hi], rate, mu, eta)
            average(B_o[lo:hi], B_t[lo:hi], lost[lo:hi], tau, keep)
        now[run, SQUARE_B] = square
    if is_deep(method.layers):
        move_upper(run, enc_steps, rate, mu, eta, tau, keep, now, method.layers)
    check_divergence(run, t, now, course.diverged)
    check_whole(run, t, state.B_o[run], state.B_t[run], course.diverged, method.layers)
