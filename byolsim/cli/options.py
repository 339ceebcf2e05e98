"""Options from configuration models: a field declared once is an option, a TOML key and a line of help.

Values are read as text and typed by the field; what does not fit reaches the model unchanged and is refused there, so
that the command line, a TOML file and Python have one set of checks and one form of error.
"""

from __future__ import annotations

import difflib
import stat
import tomllib
import typing
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any, TypeVar

import click
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from byolsim.describe import allowed, field_type, first_error, option_name
from byolsim.errors import UserError

M = TypeVar("M", bound=BaseModel)

_FLAGS = {"force", "retry_failed", "fail_fast", "workers_write", "dry_run", "use_last_valid"}
_LIST_TEXT = {"latent_spectrum"}
_REPEATED = {"where"}
"""Text that may be given several times, each time with more that must hold."""

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
            raise UserError(first_error(error, (model,), self.label)) from None


def fields_by_option(*models: type[BaseModel], without: Collection[str] = ()) -> list[tuple[str, FieldInfo]]:
    """(option name, field) of each option of the models, each once, in the order of declaration."""
    found: dict[str, FieldInfo] = {}
    for model in models:
        for name, field in model.model_fields.items():
            option = option_name(name, field)
            if option is not None and option not in without:
                found.setdefault(option, field)
    return list(found.items())


def command_of(
    *models: type[BaseModel], help: str, epilog: str = "", without: Collection[str] = ()
) -> Callable[[Callable[[Given], int]], click.Command]:
    """Decorator: a command with the options of the models and `--config`; the body gets what was `Given`."""
    options = fields_by_option(*models, without=without)

    def decorate(body: Callable[[Given], int]) -> click.Command:
        def callback(config: str | None, **texts: Any) -> int:
            given = {name: text for name, text in texts.items() if text is not None and text != ()}
            typed = {name: _typed(dict(options)[name], name, text) for name, text in given.items()}
            stored = _read_toml(config, [name for name, _ in options]) if config is not None else {}
            from_file = frozenset(stored) - frozenset(typed)
            return body(Given(stored | typed, config, from_file))

        config = click.Option(
            ["--config"], metavar="FILE.toml", help="Read any of the options below from a file; the command line wins."
        )
        return ListCommand(
            name=None,
            help=help,
            epilog=epilog,
            callback=callback,
            params=[config, *(_click_option(name, field) for name, field in options)],
            context_settings={
                "help_option_names": ["-h", "--help"],
                "token_normalize_func": lambda token: token.replace("-", "_"),
                "max_content_width": 100,
            },
        )

    return decorate


class ListCommand(click.Command):
    """Lists are accepted as `--seeds 42 43`, `--seeds 42,43` and repeated."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Turn the values that follow a list option into repetitions of it, then parse."""
        options = [param for param in self.params if isinstance(param, click.Option)]
        lists = {option.opts[0] for option in options if option.multiple and option.name not in _REPEATED}
        return super().parse_args(ctx, _repeat_lists(args, lists))


def _repeat_lists(args: Sequence[str], lists: Collection[str]) -> list[str]:
    """`--seeds 42 43` as `--seeds 42,43`; a list option ends at the next option. Negative numbers are values."""
    spread: list[str] = []
    values: list[str] | None = None
    for arg in [*args, "--"]:
        is_option = arg.startswith("-") and not _is_number(arg)
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


def _is_number(text: str) -> bool:
    try:
        float(text.split(",")[0])
    except ValueError:
        return False
    return True


def _is_list(name: str, field: FieldInfo) -> bool:
    return name in _LIST_TEXT or typing.get_origin(field_type(field)[0]) is tuple


def _click_option(name: str, field: FieldInfo) -> click.Option:
    bare, _ = field_type(field)
    text = f"{field.description}."
    if name == "stop_grad":
        return click.Option([f"--{name}/--no_{name}"], default=None, help=text + "  [default: on]")
    if name in _FLAGS:
        return click.Option([f"--{name}"], is_flag=True, default=None, help=text)
    if typing.get_origin(bare) is typing.Literal:
        metavar = "[" + "|".join(typing.get_args(bare)) + "]"
    else:
        metavar = {int: "INT", float: "FLOAT", bool: "BOOL", str: "TEXT"}.get(bare, "LIST")
        text += f"  [{allowed(field)}]" if name not in ("latent_spectrum",) else ""
    default = default_text(name, field)
    text += f"  [default: {default}]" if default else ""
    return click.Option(
        [f"--{name}"], type=str, metavar=metavar, multiple=_is_list(name, field) or name in _REPEATED, help=text
    )


def default_text(name: str, field: FieldInfo) -> str:
    """An option's default as a user would type it; empty where there is none."""
    if name == "ema_m":
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
    if name in _REPEATED:
        return " and ".join(text)
    if isinstance(text, tuple):
        parts = [part.strip() for one in text for part in one.split(",") if part.strip()]
        if name in _LIST_TEXT:
            return ",".join(parts)
        kinds = typing.get_args(bare)
        if Ellipsis in kinds:
            return tuple(_number(kinds[0], part) for part in parts)
        if len(parts) != len(kinds):
            raise UserError(f"--{name} {' '.join(parts)} is not allowed: must be {allowed(field)}")
        return tuple(_number(kind, part) for kind, part in zip(kinds, parts, strict=True))
    if bare is bool:
        return _BOOLEANS.get(text.lower(), text)
    return _number(Decimal if name == "ema_m" else bare, text)


def _number(kind: Any, text: str) -> Any:
    kind = typing.get_args(kind)[0] if typing.get_origin(kind) is typing.Annotated else kind
    if kind not in (int, float, Decimal):
        return text
    try:
        return kind(text)
    except (ValueError, InvalidOperation):
        return text


def _read_toml(path: str, known: Collection[str]) -> dict[str, Any]:
    """The options in a TOML file; `UserError` where it is none or names an option that the command does not have."""
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
        if name not in known:
            if name == "tau" and "ema_m" in known:
                raise UserError(f"{path}: unknown key 'tau': give ema_m = 1 - tau")
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]!r}?" if near else "each key must be an option of the command"
            raise UserError(f"{path}: unknown key {key!r}: {hint}")
        if name in values:
            raise UserError(f"{path}: key {name!r} is given twice, once with dashes: must be given once")
        values[name] = value
    return values
