"""Load and select: a folder of run files as one tidy table, or as one value a run."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from byolsim.errors import UserError, printable
from byolsim.store.columns import schema
from byolsim.store.details import RunInfo
from byolsim.store.files import each_table
from byolsim.store.names import SUFFIX

T = TypeVar("T")


@dataclass(frozen=True)
class Folder:
    """The readable runs of a folder, each id once, and one line for each file that was skipped."""

    runs: list[tuple[RunInfo, pa.Table]] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


def read_folder(runs_dir: str | Path, columns: Sequence[str]) -> Folder:
    """Read the named columns of every run in a folder or a file of `byolsim export`; bad files are named and skipped.

    Raises
    ------
    UserError
        If the folder is not there or holds no Parquet file that can be used.
    """
    folder = Folder()
    folder.runs.extend(each_run(runs_dir, columns, folder.skipped))
    return folder


def each_run(runs_dir: str | Path, columns: Sequence[str], skipped: list[str]) -> Iterator[tuple[RunInfo, pa.Table]]:
    """The runs of a folder one at a time, each id once, so that a large folder need not fit in memory.

    Parameters
    ----------
    runs_dir : folder of run files, or a file of `byolsim export`.
    columns : names to read; no other column is touched.
    skipped : gets one line for each damaged or foreign file.

    Raises
    ------
    UserError
        As `read_folder`, once the last file has been seen.
    """
    none = True
    for found in each_file(runs_dir, skipped, lambda path: each_table(path, columns)):
        none = False
        yield found
    if none:
        raise no_run(runs_dir, skipped)


def each_file(
    runs_dir: str | Path, skipped: list[str], read: Callable[[Path], Iterator[tuple[RunInfo, T]]]
) -> Iterator[tuple[RunInfo, T]]:
    """What `read` gives of each file in the order of their names, each id once; bad files go to `skipped`."""
    seen: set[str] = set()
    for path in _files(runs_dir):
        found = read(path)
        while True:
            try:
                info, content = next(found)
            except StopIteration:
                break
            except UserError as error:
                skipped.append(printable(str(error)))
                break
            if info.run_id not in seen:
                seen.add(info.run_id)
                yield info, content


def no_run(runs_dir: str | Path, skipped: Sequence[str]) -> UserError:
    """The error for a folder without a run that can be used."""
    bad = f" ({len(skipped)} files could not be read, the first: {skipped[0]})" if skipped else ""
    return UserError(f"runs folder {str(runs_dir)!r} holds no run: must hold Parquet files of byolsim{bad}")


def _files(runs_dir: str | Path) -> Iterator[Path]:
    """The Parquet files of a folder; or the one file, as `byolsim export` writes it, in place of a folder."""
    try:
        if Path(runs_dir).suffix == SUFFIX and Path(runs_dir).is_file():
            yield Path(runs_dir)
            return
        paths = sorted(Path(runs_dir).iterdir())
    except (FileNotFoundError, NotADirectoryError):
        what = "is a file" if Path(runs_dir).is_file() else "is not there"
        raise UserError(f"runs folder {str(runs_dir)!r} {what}: must be a folder of run files") from None
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise UserError(f"runs folder {str(runs_dir)!r} cannot be read: {why}") from None
    yield from (path for path in paths if path.suffix == SUFFIX and not path.name.startswith("."))


def load_runs(runs_dir: str | Path, columns: Sequence[str] | None = None) -> pa.Table:
    """All rows of all runs in a folder as one Arrow table (`.to_pandas()`, Polars and DuckDB read it as it is).

    Parameters
    ----------
    runs_dir : folder of run files, or a file of `byolsim export`.
    columns : names to read; by default all of them, of the spectra where one of the runs logs them. A spectrum is a
        column of lists, null for runs that do not log it and in rows without a value: pandas makes arrays and None of
        them, and `numpy.stack` a matrix of the rows of one run.

    Raises
    ------
    UserError
        If the folder holds no run. Files that cannot be read are skipped with a warning each.
    """
    known = schema(True).names
    names = list(known if columns is None else columns)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise UserError(f"unknown column {unknown[0]!r}: must be one of {', '.join(known)}")
    folder = read_folder(runs_dir, names)
    for line in folder.skipped:
        warnings.warn(f"skipped {line}", stacklevel=2)
    if columns is None and not any(info.has_spectra for info, _ in folder.runs):
        names = schema().names
    return pa.concat_tables([table.select(names) for _, table in folder.runs])


def value_at(epochs: np.ndarray, values: np.ndarray, epoch: int, use_last_valid: bool) -> float:
    """The value of one run's metric at an epoch, NaN where there is none.

    With `use_last_valid`, the last finite value at or before the epoch; without it, that row alone counts.
    """
    here = epochs <= epoch if use_last_valid else epochs == epoch
    usable = np.flatnonzero(here & np.isfinite(values))
    return float(values[usable[-1]]) if usable.size else float("nan")


def values_at(table: pa.Table, names: Sequence[str], epoch: int, use_last_valid: bool) -> dict[str, float]:
    """`value_at` of several columns of one run's rows; a null counts as NaN."""
    epochs = table["epoch"].to_numpy()
    return {name: value_at(epochs, table[name].to_numpy(), epoch, use_last_valid) for name in names}
