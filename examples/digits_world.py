"""The second moments of scikit-learn's digits under one-pixel shifts, as a world: `python examples/digits_world.py`.

Each of the 1,797 images of 8 x 8 pixels, scaled to [0, 1], is seen twice, each view moved by -1, 0 or 1 pixels along
either axis with zeros coming in; eight pairs an image. Both views have one law, so each pair counts in both orders and
the moments are symmetric. Needs the extra `examples`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sklearn.datasets import load_digits

from byolsim.model.world import World

Array = NDArray[np.float64]


def shifted(images: Array, rng: np.random.Generator) -> Array:
    """(N, h, w) images, each moved by -1, 0 or 1 pixels along either axis, as rows (N, h w)."""
    count, height, width = images.shape
    padded = np.pad(images, ((0, 0), (1, 1), (1, 1)))
    top, left = rng.integers(0, 3, (2, count, 1, 1))
    rows, columns = top + np.arange(height)[:, None], left + np.arange(width)
    return np.asarray(padded[np.arange(count)[:, None, None], rows, columns].reshape(count, height * width))


def digits_world(pairs: int = 8, seed: int = 0) -> World:
    """The world of the digits, from so many pairs of views an image."""
    rng = np.random.default_rng(seed)
    images = np.repeat(load_digits().images / 16.0, pairs, axis=0)
    return World.from_pairs(shifted(images, rng), shifted(images, rng), exchangeable=True)


def main() -> None:
    """Write the world, for `byolsim run --world`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("digits.npz"))
    parser.add_argument("--pairs", type=int, default=8, help="pairs of views of each image")
    parser.add_argument("--seed", type=int, default=0, help="of the shifts")
    options = parser.parse_args()
    world = digits_world(options.pairs, options.seed)
    world.save(options.out)
    print(f"wrote {options.out}: d = {world.d}, gains {', '.join(f'{w:.3f}' for w in world.gains[:5])}, ...")


if __name__ == "__main__":
    main()
