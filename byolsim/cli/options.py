"""Options from configuration models: a field declared once is an option, a TOML key and a line of help.

Values are read as text and typed by the field; what does not fit reaches the model unchanged and is refused there, so
that the command line, a TOML file and Python have one set of checks and one form of error.
"""

from __future__ import annotations

import difflib
import stat
import tomllib
import typing
from collections.abc import Callable, Collection, Mapping
from copy import copy
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from byolsim.cli.words import AXES, NO_AXIS, ListCommand, Repeated, place_of
from byolsim.config.commands import ExportConfig, FigsConfig, LsConfig, RunOutput, SweepOutput, WorldOutput
from byolsim.config.describe import allowed, field_type, first_error, option_names, without_none
from byolsim.config.fields import known, names
from byolsim.config.grid import SweepConfig
from byolsim.config.run import RunConfig
from byolsim.errors import UserError

M = TypeVar("M", bound=BaseModel)

COMMANDS: dict[str, tuple[type[BaseModel], ...]] = {
    "run": (RunConfig, RunOutput),
    "sweep": (SweepConfig, SweepOutput),
    "figs": (FigsConfig,),
    "world": (RunConfig, WorldOutput),
    "ls": (LsConfig,),
    "export": (ExportConfig,),
}
"""The models whose fields are the options of each command; `all` takes from several of them."""

NOT_OF_A_WORLD = frozenset(
    option
    for name, field in RunConfig.model_fields.items()
    if name not in names(RunConfig, "of_world") + names(RunConfig, "world_too")
    for option in option_names(name, field)
)
"""The options of a run that `world` does not have."""

CONFIG_BYTES = 10**6
"""A TOML file that is larger is none for this program, and would take its time."""

_BOOLEANS = {"true": True, "1": True, "yes": True, "on": True, "false": False, "0": False, "no": False, "off": False}


@dataclass(frozen=True)
class Given:
    """What the user gave, the command line over the TOML file, by option name."""

    values: dict[str, Any]
    file: str | None = None
    from_file: frozenset[str] = frozenset()

    def label(self, name: str) -> str:
        """An option's name as the user typed it."""
        return f"{self.file}: {name}" if name in self.from_file else f"--{name}"

    def build(self, model: type[M], **more: Any) -> M:
        """A model from the values that it has fields for; `UserError` with one line if they do not fit."""
        names = {name for name, _ in fields_by_option(model)}
        chosen = {name: value for name, value in self.values.items() if name in names}
        try:
            return model(**(chosen | more))
        except ValidationError as error:
            line = first_error(error, (model,), self.label, self.values)
            raise UserError(line + NO_AXIS * _is_list_for_one(model, error)) from None


def _is_list_for_one(model: type[BaseModel], error: ValidationError) -> bool:
    """Whether several values were given for a hyperparameter of a grid that is no axis of it."""
    where, value = error.errors()[0]["loc"], error.errors()[0]["input"]
    if model is not SweepConfig or not where or where[0] in AXES:
        return False
    return isinstance(value, (list, tuple)) or (isinstance(value, str) and "," in value)


def fields_by_option(*models: type[BaseModel], without: Collection[str] = ()) -> list[tuple[str, FieldInfo]]:
    """(option name, field) of each option of the models, each once, in the order of declaration."""
    found: dict[str, FieldInfo] = {}
    for model in models:
        for name, field in model.model_fields.items():
            for k, option in enumerate(option_names(name, field)):
                if option not in without:
                    found.setdefault(option, field if k == 0 else _other(field))
    return list(found.items())


def options_of(command: str) -> list[tuple[str, FieldInfo]]:
    """(option name, field) of each option of a command of `COMMANDS`."""
    return fields_by_option(*COMMANDS[command], without=NOT_OF_A_WORLD if command == "world" else ())


def _other(field: FieldInfo) -> FieldInfo:
    """A field as its second option describes it, which is the field itself."""
    other = copy(field)
    other.description = str(known(field)["also_help"])
    other.json_schema_extra = {**known(field), "complement": False}
    return other


def command_of(
    *models: type[BaseModel],
    help: str,
    epilog: str = "",
    without: Collection[str] = (),
    from_file: Collection[type[BaseModel]] = (),
    positional: str = "",
) -> Callable[[Callable[[Given], int]], click.Command]:
    """Decorator: a command with the options of the models and `--config`; the body gets what was `Given`.

    The keys of the models in `from_file` are read from a file too, though they are no options of the command. The
    option `positional` may be given without its name.
    """
    options = fields_by_option(*models, without=without)
    readable = dict(fields_by_option(*models, *from_file, without=without))

    def decorate(body: Callable[[Given], int]) -> click.Command:
        def callback(config: str | None, **texts: Any) -> int:
            word = texts.pop("word", None)
            if word is not None and texts[positional] is not None:
                raise UserError(f"--{positional} and {word!r} are given: must be one of them")
            texts |= {positional: word} if word is not None else {}
            given = {name: text for name, text in texts.items() if text is not None and text != ()}
            typed = {name: _typed(dict(options)[name], name, text) for name, text in given.items()}
            stored = _from_file(config, readable, typed) if config is not None else {}
            return body(Given(stored | typed, config, frozenset(stored)))

        config = click.Option(
            ["--config"],
            metavar="FILE.toml",
            help="Read options from a file, which may hold those of other commands too; the command line wins.",
        )
        words = [click.Argument(["word"], required=False, metavar=f"[{positional.upper()}]")] if positional else []
        return ListCommand(
            name=None,
            help=help,
            epilog=epilog,
            callback=callback,
            params=[*words, config, *(_click_option(name, field) for name, field in options)],
            context_settings={
                "help_option_names": ["-h", "--help"],
                "token_normalize_func": lambda token: token.replace("-", "_"),
                "max_content_width": 100,
            },
        )

    return decorate


def _is_list(field: FieldInfo) -> bool:
    return bool(known(field).get("listed")) or typing.get_origin(field_type(field)[0]) is tuple


def _click_option(name: str, field: FieldInfo) -> click.Option:
    bare, _ = field_type(field)
    text = f"{field.description}."
    if known(field).get("flag"):
        return click.Option([f"--{name}"], is_flag=True, default=None, help=text)
    if known(field).get("switch"):
        default = default_text(field)
        text += f"  [default: {default}]" if default else ""
        return click.Option([f"--{name}/--no_{name}"], default=None, help=text)
    if typing.get_origin(bare) is typing.Literal:
        metavar = "[" + "|".join(typing.get_args(bare)) + "]"
    else:
        metavar = {int: "INT", float: "FLOAT", bool: "BOOL", str: "TEXT"}.get(bare, "LIST")
        text += "" if known(field).get("listed") else f"  [{allowed(field)}]"
    default = default_text(field)
    text += f"  [default: {default}]" if default else ""
    if bare is bool:  # alone it means true
        return click.Option(
            [f"--{name}"], type=str, metavar=f"[{metavar}]", is_flag=False, flag_value="true", help=text
        )
    kind = Repeated if known(field).get("repeated") else click.Option
    multiple = kind is Repeated or _is_list(field)
    return kind([f"--{name}"], type=str, metavar=metavar, multiple=multiple, help=text)


def default_text(field: FieldInfo) -> str:
    """An option's default as a user would type it; empty where there is none."""
    if known(field).get("complement"):
        return str(1 - Decimal(repr(field.default)))
    if isinstance(field.default, tuple):
        return " ".join(format(v, "g") for v in field.default)
    if isinstance(field.default, bool):
        return str(field.default).lower()
    return "" if field.default is None else str(field.default)


def _typed(field: FieldInfo, name: str, text: Any) -> Any:
    """Text from the command line as the type of its field; text that does not fit stays text, to be refused there."""
    bare, _ = field_type(field)
    if not isinstance(text, (str, tuple)):
        return text
    if known(field).get("repeated"):
        return " and ".join(text)
    if isinstance(text, tuple):
        parts = [word for one in text for part in one.split(",") for word in part.split()]
        if known(field).get("listed"):  # blanks around a colon mean nothing, and join no numbers
            return (" " if ":" in "".join(parts) else ",").join(parts)
        kinds = typing.get_args(bare)
        if Ellipsis in kinds:
            return tuple(_number(kinds[0], part) for part in parts)
        if len(parts) != len(kinds):
            raise UserError(f"--{name} {' '.join(parts)} is not allowed: must be {allowed(field)}")
        return tuple(_number(kind, part) for kind, part in zip(kinds, parts, strict=True))
    if bare is bool:
        return _BOOLEANS.get(text.lower(), text)
    return _number(Decimal if known(field).get("complement") else bare, text)


def _number(kind: Any, text: str) -> Any:
    kind = typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind
    if kind not in (int, float, Decimal):
        return text
    try:
        return kind(text)
    except (ValueError, InvalidOperation):
        return _whole(text) if kind is int else text


def _whole(text: str) -> Any:
    """`1e3` as the whole number that it is; other text as it was."""
    try:
        value = Decimal(text)
    except InvalidOperation:
        return text
    # beyond any bound: the digits are not written out
    if not value.is_finite() or value.adjusted() > 30 or value != value.to_integral_value():
        return text
    return int(value)


def _from_file(path: str, fields: Mapping[str, FieldInfo], typed: Collection[str]) -> dict[str, Any]:
    """The values in a file that a command reads, but for those that the command line gives, by whatever name."""
    content = _read_toml(path, dict(fields_by_option(*(model for models in COMMANDS.values() for model in models))))
    twins = [option_names(name, field) for name, field in RunConfig.model_fields.items()]
    given = {*typed, *(name for names in twins if set(names) & set(typed) for name in names)}
    _note_unused(path, [name for name in content if name not in fields], {*fields} & {*content, *typed}, fields)
    return {name: _from_toml(fields[name], value) for name, value in content.items() if name in fields.keys() - given}


def _note_unused(path: str, unused: Collection[str], given: Collection[str], taken: Collection[str]) -> None:
    """One line for keys of one run where a grid is computed, or the reverse, unless what takes their place is given."""
    lost = {name: place_of(name, taken, sign="") for name in unused if place_of(name, given, sign="") is None}
    named = [name for name, place in lost.items() if place is not None]
    places = dict.fromkeys(place for place in lost.values() if place is not None)
    if named:
        verb = "is" if len(named) == 1 else "are"
        click.echo(f"note: {path}: {', '.join(named)} {verb} not used: {', '.join(places)}", err=True)


def _from_toml(field: FieldInfo, value: Any) -> Any:
    """A value of a file; TOML has no whole numbers with an exponent, so 1e3 comes as 1000.0."""
    bare, _ = field_type(field)
    if isinstance(value, list) and typing.get_origin(bare) is tuple:
        kinds = [kind for kind in typing.get_args(bare) if kind is not Ellipsis]
        kinds *= len(value) if len(kinds) == 1 else 1
        return [_if_whole(*pair) for pair in zip(kinds, value, strict=True)] if len(kinds) == len(value) else value
    return _if_whole(bare, value)


def _if_whole(kind: Any, value: Any) -> Any:
    return int(value) if without_none(kind)[0] is int and isinstance(value, float) and value.is_integer() else value


def _read_toml(path: str, options: Collection[str]) -> dict[str, Any]:
    """The options in a TOML file; `UserError` where it is none or names an option that no command has."""
    try:
        file = Path(path)
        status = file.stat()
        if not (stat.S_ISREG(status.st_mode) or stat.S_ISDIR(status.st_mode)):  # a device may have no end
            raise UserError(f"--config {path!r} cannot be read: not a file")
        if status.st_size > CONFIG_BYTES:
            raise UserError(f"--config {path!r} is too large: must be at most {CONFIG_BYTES:,} bytes")
        content = tomllib.loads(file.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise UserError(f"--config {path!r} cannot be read: {error.strerror or error}") from None
    except (ValueError, RecursionError) as error:  # TOML's and UTF-8's errors are ValueErrors
        raise UserError(f"--config {path!r} is no TOML file: {error}") from None
    values: dict[str, Any] = {}
    for key, value in content.items():
        name = key.replace("-", "_")
        if isinstance(value, dict):
            raise UserError(f"{path}: {key!r} is a table: options stand at the top level, without tables")
        if name not in options:
            near = difflib.get_close_matches(name, options, 1)
            hint = f"did you mean {near[0]!r}?" if near else "each key must be an option of a command"
            raise UserError(f"{path}: unknown key {key!r}: {hint}")
        if name in values:
            raise UserError(f"{path}: key {name!r} is given twice, once with dashes: must be given once")
        values[name] = value
    return values
