"""The second moments of a pair of views: checked, and told apart by a digest. `world_file` reads them from a file.

(x, x+) has mean 0. Inside the span of the orthonormal columns of Q (d x q) its moments are arbitrary,

    S_xx = Q^T E[x x^T] Q,    S_px = Q^T E[x+ x^T] Q,    S_pp = Q^T E[x+ x+^T] Q,

with [[S_xx, S_px^T], [S_px, S_pp]] positive semi-definite; outside it the views carry isotropic noise of standard
deviations sigma and sigma_plus, independent of each other and of all else (docs/model.md, section 2).
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

BLOCKS = ("S_xx", "S_px", "S_pp")
NAMES = (*BLOCKS, "Q", "sigma", "sigma_plus")
"""The arrays of a world; Q is the identity where it is absent, and the noise belongs to q < d."""

MAX_BYTES = 2**28
"""Bytes of the arrays in double precision. A world holds about five times as much."""

MAX_Q = 2048
"""Largest q. Eigenvalues of a 2q x 2q matrix take O(q^3): some 7 s here. What has more dimensions is projected on its
leading ones, with the mean variance of the others as the noise outside."""

LARGEST = 1e24
"""Largest modulus of a moment: noise and latents of options stay below it, and sums of squares far from overflow."""

TOLERANCE = 1e-9
"""By how much, relative to the largest entry, moments may miss symmetry or positivity: rounding, put right."""


@dataclass(frozen=True, eq=False)
class SecondMoments:
    """Checked second moments; see the module.

    Attributes
    ----------
    S_xx, S_px, S_pp : (q, q), the first and the last symmetric.
    Q : (d, q) with orthonormal columns, or None where q = d and the coordinates are those of the views.
    sigma, sigma_plus : 0 where q = d.
    """

    S_xx: Array
    S_px: Array
    S_pp: Array
    Q: Array | None = None
    sigma: float = 0.0
    sigma_plus: float = 0.0

    @property
    def q(self) -> int:
        """Dimension of the structured subspace."""
        return len(self.S_xx)

    @property
    def d(self) -> int:
        """Observed dimension."""
        return self.q if self.Q is None else len(self.Q)

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits of a hash of the arrays."""
        content = hashlib.sha256()
        for name in NAMES:
            value = getattr(self, name)
            if value is not None:
                array = np.ascontiguousarray(value, dtype="<f8") + 0.0  # -0.0 is 0.0
                content.update(f"{name}{array.shape}".encode() + array.tobytes())
        return content.hexdigest()[:16]


def checked_moments(given: Mapping[str, Any]) -> SecondMoments:
    """Second moments from arrays by their names.

    Raises
    ------
    ValueError
        If they are not those of a pair of views: shapes, numbers, symmetry, positivity, the basis, the noise.
    """
    unknown = sorted(given.keys() - set(NAMES))
    if unknown:
        raise ValueError(f"{unknown[0]} is no array of a world: must be one of {', '.join(NAMES)}")
    views = {name: np.asarray(value) for name, value in given.items() if value is not None}
    check_shapes({name: view.shape for name, view in views.items()})
    arrays = {name: _numbers(name, view) for name, view in views.items()}
    for name in ("S_xx", "S_pp"):
        arrays[name] = _symmetric(name, arrays[name])
    _check_positive(*(arrays[name] for name in BLOCKS))
    Q, q = arrays.get("Q"), len(arrays["S_xx"])
    if Q is not None:
        error = float(np.abs(Q.T @ Q - np.eye(q)).max())
        if not error <= 1e-8:
            raise ValueError(f"Q has columns that are not orthonormal (off by {error:.2g})")
    noise = {}
    for name in ("sigma", "sigma_plus"):
        noise[name] = float(arrays.get(name, arrays.get("sigma", np.zeros(()))))
        if not 0 <= noise[name] <= 1e6:
            raise ValueError(f"{name} = {noise[name]:g} is not allowed: must be a number >= 0 and <= 1e6")
        if noise[name] and (Q is None or len(Q) == q):
            raise ValueError(f"{name} = {noise[name]:g} has no meaning: there is nothing outside the moments, q = d")
    return SecondMoments(arrays["S_xx"], arrays["S_px"], arrays["S_pp"], Q, noise["sigma"], noise["sigma_plus"])


def check_shapes(shapes: Mapping[str, tuple[int, ...]]) -> None:
    """`ValueError` where the arrays of these shapes cannot belong together, or are too large."""
    missing = [name for name in BLOCKS if name not in shapes]
    if missing:
        raise ValueError(f"{missing[0]} is missing")
    first = shapes["S_xx"]
    if len(first) != 2 or first[0] != first[1] or not first[0] >= 1:
        raise ValueError(f"S_xx has shape {first}: must be (q, q)")
    q = first[0]
    if q > MAX_Q:
        raise ValueError(
            f"S_xx has shape {first}: q must be at most {MAX_Q}, and Q (d, q) says where these lie among d"
        )
    for name in ("S_px", "S_pp"):
        if shapes[name] != (q, q):
            raise ValueError(f"{name} has shape {shapes[name]}: must be that of S_xx, {(q, q)}")
    Q = shapes.get("Q")
    if Q is not None and (len(Q) != 2 or Q[1] != q or Q[0] < q):
        raise ValueError(f"Q has shape {Q}: must be (d, {q}) with d >= {q}")
    for name in ("sigma", "sigma_plus"):
        if shapes.get(name, ()) != ():
            raise ValueError(f"{name} has shape {shapes[name]}: must be one number")
    if 8 * sum(math.prod(shape) for shape in shapes.values()) > MAX_BYTES:
        raise ValueError(f"the arrays take more than {MAX_BYTES >> 20} MiB in double precision")


def _numbers(name: str, value: Any) -> Array:
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} holds {array.dtype.name}, not real numbers")
    with np.errstate(over="ignore"):  # of a long double
        array = np.array(array, dtype=np.float64, order="C")
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds a number that is not finite")
    if array.size and float(np.abs(array).max()) > LARGEST:
        raise ValueError(f"{name} holds a number beyond {LARGEST:g}: use other units")
    return array


def _symmetric(name: str, S: Array) -> Array:
    """The symmetric part, which is S but for rounding."""
    error, size = float(np.abs(S - S.T).max()), float(np.abs(S).max())
    if error > TOLERANCE * size:
        raise ValueError(f"{name} is not symmetric (off by {error:.3g}, entries up to {size:.3g})")
    return np.asarray((S + S.T) / 2)


def _check_positive(S_xx: Array, S_px: Array, S_pp: Array) -> None:
    joint = np.block([[S_xx, S_px.T], [S_px, S_pp]])
    largest = float(np.diag(joint).max())  # no more than the largest eigenvalue, and zero only if that is
    if largest > 0 and _has_cholesky(joint + TOLERANCE * largest * np.eye(len(joint))):
        return
    values = np.linalg.eigvalsh(joint)
    if not values[-1] > 0:
        raise ValueError("all moments are zero" if not joint.any() else "no variance is positive")
    if values[0] < -TOLERANCE * values[-1]:
        raise ValueError(
            f"[[S_xx, S_px^T], [S_px, S_pp]] is not positive semi-definite (least eigenvalue {values[0]:.3g}, "
            f"largest {values[-1]:.3g}): no pair of views has these moments"
        )


def _has_cholesky(S: Array) -> bool:
    """Whether S is positive definite, at a tenth of the cost of its eigenvalues."""
    try:
        np.linalg.cholesky(S)
    except np.linalg.LinAlgError:
        return False
    return True
