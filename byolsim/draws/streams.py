"""The draws: each stream belongs to a key, not to an order of execution.

A data stream belongs to (seed, sampler, form, n, d, r, step). It is cut into blocks of a fixed number of steps, each
block with a generator of its own: any backend, grouping, worker or number of epochs sees the same numbers, and a longer
run continues a shorter one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Fill = Callable[[np.random.SeedSequence, NDArray[np.float64]], None]
"""Fills a contiguous array with the standard normals of a seed: `normals.fill_normals`, which is the default, or
`plain_normals.fill_plain_normals`, equal to rounding, which needs no numba."""

BLOCK_NORMALS = 2**18
"""Normals in one block of steps, at most (2 MiB, to stay in cache); a block has one step at least."""


def keyed_seed(purpose: str, seed: int, *key: int | str, block: int = 0) -> np.random.SeedSequence:
    """Seed of block `block` of the stream (purpose, seed, key).

    The key is hashed, so that streams of different purposes, shapes or seeds are independent of one another, and none
    depends on which were made before it (`SeedSequence.spawn` has state; this has none).
    """
    text = "|".join(map(str, (purpose, seed, *key)))
    entropy = int.from_bytes(hashlib.sha256(text.encode()).digest(), "little")
    return np.random.SeedSequence(entropy, spawn_key=(block,))


def keyed_generator(purpose: str, seed: int, *key: int | str) -> np.random.Generator:
    """NumPy generator of a stream, for what is drawn once: the world and the initial weights."""
    return np.random.Generator(np.random.PCG64(keyed_seed(purpose, seed, *key)))


@dataclass(frozen=True)
class MinibatchKey:
    """What the minibatches of a run depend on."""

    seed: int
    n: int
    d: int
    r: int

    @property
    def normals_per_step(self) -> int:
        """Z (n r), e (n d) and e+ (n d) of one minibatch."""
        return self.n * (self.r + 2 * self.d)

    @property
    def steps_per_block(self) -> int:
        """A function of the key alone, so that step t is always the same draw."""
        return max(1, BLOCK_NORMALS // self.normals_per_step)


def minibatch_blocks(key: MinibatchKey, epochs: int, fill: Fill | None = None) -> Iterator[NDArray[np.float64]]:
    """Standard normals of the steps 1..epochs, in blocks of shape (steps, n (r + 2 d)).

    A row holds z / sqrt(lam) (r x n), then e / sigma (d x n), then e+ / sigma (d x n), each in C order, a sample a
    column. The yielded array is overwritten by the next block.
    """
    fill = fill or _compiled_fill()
    size = key.steps_per_block
    buffer = np.empty((min(size, epochs), key.normals_per_step))
    for block, first in enumerate(range(0, epochs, size)):
        steps = min(size, epochs - first)
        fill(keyed_seed("minibatch", key.seed, key.n, key.d, key.r, block=block), buffer[:steps])
        yield buffer[:steps]


def split_draws(row: NDArray[np.float64], key: MinibatchKey) -> tuple[NDArray[np.float64], ...]:
    """The views (z / sqrt(lam), e / sigma, e+ / sigma), shaped (r, n), (d, n), (d, n), of one step's row of draws."""
    n, d, r = key.n, key.d, key.r
    return row[: r * n].reshape(r, n), row[r * n : (r + d) * n].reshape(d, n), row[(r + d) * n :].reshape(d, n)


@dataclass(frozen=True)
class MomentsKey:
    """What the moments of a run depend on; `form` is direct or reduced."""

    seed: int
    n: int
    d: int
    r: int
    form: str

    @property
    def shapes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Shapes of the two random matrices of a step, W and N (see `byolsim.model.moments`)."""
        r = self.r
        return (3 * r, min(3 * r, self.n)), (min(r, self.n), 3 * r if self.form == "reduced" else self.d)

    @property
    def degrees(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Degrees of freedom of the chi-square variables on Bartlett's diagonals.

        That of W, and in the reduced form that of N's last r columns, the directions which no encoder knows yet.
        """
        (_, m), (c, _) = self.shapes
        fresh = self.d - 4 * self.r - np.arange(c) if self.form == "reduced" else np.arange(0)
        return self.n - np.arange(m), fresh

    @property
    def numbers_per_step(self) -> int:
        """Entries of W and N."""
        return sum(rows * columns for rows, columns in self.shapes)

    @property
    def steps_per_block(self) -> int:
        """A function of the key alone, so that step t is always the same draw."""
        return max(1, BLOCK_NORMALS // self.numbers_per_step)


def moment_blocks(key: MomentsKey, epochs: int, fill: Fill | None = None) -> Iterator[NDArray[np.float64]]:
    """W and N of the steps 1..epochs, in blocks of shape (steps, numbers_per_step), each in C order.

    Entries are standard normals, Bartlett's diagonals roots of chi-square variables; what stands above a diagonal
    is not 0 and not to be used (`split_moments`). The yielded array is overwritten by the next block.
    """
    fill = fill or _compiled_fill()
    size = key.steps_per_block
    (q, m), (_, columns) = key.shapes
    degrees, fresh = key.degrees
    on_W = np.arange(m) * (m + 1)
    on_N = q * m + np.arange(len(fresh)) * (columns + 1) + 2 * key.r
    buffer = np.empty((min(size, epochs), key.numbers_per_step))
    for block, first in enumerate(range(0, epochs, size)):
        steps = min(size, epochs - first)
        stream = (key.seed, key.form, key.n, key.d, key.r)
        fill(keyed_seed("moments", *stream, block=block), buffer[:steps])
        generator = np.random.Generator(np.random.PCG64(keyed_seed("moments chi-square", *stream, block=block)))
        chi_square = generator.chisquare(np.concatenate([degrees, fresh]), (steps, m + len(fresh)))
        buffer[:steps, np.concatenate([on_W, on_N])] = np.sqrt(chi_square)
        yield buffer[:steps]


def split_moments(row: NDArray[np.float64], key: MomentsKey) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(W, N) of one step's row of `moment_blocks`, with 0 above the diagonals."""
    (q, m), (c, columns) = key.shapes
    W, N = np.tril(row[: q * m].reshape(q, m)), row[q * m :].reshape(c, columns).copy()
    if key.form == "reduced":
        N[:, 2 * key.r :] = np.tril(N[:, 2 * key.r :])
    return W, N


def evaluation_draws(key: MinibatchKey) -> NDArray[np.float64]:
    """One row of draws, as `minibatch_blocks` yields them, of the fixed evaluation sample with key.n views."""
    row = np.empty(key.normals_per_step)
    _compiled_fill()(keyed_seed("evaluation", key.seed, key.n, key.d, key.r), row)
    return row


def _compiled_fill() -> Fill:
    from byolsim.draws.normals import fill_normals  # loads numba, which all else does without

    return fill_normals
