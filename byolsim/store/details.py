"""What a file says of a run besides its rows: JSON in its metadata, believed only where it fits together.

A file may come from an earlier version, which had fewer hyperparameters, from a later one, or from a stranger.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from byolsim.config.run import RunConfig, identity
from byolsim.errors import UserError, printable
from byolsim.model.rows import logged_rows
from byolsim.version import SCHEMA_VERSION

STATUSES = ("completed", "diverged")
"""How a run ends that has a file."""

LONGEST = 2**20
"""Bytes of JSON that are read of one run; what this program writes has some 2,000."""

_SHOWN = 60
"""Characters of a foreign text that a message shows."""


class Foreign(UserError):
    """An intact file, but of no run that this version can read: never to be replaced unasked."""


@dataclass(frozen=True)
class RunInfo:
    """What a file says of its run: `rows` of them, `details` as they are in the metadata."""

    path: Path
    run_id: str
    config: RunConfig
    status: str
    diverged_epoch: int | None
    rows: int
    details: Mapping[str, Any]

    @property
    def has_spectra(self) -> bool:
        """Whether the file holds the spectra of its run."""
        return self.details.get("spectra") is True


def parse_info(path: Path, text: str | bytes, rows: int) -> RunInfo:
    """The info of a run from its JSON.

    Raises
    ------
    UserError
        If the text is damaged or does not fit together or to the number of rows; `Foreign` if a later version wrote it.
    """
    try:
        return _info(path, parse_json(text), rows)
    except Foreign as error:
        raise Foreign(f"{path}: {error}") from None
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise UserError(f"{path}: damaged metadata ({first_line(error)})") from error


def parse_json(text: str | bytes) -> dict[str, Any]:
    """A JSON object; `ValueError` for anything else, nested beyond reason among it."""
    if len(text) > LONGEST:
        raise ValueError(f"{len(text)} bytes of JSON")
    try:
        content = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError("no JSON object")
    return content


def stored_config(content: Any) -> RunConfig:
    """The configuration that a file holds, whatever version wrote it.

    A hyperparameter that the file lacks is younger than the file and was null. One that is not known here is younger
    than this program: where it is null it says nothing, else `Foreign`, as no configuration here is that run's.

    Raises
    ------
    ValueError
        If it is no configuration.
    """
    if not isinstance(content, dict):
        raise ValueError("config is no JSON object")
    given = {name: value for name, value in content.items() if value is not None}
    unknown = sorted(given.keys() - RunConfig.model_fields.keys())
    if unknown:
        raise Foreign(f"hyperparameter {_shown(unknown[0])} is not known to this version of byolsim")
    config = RunConfig(**given)
    resolved = config.__dict__
    differs = [name for name, value in given.items() if resolved[name] != value]
    if differs:
        raise ValueError(f"{differs[0]} is not what the rest of the configuration makes it")
    return config


def _info(path: Path, details: dict[str, Any], rows: int) -> RunInfo:
    version = _whole(details, "schema_version")
    if version != SCHEMA_VERSION:
        raise Foreign(f"schema version {version}, not {SCHEMA_VERSION}")
    numerics = _whole(details, "numerics_version")
    config = stored_config(details["config"])
    if details["run_id"] != identity(details["config"], version, numerics):
        raise ValueError("run_id is not that of the configuration")
    status, ended = details["status"], details["diverged_epoch"]
    if status not in STATUSES:
        raise ValueError(f"status {_shown(status)}")
    if ended is not None and not 0 <= _whole(details, "diverged_epoch") <= config.epochs:
        raise ValueError(f"diverged_epoch {ended}, of {config.epochs} epochs")
    if (status == "diverged") != (ended is not None):
        raise ValueError(f"status {status}, diverged_epoch {ended}")
    if rows != logged_rows(config, ended):
        raise ValueError(f"{rows} rows, not the {logged_rows(config, ended)} of this run")
    return RunInfo(path, details["run_id"], config, status, ended, rows, details)


def _whole(details: Mapping[str, Any], name: str) -> int:
    value = details[name]
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError(f"{name} {_shown(value)} is no whole number")
    return value


def _shown(value: Any) -> str:
    """A value of any kind and length, as a message can show it."""
    text = printable(repr(value))
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def first_line(error: Exception) -> str:
    """An error of a library as a short reason."""
    line = (str(error).splitlines() or [type(error).__name__])[0]
    return line if len(line) <= 4 * _SHOWN else f"{line[: 4 * _SHOWN]}..."
