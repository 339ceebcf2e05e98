"""Floating-point operations of a minibatch step's matrix products: the floor that arithmetic sets.

A product of an (a, b) with a (b, c) matrix counts 2 a b c. Draws, elementwise updates and logging are not counted, nor
is the loss of logged steps. No symmetry is used: X X^T counts in full, as a general product does it.
"""

from __future__ import annotations


def by_sample(n: int, d: int, r: int, runs: int) -> float:
    """Per run-step, with the minibatch itself.

    B_o X, B_t X+ and D X^T: 2 n d r each; P Z_o and D Z_o^T: 2 n r^2 each; P^T G: 2 d r^2. Shared by the group: A Z,
    2 n d r.
    """
    return 3 * 2 * n * d * r + 2 * 2 * n * r**2 + 2 * d * r**2 + 2 * n * d * r / runs


def by_moment(n: int, d: int, r: int, runs: int) -> float:
    """Per run-step, from the sample second moments.

    B_o S_xx and B_t S_px: 2 d^2 r each; P Y, G B_o^T and P^T G: 2 d r^2 each. Shared by the group: S_xx and S_px,
    2 n d^2 each, and A Z, 2 n d r.
    """
    shared = 2 * 2 * n * d**2 + 2 * n * d * r
    return 2 * 2 * d**2 * r + 3 * 2 * d * r**2 + shared / runs


def minibatch(n: int, d: int, r: int, runs: int) -> float:
    """Per run-step, in the cheaper of the two ways."""
    return min(by_sample(n, d, r, runs), by_moment(n, d, r, runs))
