"""The second moments of a pair of views, and the file that holds them: read with care, told apart by a digest.

(x, x+) has mean 0. Inside the span of the orthonormal columns of Q (d x q) its moments are arbitrary,

    S_xx = Q^T E[x x^T] Q,    S_px = Q^T E[x+ x^T] Q,    S_pp = Q^T E[x+ x+^T] Q,

with [[S_xx, S_px^T], [S_px, S_pp]] positive semi-definite; outside it the views carry isotropic noise of standard
deviations sigma and sigma_plus, independent of each other and of all else (docs/model.md, section 2).
"""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

MOMENTS = ("S_xx", "S_px", "S_pp")
NAMES = (*MOMENTS, "Q", "sigma", "sigma_plus")
"""The arrays of a file; the last three only if q < d."""

MAX_BYTES = 2**30
"""Bytes of the arrays of a file, unpacked."""

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
    arrays = {name: _numbers(name, value) for name, value in given.items() if value is not None}
    missing = [name for name in MOMENTS if name not in arrays]
    if missing:
        raise ValueError(f"{missing[0]} is missing")
    check_shapes({name: array.shape for name, array in arrays.items()})
    for name in ("S_xx", "S_pp"):
        arrays[name] = _symmetric(name, arrays[name])
    _check_positive(*(arrays[name] for name in MOMENTS))
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
    """`ValueError` where the arrays of these shapes cannot belong together."""
    first = shapes.get("S_xx", ())
    if len(first) != 2 or first[0] != first[1] or not first[0] >= 1:
        raise ValueError(f"S_xx has shape {first}: must be (q, q)")
    q = first[0]
    for name in ("S_px", "S_pp"):
        if shapes.get(name) != (q, q):
            raise ValueError(f"{name} has shape {shapes.get(name)}: must be that of S_xx, {(q, q)}")
    Q = shapes.get("Q")
    if Q is not None and (len(Q) != 2 or Q[1] != q or Q[0] < q):
        raise ValueError(f"Q has shape {Q}: must be (d, {q}) with d >= {q}")
    for name in ("sigma", "sigma_plus"):
        if shapes.get(name, ()) != ():
            raise ValueError(f"{name} has shape {shapes[name]}: must be one number")


def _numbers(name: str, value: Any) -> Array:
    array = np.asarray(value)
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{name} holds {array.dtype.name}, not real numbers")
    array = np.array(array, dtype=np.float64)
    if not np.isfinite(array).all():
        raise ValueError(f"{name} holds a number that is not finite")
    return array


def _symmetric(name: str, S: Array) -> Array:
    """The symmetric part, which is S but for rounding."""
    error, size = float(np.abs(S - S.T).max()), float(np.abs(S).max())
    if error > TOLERANCE * size:
        raise ValueError(f"{name} is not symmetric (off by {error:.3g}, entries up to {size:.3g})")
    return np.asarray((S + S.T) / 2)


def _check_positive(S_xx: Array, S_px: Array, S_pp: Array) -> None:
    values = np.linalg.eigvalsh(np.block([[S_xx, S_px.T], [S_px, S_pp]]))
    if not values[-1] > 0:
        raise ValueError("all moments are zero")
    if values[0] < -TOLERANCE * values[-1]:
        raise ValueError(
            f"[[S_xx, S_px^T], [S_px, S_pp]] is not positive semi-definite (least eigenvalue {values[0]:.3g}, "
            f"largest {values[-1]:.3g}): no pair of views has these moments"
        )


def read_moments(path: str | os.PathLike[str]) -> SecondMoments:
    """The second moments in a file of `World.save`, or of `numpy.savez` with the same names.

    Raises
    ------
    ValueError
        One line, if the file cannot be read, is none, or holds other things than the moments of a pair of views.
    """
    try:
        facts = Path(path).stat()
        return _read(str(Path(path).resolve()), facts.st_mtime_ns, facts.st_size)
    except (OSError, zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else "not a whole .npz file"
        raise ValueError(reason) from error


@lru_cache(maxsize=8)
def _read(path: str, mtime_ns: int, size: int) -> SecondMoments:
    with zipfile.ZipFile(path) as archive:
        members = archive.infolist()
        named = {info.filename.removesuffix(".npy"): info for info in members}
        unknown = sorted(named.keys() - set(NAMES))
        if unknown or len(named) < len(members):
            name = unknown[0] if unknown else members[0].filename
            raise ValueError(f"{name[:60]!r} is no array of a world: must be one of {', '.join(NAMES)}")
        if sum(info.file_size for info in members) > MAX_BYTES:
            raise ValueError(f"its arrays take more than {MAX_BYTES >> 30} GiB")
        shapes = {name: _shape(name, archive, info) for name, info in named.items()}
        check_shapes(shapes)
        arrays = {}
        for name, info in named.items():
            with archive.open(info) as member:
                arrays[name] = np.lib.format.read_array(member, allow_pickle=False)
    return checked_moments(arrays)


def _shape(name: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> tuple[int, ...]:
    """The shape in an array's header, which is believed if the member is as long as it says: before any is read."""
    with archive.open(info) as member:
        version = np.lib.format.read_magic(member)
        reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = reader(member)
        if dtype.kind not in "fiu":
            raise ValueError(f"{name} holds {'objects' if dtype.hasobject else dtype.name}, not real numbers")
        entries = 1
        for length in shape:
            entries *= int(length)
        if member.tell() + entries * dtype.itemsize != info.file_size:
            raise ValueError(f"{name} is not as long as its header says")
    return tuple(shape)
