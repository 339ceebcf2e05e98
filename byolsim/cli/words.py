"""The words of a command line: lists in three spellings, and where a word belongs that the command does not take."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import click

from byolsim.config.describe import option_names
from byolsim.config.fields import known, names
from byolsim.config.grid import SweepConfig
from byolsim.config.run import RunConfig


def _axis_options(axis: str) -> tuple[str, ...]:
    of = str(known(SweepConfig.model_fields[axis])["axis_of"])
    return option_names(of, RunConfig.model_fields[of])


AXES: Mapping[str, tuple[str, ...]] = {axis: _axis_options(axis) for axis in names(SweepConfig, "axis_of")}
"""Axis of a grid -> the options of one run that it stands for."""

NO_AXIS = "; it is no axis of the grid, whose axes are " + ", ".join(f"--{name}" for name in AXES)


class Repeated(click.Option):
    """Text that may be given several times, each time with more that must hold."""


class ListCommand(click.Command):
    """Lists are accepted as `--seeds 42 43`, `--seeds 42,43` and repeated; what does not fit is told where it would."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Turn the values that follow a list option into repetitions of it, then parse."""
        options = {param.name: param for param in self.params if isinstance(param, click.Option) and param.name}
        lists = {
            f"--{name}" for name, option in options.items() if option.multiple and not isinstance(option, Repeated)
        }
        words = _repeat_lists(args, lists)
        try:
            return super().parse_args(ctx, words.copy())
        except click.NoSuchOption as error:
            name = error.option_name.lstrip("-").replace("-", "_")
            hint = place_of(name, options)
            if hint is None:
                raise
            raise click.UsageError(f"No such option '--{name}': {hint}", ctx) from None
        except click.UsageError as error:
            several = _several_values(words, options) if "extra argument" in error.message else None
            if several is None:
                raise
            raise click.UsageError(several, ctx) from None


def place_of(name: str, taken: Collection[str], sign: str = "--") -> str | None:
    """What a command has in place of an option that belongs to one run, or to a grid; None where that is not why."""
    axis = next((axis for axis, options in AXES.items() if name in options and axis in taken), None)
    if axis is not None:
        about = SweepConfig.model_fields[axis].description
        return f"a grid has {sign}{axis}" + (f" ({about})" if sign else "")
    options = [option for option in AXES.get(name, ()) if option in taken]
    return f"one run has {sign}{options[0]}" + ("; `byolsim sweep` computes a grid" * bool(sign)) if options else None


def _several_values(words: Sequence[str], options: Mapping[str, click.Option]) -> str | None:
    """The mistake of the first option that was given more values than the one, or none, that it takes."""
    values: list[str] = []
    name = ""
    others = _other_forms(options)
    for word in [*words, "--"]:
        if not word.startswith("-") or is_number(word):
            values.append(word)
            continue
        if values and f"--{name}" in others:
            return f"--{name} takes no value, not {' '.join(values)}: its other form is {others[f'--{name}']}"
        if len(values) > 1 and name in options and not options[name].is_flag:
            if isinstance(options[name], Repeated):
                return f"--{name} takes one value, not {' '.join(values)}: put it in quotes"
            grid = name in RunConfig.model_fields and bool(set(AXES) & set(options))
            return f"--{name} takes one value, not {' '.join(values)}" + NO_AXIS * grid
        name, equals, value = word.partition("=")
        name, values = name.lstrip("-").replace("-", "_"), [value] * bool(equals)
    return None


def _other_forms(options: Mapping[str, click.Option]) -> dict[str, str]:
    """Of options that are true or false by two forms, each form -> the other."""
    pairs = [(yes, no) for option in options.values() for yes in option.opts for no in option.secondary_opts]
    return dict(pairs) | {no: yes for yes, no in pairs}


def _repeat_lists(args: Sequence[str], lists: Collection[str]) -> list[str]:
    """`--seeds 42 43` as `--seeds 42,43`; a list option ends at the next option. Negative numbers are values."""
    spread: list[str] = []
    values: list[str] | None = None
    for arg in [*args, "--"]:
        is_option = arg.startswith("-") and not is_number(arg)
        if values is not None and not is_option:
            values.append(arg)
            continue
        if values:
            spread.append(",".join(values))
        values = None
        name, equals, value = arg.partition("=")
        if "--" + name[2:].replace("-", "_") in lists and name.startswith("--"):
            spread.append(name)
            values = [value] if equals else []
        else:
            spread.append(arg)
    return spread[:-1]


def is_number(text: str) -> bool:
    """Whether a word that begins with a dash is a value, or the first of several, and no option."""
    try:
        float(text.split(",")[0])
    except ValueError:
        return False
    return True
