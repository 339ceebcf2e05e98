"""What the program knows of a field beside its type, bounds, default and help: declared with it, kept nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypedDict, Unpack

from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo


class Known(TypedDict, total=False):
    """What may be declared of a field."""

    per_run: bool
    """Whether the runs of one group may differ in it: it decides neither world, draws, shapes, logged epochs nor
    arithmetic."""
    outside_id: bool
    """Whether a run's id leaves it out: it does not decide its numbers, or another field says what it decides."""
    unstored: bool
    """Whether it is no hyperparameter: neither a column nor told by a run's file, nor a name that selects runs."""
    ability: bool
    """Whether a backend says if it takes it where it is not null."""
    of_rules: tuple[str, ...]
    """The values of `pred_rule` to which it belongs."""
    of_learning: bool
    """Whether it says how a predictor learns, so that one which a rule sets has no use of it."""
    of_world: bool
    """Whether a world file says it, so that it cannot be given beside one."""
    of_start: bool
    """Whether it decides where a run starts, so that runs of a group that agree in all of these start at one place."""
    world_too: bool
    """Whether `byolsim world` has its option, as it has those `of_world`."""
    compiled: bool
    """Whether it decides which kernels a run needs."""
    point: bool
    """Whether it may differ between the points of one grid, by an axis or by a rule."""
    axis_of: str
    """In a grid, the field of a run whose values it gives."""
    used_by: str
    """In a grid, the `lr_enc_mode` that it belongs to."""
    symbol: str
    """Its letter, for titles and labels."""
    title: str
    """Its name in words, for the same."""
    formula: str
    """What it is of the option that sets it, where that is another number."""
    log: bool
    """Whether its positive values are shown on a logarithmic axis."""
    told: Literal["always", "never"]
    """Whether the titles of figures tell it; where this is absent, if the value is not the default."""
    key: int
    """Where a table of runs always has its column, the column's place among those: 1, 2, ..."""
    auto: str
    """The word for its null, in tables and comparisons."""
    schedule: str
    """Of a learning rate, the constant whose auto schedule takes its place where it is > 0."""
    option: str | None
    """The option that sets it, if that is not its own name; None where no option does."""
    also: str
    """A second option for the same number."""
    also_help: str
    """The help of that option."""
    complement: bool
    """Whether `option` is one minus the field, and `also` the field itself."""
    flag: bool
    """Whether the option takes no value."""
    switch: bool
    """Whether it takes none and has a second form, `--no_NAME`."""
    listed: bool
    """Whether the option takes a list as text."""
    repeated: bool
    """Whether the option may be repeated, each time with more that must hold."""
    of_executor: str
    """The `executor` that the option belongs to."""
    set_by_all: bool
    """Whether `byolsim all` has no such option, since it knows the value."""
    allowed: str
    """What it allows, in words."""


def hyper(default: Any, description: str, **known: Unpack[Known]) -> Any:
    """A field with its default, its line of help, and what else is known of it."""
    extra: Any = known or None
    return Field(default=default, description=description, json_schema_extra=extra)


def known(field: FieldInfo) -> Mapping[str, Any]:
    """What was declared of a field with `hyper`."""
    extra = field.json_schema_extra
    return extra if isinstance(extra, dict) else {}


def hyperparameters(model: type[BaseModel]) -> Mapping[str, FieldInfo]:
    """The fields of a model that are hyperparameters: all but those declared `unstored`."""
    return {name: field for name, field in model.model_fields.items() if not known(field).get("unstored")}


def names(model: type[BaseModel], fact: str) -> tuple[str, ...]:
    """The fields of a model of which something is declared, in their order."""
    return tuple(name for name, field in model.model_fields.items() if known(field).get(fact))
