"""What every settings object is made of: its base class, its types, its error."""

from collections.abc import Iterator
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainValidator

from dpg.errors import DpgError

# A mapping as YAML has it, before it is checked: the values are any tree.
Tree: TypeAlias = dict[str, Any]


class ConfigError(DpgError):
    """A configuration file that cannot be used: says which file, which key and what is expected."""


class Settings(BaseModel):
    """Base of every settings object: immutable; an unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _size_or_auto(value: object) -> int | str | None:
    if value is None or value == "auto":
        return value if value is None else "auto"
    if isinstance(value, int) and not isinstance(value, bool) and value > 0:
        return value
    raise ValueError("expected an integer > 0, 'auto' (chosen from the device's memory) or null")


def _distinct(values: list[int]) -> list[int]:
    if len(set(values)) < len(values):
        raise ValueError("expected each value once")
    return values


LanguageCode = Literal["de", "es", "fr", "it"]
Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
RunName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*$")]
DottedPath = Annotated[str, Field(pattern=r"^[\w.]+:\w+$")]
Probability = Annotated[float, Field(ge=0.0, le=1.0)]
Betas = Annotated[float, Field(ge=0.0, lt=1.0)]
Seed = Annotated[int, Field(ge=0)]
Seeds = Annotated[
    list[Seed],
    Field(min_length=1, json_schema_extra={"uniqueItems": True}),
    AfterValidator(_distinct),
]
# How many at a time: a number, the largest that the device's memory holds, or all (null).
Portion = Annotated[
    int | Literal["auto"] | None,
    PlainValidator(
        _size_or_auto,
        json_schema_input_type=Annotated[int, Field(gt=0)] | Literal["auto"] | None,
    ),
]


def leaves(settings: BaseModel, at: tuple[str, ...] = ()) -> list[tuple[str, object]]:
    """Every value of a settings object with its dotted key, in the order of its fields."""
    return list(_leaves(settings, at))


def _leaves(settings: BaseModel, at: tuple[str, ...]) -> Iterator[tuple[str, object]]:
    for name in type(settings).model_fields:
        value = getattr(settings, name)
        if isinstance(value, BaseModel):
            yield from _leaves(value, (*at, name))
        else:
            yield ".".join((*at, name)), value
