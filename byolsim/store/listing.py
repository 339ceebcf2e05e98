"""What a runs folder holds, run by run, without their rows: `byolsim ls`."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from byolsim.config.commands import LsConfig
from byolsim.config.fields import hyperparameters, known, names
from byolsim.config.run import RunConfig
from byolsim.errors import UserError, printable
from byolsim.store.details import RunInfo
from byolsim.store.failures import failed_files, read_failure
from byolsim.store.files import each_info, each_table
from byolsim.store.folder import each_file, no_run
from byolsim.store.where import Facts, facts, last_row, parse_where


@dataclass(frozen=True)
class Listed:
    """One run: `facts` as `--where` knows them, the file that says so, and why it failed (empty if it did not)."""

    facts: Facts
    file: str
    reason: str = ""


@dataclass(frozen=True)
class Listing:
    """The selected runs in order, how many there are in all, and one line for each file that was skipped.

    `metrics` are those that `where` names: the facts of each run hold their values in its last row.
    """

    runs: list[Listed]
    total: int
    skipped: list[str]
    metrics: tuple[str, ...] = ()

    def count(self, status: str) -> int:
        """Number of selected runs that ended so."""
        return sum(run.facts["status"] == status for run in self.runs)


def list_runs(config: LsConfig) -> Listing:
    """List the runs of a folder, every byte of their files checked, and the recorded failures.

    Ordered by mode (single runs first), batch size, tau, alpha, beta and seed, a rate that is auto after the others.
    A failure of a run whose complete file is there now is history and left out.

    Raises
    ------
    UserError
        If `where` cannot be read, or the folder is not there or holds neither a run nor a failure.
    """
    chosen = parse_where(config.where)
    folder, skipped = Path(config.runs_dir), list[str]()
    found = {run.facts["run_id"]: run for run in _failures(folder, skipped, chosen.metrics)}

    def read(path: Path) -> Iterator[tuple[RunInfo, Facts]]:
        tables = each_table(path, chosen.metrics) if chosen.metrics else iter(())
        measured = {info.run_id: last_row(table, chosen.metrics) for info, table in tables}
        return ((info, measured.get(info.run_id, {})) for info, _ in each_info(path))

    for info, measured in each_file(folder, skipped, read):
        found[info.run_id] = Listed({**run_facts(info), **measured}, printable(info.path.name))
    if not found:
        raise no_run(folder, skipped)
    runs = [run for run in found.values() if chosen(run.facts)]
    return Listing(sorted(runs, key=_order), len(found), skipped, chosen.metrics)


def run_facts(info: RunInfo) -> Facts:
    """What `--where` knows of a stored run; a diverged one reached the epoch at which it diverged."""
    reached = info.config.epochs if info.diverged_epoch is None else info.diverged_epoch
    return facts(info.run_id, info.config, info.status, reached)


def _failures(folder: Path, skipped: list[str], metrics: Sequence[str]) -> Iterator[Listed]:
    for path in failed_files(folder):
        try:
            run_id, config, reason = read_failure(path)
        except UserError as error:
            skipped.append(printable(str(error)))
            continue
        told = facts(run_id, config, "failed", None) | dict.fromkeys(metrics)
        yield Listed(told, printable(f"{path.parent.name}/{path.name}"), printable(reason))


def _order(run: Listed) -> tuple[Any, ...]:
    of = run.facts
    rates = [math.inf if of[name] is None else of[name] for name in ("tau", "lr_pred", "lr_enc")]
    return of["lr_enc_mode"] or "", of["batch_size"], *rates, of["seed"], of["run_id"]


def table_columns(runs: Sequence[Listed]) -> list[str]:
    """What a table of these runs shows: the key columns, and the hyperparameters in which the runs differ."""
    fields = hyperparameters(RunConfig)
    key = sorted(names(RunConfig, "key"), key=lambda name: known(fields[name])["key"])
    others = [name for name in fields if name not in key and len({run.facts[name] for run in runs}) > 1]
    return ["run_id", "status", "reached", *key, *others]
