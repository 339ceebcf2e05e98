"""The bulk normals: equal to their plain formula, and normal."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from byolsim.draws.normals import fill_normals
from byolsim.draws.plain_normals import AT_ONCE, CHUNK, LANES, STEPS, initial_state, plain_normals, plain_words, step

COUNTS = [1, CHUNK - 1, CHUNK, 2 * CHUNK, 2 * CHUNK + 1, 5 * CHUNK + 7, 2 * AT_ONCE * CHUNK + 3]
SAMPLE = 2_000_000


def normals(seed, count):
    out = np.empty(count)
    fill_normals(np.random.SeedSequence(seed), out)
    return out


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("seed", [0, 2**100])
def test_kernel_equals_the_plain_formula(seed, count):
    # Series cut below 1e-17, a dozen roundings of values up to 8.7.
    np.testing.assert_allclose(normals(seed, count), plain_normals(np.random.SeedSequence(seed), count), atol=5e-15)


@pytest.mark.parametrize("chunks", [1, 2, 3, 8, 13])
def test_the_words_are_those_of_generators_that_are_stepped_one_word_at_a_time(chunks):
    """The carrying of states to the beginning of each chunk, against the recurrence itself."""
    start = state = initial_state(np.random.SeedSequence(5))
    expected = []
    for _ in range(chunks * STEPS):
        word, state = step(state)
        expected.append(word)
    words, after = plain_words(start, chunks)
    assert word.shape == (LANES,)
    np.testing.assert_array_equal(words.reshape(-1), np.concatenate(expected))
    np.testing.assert_array_equal(after, state)


@pytest.mark.parametrize("count", COUNTS)
def test_a_shorter_draw_is_the_beginning_of_a_longer_one(count):
    np.testing.assert_array_equal(normals(1, count), normals(1, 3 * AT_ONCE * CHUNK)[:count])


def test_law_of_the_draws():
    """Two million draws of a fixed seed against N(0, 1): each bound is 5 standard errors, p > 1e-4 for the K-S test.

    The seed is fixed, so the test never alarms by chance; over all seeds it would in fewer than one of 2,000.
    """
    x = normals(12, SAMPLE)
    error = 5 / np.sqrt(SAMPLE)
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96), (6, 15, 10170)):
        assert abs((x**power).mean() - moment) < error * np.sqrt(variance), power
    assert stats.kstest(x, "norm").pvalue > 1e-4
    for threshold in (3.0, 4.0):
        expected = 2 * stats.norm.sf(threshold) * SAMPLE
        assert abs((np.abs(x) > threshold).sum() - expected) < 5 * np.sqrt(expected)


@pytest.mark.parametrize("lag", [1, 2, 15, 16, 17, CHUNK - 1, CHUNK, CHUNK + 1, 2 * CHUNK])
def test_draws_are_uncorrelated_also_in_their_squares(lag):
    """Lags of lanes, rows, pairs and chunks; 5 standard errors each."""
    x = normals(13, SAMPLE)
    for y, spread in ((x, 1.0), (x**2 - 1, 2.0)):
        assert abs((y[lag:] * y[:-lag]).mean()) < 5 * spread / np.sqrt(SAMPLE)
