"""Standard normals in bulk, with NumPy's own functions: the definition that the compiled `normals.fill_normals` equals.

`LANES` independent xoshiro256++ generators (Blackman and Vigna, Scrambled Linear Pseudorandom Number Generators, ACM
TOMS 2021) advance side by side, and the Box-Muller transform (Box and Muller, A Note on the Generation of Random Normal
Deviates, 1958) turns words w1 and w2 into two normals: with u = (floor(w1 / 2^11) + 1/2) 2^-53 in (0, 1) and
theta = pi/4 floor(w2 / 2^11) 2^-53 in [0, pi/4), reflected into one of the eight octants by the lowest bits of w2,

    x = sqrt(-2 log u) cos(theta),    y = sqrt(-2 log u) sin(theta),

so |x| <= 8.66. A chunk takes `CHUNK` words w1, then as many w2, and gives the x, then the y.

A generator has to be stepped word by word, which is slow in Python. But a step is linear over the field of two
elements, so that k steps are a power of one 256 x 256 matrix of bits: here the generators are first carried to the
beginning of every chunk in this way, and then all chunks are stepped at once.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

Words = NDArray[np.uint64]

LANES = 16
CHUNK = 512
"""Pairs of normals in a chunk."""

STEPS = 2 * CHUNK // LANES
"""Steps of each generator in a chunk, a power of two."""

AT_ONCE = 256
"""Chunks that are made together: more would need more memory and save little."""

QUARTER_PI = 0.7853981633974483
TWO53 = 2.0**-53
U1, U11, U17, U19, U23, U41, U45 = (np.uint64(k) for k in (1, 11, 17, 19, 23, 41, 45))


def fill_plain_normals(seed: np.random.SeedSequence, out: NDArray[np.float64]) -> None:
    """Fill a contiguous array with the standard normals of a seed; a shorter array gets the first ones of a longer."""
    flat, state = out.reshape(-1), initial_state(seed)
    for start in range(0, flat.size, AT_ONCE * 2 * CHUNK):
        part = flat[start : start + AT_ONCE * 2 * CHUNK]
        words, state = plain_words(state, -(-part.size // (2 * CHUNK)))
        part[:] = _box_muller(words[:, 0], words[:, 1])[: part.size]


def plain_normals(seed: np.random.SeedSequence, count: int) -> NDArray[np.float64]:
    """The first `count` standard normals of a seed, (count,)."""
    out = np.empty(count)
    fill_plain_normals(seed, out)
    return out


def _box_muller(w1: Words, w2: Words) -> NDArray[np.float64]:
    """The normals of words (chunks, CHUNK) in order: of each chunk the x, then the y."""
    radius = np.sqrt(-2 * np.log(((w1 >> U11).astype(np.float64) + 0.5) * TWO53))
    theta = QUARTER_PI * (w2 >> U11).astype(np.float64) * TWO53
    near, far = radius * np.cos(theta), radius * np.sin(theta)
    swap, flip_x, flip_y = ((w2 >> np.uint64(k)) & U1 == 1 for k in range(3))
    x, y = np.where(swap, far, near), np.where(swap, near, far)
    return np.stack([np.where(flip_x, -x, x), np.where(flip_y, -y, y)], axis=1).reshape(-1)


def plain_words(state: Words, chunks: int) -> tuple[Words, Words]:
    """The words of the next chunks, (chunks, 2, CHUNK): w1 and w2, each in rows of `LANES`; and the state then."""
    states = _at_each_chunk(state, chunks)
    words = np.empty((chunks, STEPS, LANES), np.uint64)
    for k in range(STEPS):
        words[:, k], states = step(states)
    return words.reshape(chunks, 2, CHUNK), states[:, -1]


def initial_state(seed: np.random.SeedSequence) -> Words:
    """(4, LANES) four words a lane; an all-zero lane, which would stay at zero, has probability 2^-256."""
    return np.asarray(seed.generate_state(4 * LANES, np.uint64), np.uint64).reshape(4, LANES)


def step(state: Words) -> tuple[Words, Words]:
    """One word of each generator (...,) and its next state, for states (4, ...)."""
    s0, s1, s2, s3 = state
    total = s0 + s3  # modulo 2^64
    word = ((total << U23) | (total >> U41)) + s0
    shifted = s1 << U17
    s2, s3 = s2 ^ s0, s3 ^ s1
    s1, s0 = s1 ^ s2, s0 ^ s3
    s2, s3 = s2 ^ shifted, (s3 << U45) | (s3 >> U19)
    return word, np.stack([s0, s1, s2, s3])


def _at_each_chunk(state: Words, chunks: int) -> Words:
    """States (4, chunks, LANES) at the beginning of each chunk, from the (4, LANES) of the first.

    With T the matrix of one step, the states of chunks m, ..., 2m - 1 are T^(m STEPS) times those of 0, ..., m - 1.
    """
    bits = _bits(state)
    while bits.shape[1] < chunks * LANES:
        ahead = _odd(_power(bits.shape[1] // LANES * STEPS) @ bits)
        bits = np.concatenate([bits, ahead], axis=1)
    return _packed(bits[:, : chunks * LANES]).reshape(4, chunks, LANES)


@cache
def _power(steps: int) -> NDArray[np.float32]:
    """T^steps (256, 256) for a power of two: T^steps times the bits of a state are its bits that many steps on.

    Sums of at most 256 zeros and ones are exact in single precision, in which products are fast.
    """
    if steps == 1:
        units = _packed(np.eye(256, dtype=np.float32))  # column j: the state of which bit j alone is set
        return _bits(step(units)[1])
    half = _power(steps // 2)
    return _odd(half @ half)


def _odd(sums: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sums modulo 2; several times as fast as `%` on floats."""
    return np.asarray(sums - 2 * np.floor(0.5 * sums))


def _bits(states: Words) -> NDArray[np.float32]:
    """The bits (256, k) of states (4, k)."""
    octets = np.ascontiguousarray(states.T).view(np.uint8)
    return np.ascontiguousarray(np.unpackbits(octets, axis=1).T, np.float32)


def _packed(bits: NDArray[np.float32]) -> Words:
    """The inverse of `_bits`."""
    octets = np.ascontiguousarray(np.packbits(bits.T.astype(np.uint8), axis=1))
    return np.ascontiguousarray(octets.view(np.uint64).T)
