"""What a step of the reduced form computes from its draw, a run a lane: `moments.reduced_gradient` and what follows."""

from __future__ import annotations

import numpy as np
from numba.extending import overload

from byolsim.backends.numba.lane_linalg import FULL, LOWER, UPPER, lane_lq, multiply, multiply_shared, transpose
from byolsim.backends.numba.lanes import load, store
from byolsim.backends.numba.linalg import share_bartlett
from byolsim.backends.numba.losses import Straight
from byolsim.machine.jit import inlined, kernel


@kernel
def share(row, world, scratch):
    """W / sqrt(n) with its transpose, and sigma N / sqrt(n), from a row of draws."""
    white, m = scratch.W.shape
    root = 1.0 / np.sqrt(scratch.n)
    share_bartlett(row, root, scratch.W, scratch.W_T)
    c, columns = scratch.N.shape
    k = columns // 3
    factor = root * world.sigma
    for i in range(c):
        for j in range(2 * k + i + 1):
            scratch.N[i, j] = factor * row[white * m + i * columns + j]


@inlined
def features(E_o, world, scratch):
    """a_o = b_o L_x and F = [a_o, sigma L_oo] of the whole online encoder: z_o = F xi."""
    k, q = scratch.a_o.shape[0], scratch.a_o.shape[1]
    multiply_shared(E_o, 0, world.L_x, LOWER, scratch.a_o, 0, 1.0)
    for i in range(k):
        for j in range(q):
            store(scratch.F, i, j, load(scratch.a_o, i, j))
        for j in range(q, q + k):
            store(scratch.F, i, j, load(E_o, i, j) * world.sigma)


@kernel
def residual(P, E_o, E_t, world, scratch):
    """D = [P b_o L_x - b_t M, sigma P L_oo, -L_w] and E = D W / sqrt(n); delta = D xi."""
    k, q = scratch.a_o.shape[0], scratch.a_o.shape[1]
    D, L_w, bM = scratch.D, scratch.L_w, scratch.bM
    multiply(P, 0, scratch.a_o, 0, k, D, 0, q, 1.0)
    multiply_shared(E_t, 0, world.M, FULL, bM, 0, 1.0)
    multiply(P, 0, E_o, q, k, D, q, k, world.sigma)
    multiply_shared(E_t, 0, world.root, LOWER, L_w, 0, 1.0)
    for i in range(k):
        for j in range(q):
            store(D, i, j, load(D, i, j) - load(bM, i, j))
        for j in range(q, q + 3 * k):
            store(L_w, i, j, load(E_t, i, j) * world.ratio)
    lane_lq(L_w, 0, q + 3 * k)
    for i in range(k):
        for j in range(k):
            store(D, i, q + k + j, load(L_w, i, j) * -world.scale)
    multiply_shared(D, 0, scratch.W, LOWER, scratch.E, 0, 1.0)


@kernel
def feature_covariance(scratch):
    """(1/n) sum z_o z_o^T = F S F^T of each lane, into C."""
    width = scratch.FW.shape[1]
    multiply_shared(scratch.F, 0, scratch.W_top, LOWER, scratch.FW, 0, 1.0)
    transpose(scratch.FW, 0, scratch.FW_T)
    multiply(scratch.FW, 0, scratch.FW_T, 0, width, scratch.C, 0, scratch.C.shape[1], 1.0)


@kernel
def gradients(P, Gamma, world, scratch, loss):
    """G = [G inside, on O_1, on the rest] (k, q + 4k), grad_P = G [b_o, L_o]^T, and Gamma in the whole encoder."""
    k, q = scratch.a_o.shape[0], scratch.a_o.shape[1]
    G = scratch.G
    multiply_shared(scratch.E, 0, scratch.W_T, UPPER, scratch.DS, 0, 1.0)
    multiply_shared(scratch.DS, 0, world.L_x_T, UPPER, G, 0, 1.0)
    for i in range(k):
        for j in range(q, q + k):
            value = load(scratch.DS, i, j) * world.sigma
            store(G, i, j, value)
    transpose(scratch.F, 0, scratch.F_T)
    multiply(scratch.DS, 0, scratch.F_T, 0, q + k, scratch.grad_P, 0, k, 1.0)
    lane_lq(scratch.E, 0, scratch.E.shape[1])
    multiply_shared(scratch.E, 0, scratch.N, FULL, G, q + k, 1.0)
    encoder_gradient(P, G, Gamma, scratch, loss)


def encoder_gradient(P, G, Gamma, scratch, loss):
    """In a kernel: Gamma = P^T G, or G with the straight Jacobian, without decay (`losses`)."""


@overload(encoder_gradient, inline="always")
def _encoder_gradient(P, G, Gamma, scratch, loss):
    if loss.instance_class is Straight:

        def straight(P, G, Gamma, scratch, loss):
            Gamma[:] = G

        return straight

    def full(P, G, Gamma, scratch, loss):
        k = P.shape[0]
        transpose(P, 0, scratch.P_T)
        multiply(scratch.P_T, 0, G, 0, k, Gamma, 0, G.shape[1], 1.0)

    return full
