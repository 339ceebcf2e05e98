"""Standard normals in bulk: the one kernel that every backend's draws come from.

Drawing is the largest part of a minibatch step that is shared by a group, and a scalar generator leaves most of the
processor idle. Here `LANES` independent xoshiro256++ generators (Blackman and Vigna, Scrambled Linear Pseudorandom
Number Generators, ACM TOMS 2021), each with 256 bits of state of its own, advance side by side, and the Box-Muller
transform (Box and Muller, A Note on the Generation of Random Normal Deviates, 1958) turns two 64-bit words into two
normals without a branch, so that the compiler uses whole vector registers.

With words w1 and w2, u = (floor(w1 / 2^11) + 1/2) 2^-53 in (0, 1) and theta = pi/4 floor(w2 / 2^11) 2^-53 in
[0, pi/4), reflected into one of the eight octants by the three lowest bits of w2,

    x = sqrt(-2 log u) cos(theta),    y = sqrt(-2 log u) sin(theta),

so |x| <= 8.66. `plain_normals` is the same formula in NumPy.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from byolsim.jit import fma, kernel

LANES = 16
CHUNK = 512
"""Pairs that are transformed together: their words and intermediate values stay in the first-level cache."""

LN2 = 0.6931471805599453
SQRT2 = 1.4142135623730951
QUARTER_PI = 0.7853981633974483
MANTISSA = np.uint64(0x000F_FFFF_FFFF_FFFF)
ONE = np.uint64(0x3FF0_0000_0000_0000)
U1, U2, U11, U17, U19, U23, U41, U45, U52 = (np.uint64(k) for k in (1, 2, 11, 17, 19, 23, 41, 45, 52))
TWO53 = 2.0**-53


def fill_normals(seed: np.random.SeedSequence, out: NDArray[np.float64]) -> None:
    """Fill a contiguous array with the standard normals of a seed; a shorter array gets the first ones of a longer."""
    _fill(_initial_state(seed), out.reshape(-1), np.empty((2, CHUNK), np.uint64), np.empty((3, CHUNK)))


def plain_normals(seed: np.random.SeedSequence, count: int) -> NDArray[np.float64]:
    """What `fill_normals` computes, with NumPy's own functions: equal to rounding."""
    state = [row.copy() for row in _initial_state(seed)]
    out = []
    with np.errstate(over="ignore"):
        for _ in range(-(-count // (2 * CHUNK))):
            w1, w2 = (np.concatenate([_plain_word(state) for _ in range(CHUNK // LANES)]) for _ in range(2))
            radius = np.sqrt(-2 * np.log(((w1 >> U11).astype(np.float64) + 0.5) * TWO53))
            theta = QUARTER_PI * (w2 >> U11).astype(np.float64) * TWO53
            near, far = np.cos(theta), np.sin(theta)
            swap, flip_x, flip_y = ((w2 >> np.uint64(k)) & U1 == 1 for k in range(3))
            x, y = np.where(swap, far, near), np.where(swap, near, far)
            out += [radius * np.where(flip_x, -x, x), radius * np.where(flip_y, -y, y)]
    return np.concatenate(out)[:count]


def _initial_state(seed: np.random.SeedSequence) -> NDArray[np.uint64]:
    """Four words for each lane; an all-zero lane, which would stay at zero, has probability 2^-256."""
    return np.asarray(seed.generate_state(4 * LANES, np.uint64), np.uint64).reshape(4, LANES)


def _plain_word(state: list[NDArray[np.uint64]]) -> NDArray[np.uint64]:
    """One step of xoshiro256++ in every lane."""
    s0, s1, s2, s3 = state
    total = s0 + s3
    word = ((total << U23) | (total >> U41)) + s0
    shifted = s1 << U17
    s2, s3 = s2 ^ s0, s3 ^ s1
    s1, s0 = s1 ^ s2, s0 ^ s3
    s2, s3 = s2 ^ shifted, (s3 << U45) | (s3 >> U19)
    state[:] = [s0, s1, s2, s3]
    return word


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
