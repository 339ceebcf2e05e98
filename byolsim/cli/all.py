"""`byolsim all`: one run, the grid, the pictures."""

from __future__ import annotations

from byolsim.analysis.select import check_metric
from byolsim.cli.figs import check_out, draw
from byolsim.cli.options import Given, command_of
from byolsim.cli.run import run_one
from byolsim.cli.sweep import plan_of, sweep_grid
from byolsim.config.commands import FigsConfig, RunOutput, SweepOutput
from byolsim.config.fields import names
from byolsim.config.grid import SweepConfig, sweep_notes
from byolsim.config.run import RunConfig
from byolsim.errors import UserError
from byolsim.machine.whole import check_writable


@command_of(
    SweepConfig,
    SweepOutput,
    FigsConfig,
    without=[name for model in (SweepOutput, FigsConfig) for name in names(model, "set_by_all")],
    help="Train one model, then a grid of models, then draw the grid's figures at its last epoch.",
    from_file=(RunConfig, RunOutput),
    epilog="The single run takes those of the options that `byolsim run` has, with the defaults of `byolsim run`, and "
    "its other options from a file.",
)
def command(given: Given) -> int:
    """Parse, then the three commands in turn."""
    run, grid = given.build(RunConfig), given.build(SweepConfig)
    for axis, option in grid.without.items():
        raise UserError(
            f"{option} leaves the figures of `byolsim all` without the axis of {axis}: use `byolsim run` and "
            "`byolsim sweep`, which draw nothing"
        )
    run_output, output = given.build(RunOutput), given.build(SweepOutput)
    figures = given.build(
        FigsConfig, runs_dir=output.out_dir, epoch=grid.epochs, lr_enc_mode=grid.lr_enc_mode, use_last_valid=False
    )
    for name in ("metric", "enc_metric"):
        check_metric(getattr(figures, name), name)
    check_out(figures)
    plan = plan_of(grid, output)
    if not output.dry_run:
        check_writable(figures.out, "out")
    run_one(run, run_output, [])
    code = sweep_grid(plan, output, sweep_notes(given.values, grid))
    if output.dry_run:
        return 0
    draw(figures, {config.run_id for config in plan.runs})
    return code
