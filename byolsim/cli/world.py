"""`byolsim world`: what a world is."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import click
import numpy as np
from numpy.typing import NDArray

from byolsim.cli.options import NOT_OF_A_WORLD, Given, command_of
from byolsim.cli.tables import table
from byolsim.config.commands import WorldOutput
from byolsim.config.run import RunConfig
from byolsim.errors import UserError
from byolsim.model.world import World
from byolsim.model.world_facts import WorldFacts, world_facts

MOST_ROWS = 24
"""Modes that a table shows: the first and the last of more."""


@command_of(
    RunConfig,
    WorldOutput,
    without=NOT_OF_A_WORLD,
    positional="world",
    help="Show what a world is, of options or of a file with second moments: shapes, noise, symmetry, and for each "
    "canonical mode its Wiener gain and the energy that a random encoder has in it. --out writes it to a file.",
    epilog="gain: w_j, an eigenvalue of Sigma_x^(-1/2) Sigma_px Sigma_x^(-1/2); variance: of x along the mode; energy: "
    "expected at --init zero_pred; eta_c: the weight decay above which the mode collapses.",
)
def command(given: Given) -> int:
    """Parse, show or write."""
    config, output = given.build(RunConfig), given.build(WorldOutput)
    path = None if output.out is None else _checked(output.out, output.force)
    world = World.from_config(config)
    facts = world_facts(world, config.k)
    if path is not None:
        world.save(path)
    digest = config.world_id if path is None else world.second_moments.digest
    if output.format == "json":
        content = {name: _plain(value) for name, value in asdict(facts).items()}
        content |= {"room": facts.room, "has_reduced_form": facts.has_reduced_form, "digest": digest}
        click.echo(json.dumps(content))
    else:
        click.echo("\n".join([*_lines(facts, digest), "", *_modes(facts)]))
    if path is not None:
        click.echo(f"wrote {path}", err=output.format == "json")
    return 0


def _checked(out: str, force: bool) -> Path:
    """The path to write; said before anything is computed."""
    path = Path(out)
    if path.suffix != ".npz":
        raise UserError(f"--out {out!r} is not allowed: must be a name that ends in .npz")
    if path.exists() and not force:
        raise UserError(f"--out {out!r} is there already: choose another name, or --force to replace it")
    return path


def _plain(value: object) -> object:
    return value.tolist() if isinstance(value, np.ndarray) else value


def _lines(facts: WorldFacts, digest: str | None) -> list[str]:
    """What is said of the world as a whole."""
    latents = "second moments, no latents" if facts.r is None else f"r = {facts.r} latents that the views share"
    rank = "" if facts.rank == facts.q else f", x varies in {facts.rank} of them"
    where = " (outside the moments)" * (not facts.noise_inside)
    what = "modes decouple" if facts.decoupled else "modes do not decouple: no thresholds"
    if not facts.W_symmetric:
        what += ", and gains are those of the symmetric part"
    reduced = "available" if facts.has_reduced_form else "not available"
    lines = [
        f"shapes:    d = {facts.d}, q = {facts.q} structured dimensions{rank}, {latents}; k = {facts.k}",
        f"noise:     sigma = {facts.sigma:.6g}, sigma_plus = {facts.sigma_plus:.6g}{where}",
        f"symmetry:  S_px {_yes(facts.S_px_symmetric)}, W {_yes(facts.W_symmetric)}; {what}",
        f"variance:  lambda_max(Sigma_x) = {facts.lambda_max_x:.6g}; tr C_oo = {facts.tr_C_oo:.6g} of a random encoder",
        f"reduced:   {reduced} (d - q = {facts.room}, needs 4k = {facts.room_needed})",
    ]
    return lines if digest is None else [*lines, f"digest:    {digest}"]


def _shown(values: NDArray[np.float64], j: int) -> str:
    """A number; 0 for what is rounding beside the largest."""
    return f"{values[j]:.6g}" if abs(values[j]) > 1e-13 * np.abs(values).max() else "0"


def _yes(symmetric: bool) -> str:
    return "symmetric" if symmetric else "not symmetric"


def _modes(facts: WorldFacts) -> list[str]:
    """A table of the modes, all or the first and the last."""
    shown = list(range(facts.q))
    if facts.q > MOST_ROWS:
        shown = shown[: MOST_ROWS - 4] + shown[-4:]
    columns = {"gain": facts.gains, "variance": facts.variances, "energy": facts.energies}
    if facts.thresholds is not None:
        columns["eta_c"] = facts.thresholds
    rows = [[str(j + 1), *(_shown(values, j) for values in columns.values())] for j in shown]
    lines = table(["mode", *columns], rows, left=())
    if facts.q > MOST_ROWS:
        lines.insert(MOST_ROWS - 3, f"... {facts.q - MOST_ROWS} more")
    return lines
