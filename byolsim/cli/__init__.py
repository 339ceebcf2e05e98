"""The command line: each command parses, makes one library call and shows what came back."""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

import click

from byolsim.cli.terminal import standard_streams
from byolsim.errors import UserError, show_warnings_as_lines
from byolsim.machine.interrupts import SIGNALS, came, end_at_once, end_by_exception, interrupted_line, kept_handlers
from byolsim.version import __version__

_COMMANDS = {
    "run": "Train one model and store its trajectory.",
    "sweep": "Train a grid of models and store each trajectory.",
    "figs": "Draw heatmaps and slices of a sweep.",
    "world": "Show what a world is, or write it to a file.",
    "ls": "List stored runs and failures.",
    "export": "Write the rows of many runs to one file.",
    "all": "Run, then sweep, then figs.",
}


LONGEST_LINE = 1600
"""Characters of an error that are shown: a value from a file can be of any length."""


class LazyGroup(click.Group):
    """Commands are imported when they are called, so that `byolsim --help` is instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """All commands, in the order in which a user meets them."""
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import one command; from then on a signal comes as an exception."""
        if cmd_name not in _COMMANDS:
            return None
        command = import_module(f"byolsim.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
        if ctx.obj is not None:
            end_by_exception(ctx.obj)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands, without importing any."""
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"]}, no_args_is_help=False)
@click.version_option(__version__, prog_name="byolsim")
def cli() -> None:
    """The laboratory for learning dynamics of non-contrastive self-supervised models.

    On linear-Gaussian data an online encoder and a predictor learn by SGD to predict the features of a target encoder,
    an exponential moving average of the online one. `byolsim COMMAND --help` lists a command's options.
    """


def main(args: Sequence[str] | None = None) -> NoReturn:
    """Run the command line.

    Exit code 0, 1 where a run failed, 2 and one line for a mistake, 130 after Ctrl-C, 143 after SIGTERM.
    """
    typed = list(sys.argv[1:] if args is None else args)

    def line() -> str:
        return interrupted_line(typed)

    with kept_handlers(), standard_streams():
        try:
            end_at_once(line)
            show_warnings_as_lines()
            if not typed:
                _stop(f"no command is given: must be one of {', '.join(_COMMANDS)}", 2)
            code = cli.main(args=typed, prog_name="byolsim", standalone_mode=False, obj=line)
            sys.stdout.flush()
            sys.exit(code if isinstance(code, int) else 0)
        except BaseException as error:
            number = came() or (signal.SIGINT if _is_interrupt(error) else None)
            if number is not None:
                for other in SIGNALS:  # one was enough
                    signal.signal(other, signal.SIG_IGN)
                _stop(line(), 128 + number, whole=True)
            _explain(error)
            if isinstance(error, click.Abort) and isinstance(error.__cause__, EOFError):
                raise error.__cause__ from None  # click takes any for the end of an answer to a prompt; there is none
            raise


def _is_interrupt(error: BaseException) -> bool:
    """Whether Ctrl-C is the cause; click makes an error of its own of it, and of the end of a file."""
    return isinstance(error, KeyboardInterrupt) or isinstance(error.__cause__, KeyboardInterrupt)


def _explain(error: BaseException) -> None:
    """End with one line and exit code 2, or 1 where nobody reads; come back where there is nothing to explain."""
    if isinstance(error, click.ClickException):
        message = error.format_message()
        known = f" must be one of {', '.join(_COMMANDS)}" if message.startswith("No such command") else ""
        _stop(message + known, 2)
    if isinstance(error, UserError):
        _stop(str(error), 2)
    if isinstance(error, MemoryError):
        _stop("not enough memory for these shapes: lower batch_size, d_obs or d_latent", 2)
    if isinstance(error, OSError):
        _explain_system(error)


def _explain_system(error: OSError) -> NoReturn:
    """End with what the system said."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        _stop("too many open files: fewer workers, or a higher limit (ulimit -n)", 2)
    # What standard output still holds may not be written either: let the interpreter drop it at exit.
    with contextlib.suppress(OSError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):  # as `head` does: there is nothing to tell anyone
        sys.exit(1)
    what = repr(error.filename) if error.filename else "the output"
    _stop(f"cannot write {what}: {error.strerror or error}", 2)


def _stop(message: str, code: int, whole: bool = False) -> NoReturn:
    line = " ".join(message.split())
    if len(line) > LONGEST_LINE and not whole:
        line = f"{line[: LONGEST_LINE // 2]} ... {line[-LONGEST_LINE // 2 :]}"
    # in escapes what a terminal cannot show, or would obey
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    print(f"byolsim: {line}", file=sys.stderr)
    sys.exit(code)
