"""The draws: each stream belongs to a key, not to an order of execution (docs/model.md, section 5).

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
    """What the minibatches of a run depend on.

    Attributes
    ----------
    n, d, r : samples, observed dimension, latents of the online view.
    extra : latents that the target's view has alone.
    world_id : digest of the second moments of the views; "" in a world of options.
    noisy : whether the views have isotropic noise at all.
    """

    seed: int
    n: int
    d: int
    r: int
    extra: int = 0
    world_id: str = ""
    noisy: bool = True

    @property
    def stream(self) -> tuple[int | str, ...]:
        """The key of the data; what is of no concern to a world is left out."""
        return (self.n, self.d, self.r, *([self.extra] * (self.extra > 0)), *([self.world_id] * bool(self.world_id)))

    @property
    def latents(self) -> int:
        """All latents of a pair of views."""
        return self.r + self.extra

    @property
    def normals_per_step(self) -> int:
        """The latents (n (r + extra)), e (n d) and e+ (n d) of one minibatch."""
        return self.n * (self.latents + 2 * self.d * self.noisy)

    @property
    def steps_per_block(self) -> int:
        """A function of the key alone, so that step t is always the same draw."""
        return max(1, BLOCK_NORMALS // self.normals_per_step)


def minibatch_blocks(
    key: MinibatchKey, epochs: int, fill: Fill | None = None, after: int = 0
) -> Iterator[NDArray[np.float64]]:
    """Standard normals of the steps after + 1..after + epochs, in blocks of shape (steps, `normals_per_step`).

    A row holds the white latents, of x (r x n) and then of x+ alone (extra x n), then e / sigma (d x n), then
    e+ / sigma_plus (d x n), each in C order, a sample a column; no noise where there is none. The yielded array is
    overwritten by the next block.
    """
    fill = fill or _compiled_fill()
    size = key.steps_per_block
    buffer = np.empty((min(size, after + epochs), key.normals_per_step))
    for block, steps, skipped in _blocks(size, after, epochs):
        fill(keyed_seed("minibatch", key.seed, *key.stream, block=block), buffer[:steps])
        yield buffer[skipped:steps]


def _blocks(size: int, after: int, epochs: int) -> Iterator[tuple[int, int, int]]:
    """Number, steps and skipped steps of each block of `size` steps that holds one of after + 1..after + epochs."""
    for block in range(after // size, -(-(after + epochs) // size)):
        first = block * size
        yield block, min(size, after + epochs - first), max(0, after - first)


def split_draws(row: NDArray[np.float64], key: MinibatchKey) -> tuple[NDArray[np.float64], ...]:
    """The white latents (r + extra, n), e / sigma (d, n) and e+ / sigma_plus (d, n) of one step's row of draws.

    Where there is no noise the last two are (0, n).
    """
    n, d, r = key.n, key.d * key.noisy, key.latents
    return row[: r * n].reshape(r, n), row[r * n : (r + d) * n].reshape(d, n), row[(r + d) * n :].reshape(d, n)


@dataclass(frozen=True)
class MomentsKey:
    """What the moments of a run depend on.

    Attributes
    ----------
    n, d : samples, observed dimension.
    q, k : dimension of the structured subspace, rows of the encoder (q).
    form : direct or reduced.
    world_id : digest of the second moments of the views; "" in a world of options.
    """

    seed: int
    n: int
    d: int
    q: int
    form: str
    k: int = 0
    world_id: str = ""

    def __post_init__(self) -> None:
        object.__setattr__(self, "k", self.k or self.q)

    @property
    def stream(self) -> tuple[int | str, ...]:
        """The key of the data; what is of no concern to a world is left out."""
        more: tuple[int | str, ...] = (self.k,) if self.k != self.q else ()
        return (self.form, self.n, self.d, self.q, *more, *([self.world_id] * bool(self.world_id)))

    @property
    def shapes(self) -> tuple[tuple[int, int], tuple[int, int]]:
        """Shapes of the two random matrices of a step, W and N (see `byolsim.model.moments`)."""
        k, white = self.k, self.q + 2 * self.k
        return (white, min(white, self.n)), (min(k, self.n), 3 * k if self.form == "reduced" else self.d)

    @property
    def degrees(self) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Degrees of freedom of the chi-square variables on Bartlett's diagonals.

        That of W, and in the reduced form that of N's last k columns, the directions which no encoder knows yet.
        """
        (_, m), (c, _) = self.shapes
        fresh = self.d - self.q - 3 * self.k - np.arange(c) if self.form == "reduced" else np.arange(0)
        return self.n - np.arange(m), fresh

    @property
    def numbers_per_step(self) -> int:
        """Entries of W and N."""
        return sum(rows * columns for rows, columns in self.shapes)

    @property
    def steps_per_block(self) -> int:
        """A function of the key alone, so that step t is always the same draw."""
        return max(1, BLOCK_NORMALS // self.numbers_per_step)


def moment_blocks(
    key: MomentsKey, epochs: int, fill: Fill | None = None, after: int = 0
) -> Iterator[NDArray[np.float64]]:
    """W and N of the steps after + 1..after + epochs, in blocks of shape (steps, numbers_per_step), each in C order.

    Entries are standard normals, Bartlett's diagonals roots of chi-square variables; what stands above a diagonal
    is not 0 and not to be used (`split_moments`). The yielded array is overwritten by the next block.
    """
    fill = fill or _compiled_fill()
    size = key.steps_per_block
    (white, m), (_, columns) = key.shapes
    degrees, fresh = key.degrees
    on_W = np.arange(m) * (m + 1)
    on_N = white * m + np.arange(len(fresh)) * (columns + 1) + 2 * key.k
    buffer = np.empty((min(size, after + epochs), key.numbers_per_step))
    for block, steps, skipped in _blocks(size, after, epochs):
        fill(keyed_seed("moments", key.seed, *key.stream, block=block), buffer[:steps])
        chi_seed = keyed_seed("moments chi-square", key.seed, *key.stream, block=block)
        generator = np.random.Generator(np.random.PCG64(chi_seed))
        chi_square = generator.chisquare(np.concatenate([degrees, fresh]), (steps, m + len(fresh)))
        buffer[:steps, np.concatenate([on_W, on_N])] = np.sqrt(chi_square)
        yield buffer[skipped:steps]


def split_moments(row: NDArray[np.float64], key: MomentsKey) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(W, N) of one step's row of `moment_blocks`, with 0 above the diagonals."""
    (white, m), (c, columns) = key.shapes
    W, N = np.tril(row[: white * m].reshape(white, m)), row[white * m :].reshape(c, columns).copy()
    if key.form == "reduced":
        N[:, 2 * key.k :] = np.tril(N[:, 2 * key.k :])
    return W, N


def evaluation_draws(key: MinibatchKey) -> NDArray[np.float64]:
    """One row of draws, as `minibatch_blocks` yields them, of the fixed evaluation sample with key.n views."""
    row = np.empty(key.normals_per_step)
    _compiled_fill()(keyed_seed("evaluation", key.seed, *key.stream), row)
    return row


def _compiled_fill() -> Fill:
    from byolsim.draws.normals import fill_normals  # loads numba, which all else does without

    return fill_normals
