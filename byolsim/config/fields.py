"""What the program knows of a field beside its type, bounds, default and help: declared with it, kept nowhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, Field
from pydantic.fields import FieldInfo


def hyper(default: Any, description: str, **known: Any) -> Any:
    """A field with its default, its line of help, and what else is known of it.

    Parameters
    ----------
    known : any of

        * `per_run` : True where the runs of one group may differ in it, since it decides neither world, draws, shapes,
          logged epochs nor arithmetic;
        * `compiled` : True where it decides which kernels a run needs;
        * `point` : True where it may differ between the points of one grid, by an axis or by a rule;
        * `axis_of` : in a grid, the field of a run whose values it gives;
        * `used_by` : in a grid, the `lr_enc_mode` that it belongs to;
        * `symbol` : its letter, for titles and labels;
        * `title` : its name in words, for the same;
        * `formula` : what it is of the option that sets it, where that is another number;
        * `log` : True where its positive values are shown on a logarithmic axis;
        * `told` : `always` or `never` in the titles of figures; where it is absent, if the value is not the default;
        * `key` : where a table of runs always has its column, the column's place among those: 1, 2, ...;
        * `auto` : the word for its null, in tables and comparisons;
        * `schedule` : of a learning rate, the constant whose auto schedule takes its place where it is > 0;
        * `option` : the option that sets it, if that is not its own name; None where no option does;
        * `also`, `also_help` : a second option for the same number, and its help;
        * `complement` : True where `option` is one minus the field, and `also` the field itself;
        * `flag` : True where the option takes no value;
        * `listed` : True where the option takes a list as text;
        * `repeated` : True where the option may be repeated, each time with more that must hold;
        * `of_executor` : the `executor` that the option belongs to;
        * `set_by_all` : True where `byolsim all` has no such option, since it knows the value;
        * `allowed` : what it allows, in words.
    """
    unknown = set(known) - _KNOWN
    assert not unknown, unknown
    return Field(default=default, description=description, json_schema_extra=known or None)


_KNOWN = frozenset(
    {
        "per_run",
        "compiled",
        "point",
        "axis_of",
        "used_by",
        "symbol",
        "title",
        "formula",
        "log",
        "told",
        "key",
        "auto",
        "schedule",
        "option",
        "also",
        "also_help",
        "complement",
        "flag",
        "listed",
        "repeated",
        "of_executor",
        "set_by_all",
        "allowed",
    }
)


def known(field: FieldInfo) -> Mapping[str, Any]:
    """What was declared of a field with `hyper`."""
    extra = field.json_schema_extra
    return extra if isinstance(extra, dict) else {}


def names(model: type[BaseModel], fact: str) -> tuple[str, ...]:
    """The fields of a model of which something is declared, in their order."""
    return tuple(name for name, field in model.model_fields.items() if known(field).get(fact))
