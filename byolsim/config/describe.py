"""What a field of a configuration allows, in words; for help texts, documentation and error lines."""

from __future__ import annotations

import types
import typing
from collections.abc import Callable, Container, Iterator
from typing import Any

import annotated_types
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails

from byolsim.config.fields import known

_LONGEST = 240
"""Characters of a value that an error line shows."""

_NOUNS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def option_names(name: str, field: FieldInfo) -> tuple[str, ...]:
    """Names of the options or TOML keys that set a field, the usual one first; none for a field that no option sets."""
    return tuple(str(option) for option in (known(field).get("option", name), known(field).get("also")) if option)


def without_none(annotation: Any) -> tuple[Any, list[Any]]:
    """The bare type of an annotation, and its metadata: `Annotated[int, Ge(1)] | None` gives `(int, [Ge(1)])`."""
    metadata: list[Any] = []
    while True:
        origin = typing.get_origin(annotation)
        if origin is typing.Annotated:
            annotation, *more = typing.get_args(annotation)
            metadata += more
        elif origin in (typing.Union, types.UnionType):
            (annotation,) = [a for a in typing.get_args(annotation) if a is not type(None)]
        else:
            return annotation, metadata


def field_type(field: FieldInfo) -> tuple[Any, list[Any]]:
    """The bare type of a field and all its bounds."""
    bare, metadata = without_none(field.annotation)
    return bare, metadata + list(field.metadata)


def allowed(field: FieldInfo) -> str:
    """What a field allows, for instance `a number >= 0 and < 1`."""
    if "allowed" in known(field):
        return str(known(field)["allowed"])
    bare, metadata = field_type(field)
    return _allowed(bare, metadata)


def _allowed(bare: Any, metadata: list[Any]) -> str:
    if typing.get_origin(bare) is typing.Literal:
        return "one of " + ", ".join(map(str, typing.get_args(bare)))
    if typing.get_origin(bare) is tuple:
        parts = [_allowed(*without_none(a)) for a in typing.get_args(bare) if a is not Ellipsis]
        if len(parts) == 1:
            return f"one or more, each {parts[0]}"
        return "START STOP STEPS: " + ", ".join(parts)
    bounds = " and ".join(_bounds(metadata))
    return " ".join(filter(None, (_NOUNS.get(bare, bare.__name__), bounds)))


def _bounds(metadata: list[Any]) -> Iterator[str]:
    for item in metadata:
        if isinstance(item, FieldInfo):
            yield from _bounds(list(item.metadata))
        for kind, sign in (("ge", ">="), ("gt", ">"), ("le", "<="), ("lt", "<")):
            owner = getattr(annotated_types, kind.capitalize())
            if isinstance(item, owner):
                limit = getattr(item, kind)
                yield f"{sign} {'2^63' if limit == 2**63 else format(limit, '.12g')}"
        if isinstance(item, annotated_types.MinLen) and item.min_length > 0:
            yield "that is not empty"
        if isinstance(item, annotated_types.MaxLen):
            yield f"of at most {item.max_length} characters"


def first_error(
    error: ValidationError,
    models: tuple[type[BaseModel], ...] = (),
    label: Callable[[str], str] = lambda name: name,
    given: Container[str] = (),
) -> str:
    """One line for a pydantic error: the option, the value and what is allowed.

    `label` turns an option's name into what the user typed, for instance `--lr_pred`, and `given` holds the names that
    were used, for a field that has two.
    """
    details = error.errors(include_url=False)
    more = f" (and {len(details) - 1} more)" if len(details) > 1 else ""
    return _one_line(details[0], models, label, given) + more


def _one_line(
    detail: ErrorDetails, models: tuple[type[BaseModel], ...], label: Callable[[str], str], given: Container[str]
) -> str:
    message = str(detail["msg"]).removeprefix("Value error, ")
    if not detail["loc"]:
        return message
    name = str(detail["loc"][0])
    field = next((model.model_fields[name] for model in models if name in model.model_fields), None)
    if field is None:
        return f"{label(name)}: {message}"
    value = detail["input"]
    is_text = isinstance(value, str) and detail["type"] in ("int_type", "float_type", "bool_type")
    shown = f"{_shown(value)} (text)" if is_text else _shown(value)
    why = f" ({message})" if detail["type"] in ("value_error", "string_unicode") else ""
    names = option_names(name, field) or (name,)
    used = next((option for option in names if option in given), names[0])
    return f"{label(used)} = {shown} is not allowed{why}: must be {allowed(field)}"


def _shown(value: Any) -> str:
    """A value as Python writes it, its middle left out where that is long."""
    try:
        text = repr(value)
    except ValueError:  # a whole number of thousands of digits
        return "a number too long to show"
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST // 2]}...{text[-_LONGEST // 4 :]}"
