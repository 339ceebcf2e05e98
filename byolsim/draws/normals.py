"""Standard normals in bulk: the kernel that the draws of the fast backends come from, equal to `plain_normals`.

Drawing is the largest part of a minibatch step that is shared by a group, and a scalar generator leaves most of the
processor idle. Here the generators advance side by side and the Box-Muller transform has no branch, so that the
compiler uses whole vector registers.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from byolsim.draws.plain_normals import CHUNK, LANES, QUARTER_PI, TWO53, U1, U11, U17, U19, U23, U41, U45, initial_state
from byolsim.machine.jit import fma, kernel

LN2 = 0.6931471805599453
SQRT2 = 1.4142135623730951
MANTISSA = np.uint64(0x000F_FFFF_FFFF_FFFF)
ONE = np.uint64(0x3FF0_0000_0000_0000)
U2, U52 = np.uint64(2), np.uint64(52)


def fill_normals(seed: np.random.SeedSequence, out: NDArray[np.float64]) -> None:
    """Fill a contiguous array with the standard normals of a seed; a shorter array gets the first ones of a longer."""
    _fill(initial_state(seed), out.reshape(-1), np.empty((2, CHUNK), np.uint64), np.empty((3, CHUNK)))


@kernel
def _fill(state, out, words, work):
    """All of `out` in chunks of 2 `CHUNK`; the last one is made whole and used in part."""
    uniform = work[0]
    bits = uniform.view(np.uint64)
    for start in range(0, out.size, 2 * CHUNK):
        _words(state, words[0])
        _words(state, words[1])
        for i in range(CHUNK):
            uniform[i] = ((words[0, i] >> U11) + 0.5) * TWO53
        _radius(bits, uniform, work[1])
        if start + 2 * CHUNK <= out.size:
            _rotate(words[1], work[1], out[start : start + CHUNK], out[start + CHUNK : start + 2 * CHUNK])
            continue
        _rotate(words[1], work[1], work[0], work[2])
        for i in range(min(CHUNK, out.size - start)):
            out[start + i] = work[0, i]
        for i in range(max(0, out.size - start - CHUNK)):
            out[start + CHUNK + i] = work[2, i]


@kernel
def _words(state, out):
    """xoshiro256++: CHUNK words, lane by lane within each row of `LANES`."""
    for row in range(CHUNK // LANES):
        for lane in range(LANES):
            s0, s1, s2, s3 = state[0, lane], state[1, lane], state[2, lane], state[3, lane]
            total = s0 + s3
            out[row * LANES + lane] = ((total << U23) | (total >> U41)) + s0
            shifted = s1 << U17
            s2 ^= s0
            s3 ^= s1
            s1 ^= s2
            s0 ^= s3
            s2 ^= shifted
            state[0, lane] = s0
            state[1, lane] = s1
            state[2, lane] = s2
            state[3, lane] = (s3 << U45) | (s3 >> U19)


@kernel
def _radius(bits, uniform, radius):
    """sqrt(-2 log u), with log(m 2^e) = e log 2 + 2 artanh((m - 1) / (m + 1)) and m in [sqrt(1/2), sqrt(2)].

    |(m - 1) / (m + 1)| <= 0.172: eleven terms of the series leave less than 1e-17. `bits` is `uniform` seen as words;
    its mantissas replace it.
    """
    for i in range(CHUNK):
        radius[i] = np.int64(bits[i] >> U52) - 1023
    for i in range(CHUNK):
        bits[i] = (bits[i] & MANTISSA) | ONE
    for i in range(CHUNK):
        m, e = uniform[i], radius[i]
        large = m > SQRT2
        m = 0.5 * m if large else m
        e = e + 1.0 if large else e
        f = (m - 1.0) / (m + 1.0)
        s = f * f
        series = 1 / 21
        series = fma(series, s, 1 / 19)
        series = fma(series, s, 1 / 17)
        series = fma(series, s, 1 / 15)
        series = fma(series, s, 1 / 13)
        series = fma(series, s, 1 / 11)
        series = fma(series, s, 1 / 9)
        series = fma(series, s, 1 / 7)
        series = fma(series, s, 1 / 5)
        series = fma(series, s, 1 / 3)
        log_u = fma(e, LN2, 2.0 * fma(f * s, series, f))
        radius[i] = np.sqrt(-2.0 * log_u)


@kernel
def _rotate(words, radius, x, y):
    """The radius in a direction uniform on the circle; Taylor series of cos and sin on [0, pi/4], below 1e-17."""
    for i in range(CHUNK):
        w = words[i]
        theta = QUARTER_PI * TWO53 * (w >> U11)
        s = theta * theta
        near = 1.0 / 20922789888000.0
        near = fma(near, s, -1.0 / 87178291200.0)
        near = fma(near, s, 1.0 / 479001600.0)
        near = fma(near, s, -1.0 / 3628800.0)
        near = fma(near, s, 1.0 / 40320.0)
        near = fma(near, s, -1.0 / 720.0)
        near = fma(near, s, 1.0 / 24.0)
        near = fma(near, s, -0.5)
        near = fma(near, s, 1.0)
        far = 1.0 / 355687428096000.0
        far = fma(far, s, -1.0 / 1307674368000.0)
        far = fma(far, s, 1.0 / 6227020800.0)
        far = fma(far, s, -1.0 / 39916800.0)
        far = fma(far, s, 1.0 / 362880.0)
        far = fma(far, s, -1.0 / 5040.0)
        far = fma(far, s, 1.0 / 120.0)
        far = fma(far, s, -1.0 / 6.0)
        far = fma(theta * s, far, theta)
        swap = (w & U1) != 0
        flip_x = 1.0 - 2.0 * ((w >> U1) & U1)
        flip_y = 1.0 - 2.0 * ((w >> U2) & U1)
        first = far if swap else near
        second = near if swap else far
        x[i] = radius[i] * flip_x * first
        y[i] = radius[i] * flip_y * second
