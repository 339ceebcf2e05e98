"""Where a run ended, as a file: `_states/<name of the run's file>.npz` in the runs folder.

The leading underscore of the folder hides it from readers of the whole runs folder. The file holds the arrays of
`model.start.Start` in double precision, and their digest: what was damaged is not taken for a state.
"""

from __future__ import annotations

import os
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from byolsim.errors import UserError
from byolsim.machine.whole import whole_file
from byolsim.model.start import Start, start_of_arrays

STATES = "_states"

DIGEST = "digest"
"""Name of the array that seals the others: the hexadecimal digits of `Start.digest`, as bytes."""


_DAMAGE = (OSError, zipfile.BadZipFile, zlib.error, ValueError, KeyError, EOFError, AttributeError, TypeError)
"""What reading a damaged file can raise."""


def state_path(path: Path) -> Path:
    """The file of the state that belongs to a run's file."""
    return path.parent / STATES / f"{path.stem}.npz"


def save_state(start: Start, path: Path) -> Path:
    """Write where a run ended, beside its file `path`; it appears whole or not at all.

    Raises
    ------
    UserError
        If it cannot be written.
    """
    place = state_path(path)
    arrays: dict[str, Any] = {**start.arrays(), DIGEST: np.frombuffer(start.digest.encode(), dtype=np.uint8)}
    with whole_file(place) as file:
        np.savez(file, **arrays)
    return place


def load_state(path: str | os.PathLike[str]) -> Start:
    """Where a run ended: to look into, or to start from (`simulate_runs(..., initial=...)`).

    Parameters
    ----------
    path : the file of the state, or that of its run.

    Raises
    ------
    UserError
        If there is none, or it is damaged.
    """
    place = Path(path)
    if place.suffix == ".parquet":
        place = state_path(place)
    try:
        with np.load(place, allow_pickle=False) as held:
            arrays = {name: held[name] for name in held.files}
        seal = bytes(arrays.pop(DIGEST).astype(np.uint8)).decode()
        start = start_of_arrays(arrays)
    except FileNotFoundError:
        raise UserError(f"{place} is not there: a run leaves its state with --save_state") from None
    except (
        OSError,
        zipfile.BadZipFile,
        zlib.error,
        ValueError,
        KeyError,
        EOFError,
        AttributeError,
        TypeError,
    ) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
        raise UserError(f"{place}: not a whole file of a state ({reason})") from error
    if seal != start.digest:
        raise UserError(f"{place}: damaged (checksum)")
    return start
