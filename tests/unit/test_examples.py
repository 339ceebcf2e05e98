"""The programs of `examples`, where what they need is there."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]


def test_the_world_of_the_digits():
    """Shifts move whole images by at most a pixel, views have one law, and gains are as the tutorial says."""
    pytest.importorskip("sklearn.datasets")
    names = runpy.run_path(str(ROOT / "examples" / "digits_world.py"))
    images = np.zeros((200, 5, 6))
    images[:, 2, 3] = 1.0
    rows = names["shifted"](images, np.random.default_rng(0)).reshape(200, 5, 6)
    assert set(map(tuple, np.argwhere(rows)[:, 1:])) == {(a, b) for a in (1, 2, 3) for b in (2, 3, 4)}
    assert (rows.sum(axis=(1, 2)) == 1).all()
    world = names["digits_world"]()
    assert (world.d, world.is_symmetric) == (64, True)
    np.testing.assert_allclose(world.gains[:4], [0.910, 0.797, 0.662, 0.493], atol=5e-4)
