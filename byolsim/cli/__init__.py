"""The command line: each command parses, makes one library call and shows what came back."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import NoReturn

import click

from byolsim import __version__
from byolsim.errors import UserError, show_warnings_as_lines
from byolsim.interrupts import Terminated, exit_on_sigterm

_COMMANDS = {
    "run": "Train one model and store its trajectory.",
    "sweep": "Train a grid of models and store each trajectory.",
    "figs": "Draw heatmaps and slices of a sweep.",
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
        """Import one command."""
        if cmd_name not in _COMMANDS:
            return None
        command = import_module(f"byolsim.cli.{cmd_name}").command
        assert isinstance(command, click.Command)
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
    exit_on_sigterm()
    show_warnings_as_lines()
    typed = sys.argv[1:] if args is None else args
    if not typed:
        _stop(f"no command is given: must be one of {', '.join(_COMMANDS)}", 2)
    try:
        code = cli.main(args=args, prog_name="byolsim", standalone_mode=False)
        sys.stdout.flush()
        sys.exit(code if isinstance(code, int) else 0)
    except click.ClickException as error:
        message = error.format_message()
        known = f" must be one of {', '.join(_COMMANDS)}" if message.startswith("No such command") else ""
        _stop(message + known, 2)
    except UserError as error:
        _stop(str(error), 2)
    except MemoryError:
        _stop("not enough memory for these shapes: lower batch_size, d_obs or d_latent", 2)
    except OSError as error:
        closed_early = isinstance(error, BrokenPipeError)  # as `head` does: there is nothing to tell anyone
        # What standard output still holds cannot be written either: let the interpreter drop it at exit.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if closed_early:
            sys.exit(1)
        _stop(f"cannot write the output: {error.strerror or error}", 2)
    except (KeyboardInterrupt, click.Abort) as error:
        if isinstance(error.__cause__, EOFError):  # click takes any for the end of an answer to a prompt; there is none
            raise error.__cause__ from None
        _stop_interrupted(typed, 130)
    except Terminated:
        _stop_interrupted(typed, 143)
    except Exception as error:
        # Compiled libraries turn a Ctrl-C in one of their callbacks into an error of their own.
        if "KeyboardInterrupt" in f"{error!r}{error.__cause__!r}{error.__context__!r}":
            _stop_interrupted(typed, 130)
        raise


def _stop_interrupted(typed: Sequence[str], code: int) -> NoReturn:
    """Say what is kept, and the line that goes on from there, as it was typed but for `--force`, which would not."""
    for number in (signal.SIGINT, signal.SIGTERM):  # one was enough
        signal.signal(number, signal.SIG_IGN)
    rest = [word for word in typed if word != "--force"]
    if rest[0] not in ("run", "sweep", "all"):
        _stop("interrupted", code)
    program = f"{Path(sys.executable).name} -m byolsim" if Path(sys.argv[0]).name == "__main__.py" else "byolsim"
    line = f"interrupted; finished runs are kept. To compute what is missing: {program} {shlex.join(rest)}"
    print(f"byolsim: {line}", file=sys.stderr)
    sys.exit(code)


def _stop(message: str, code: int) -> NoReturn:
    line = " ".join(message.split())
    if len(line) > LONGEST_LINE:
        line = f"{line[: LONGEST_LINE // 2]} ... {line[-LONGEST_LINE // 2 :]}"
    # in escapes what a terminal cannot show, or would obey
    line = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in line)
    print(f"byolsim: {line}", file=sys.stderr)
    sys.exit(code)
