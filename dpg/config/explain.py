"""Errors of a configuration, in words: the file, the key, what was expected and what was found."""

import difflib
import types
import typing
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pydantic
from pydantic_core import ErrorDetails

from dpg.config.base import ConfigError, Settings

_Checked = TypeVar("_Checked", bound=Settings)
# A file, or a function from a dotted key to the file or table that its value is from.
Origin = Path | Callable[[str], str]

# Pydantic's name of an error -> what was expected.
_EXPECTED = {
    "int_type": "an integer",
    "int_parsing": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "float_parsing": "a number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "path_type": "a path",
    "list_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "greater_than": "a number > {gt:g}",
    "greater_than_equal": "a number >= {ge:g}",
    "less_than": "a number < {lt:g}",
    "less_than_equal": "a number <= {le:g}",
    "literal_error": "{expected}",
    "string_pattern_mismatch": "text that matches {pattern}",
    "string_too_short": "text of at least {min_length} characters",
}


def nearest(word: str, words: Iterable[str]) -> str:
    """Suggest the word that was probably meant, in brackets; "" if no word is similar."""
    close = difflib.get_close_matches(word, list(words), n=1)
    return f" (did you mean '{close[0]}'?)" if close else ""


def checked(
    model: type[_Checked],
    values: dict[str, Any],
    origin: Origin,
    *,
    subject: str = "",
    below: tuple[str, ...] = (),
) -> _Checked:
    """Validate values, and turn pydantic's errors into lines that name file and key.

    Args:
        model: the settings that the values should make.
        values: as read or merged.
        origin: the file, or a function from a dotted key to where its value is from.
        subject: what the values belong to, such as a run's name, for the error.
        below: the keys that lead to the values in the file, for the error.

    Raises:
        ConfigError: one line per problem.
    """
    try:
        return model.model_validate(values)
    except pydantic.ValidationError as error:
        lines = [_line(model, problem, origin, subject, below) for problem in error.errors()]
        raise ConfigError("\n".join(dict.fromkeys(lines))) from None


def _line(
    model: type[Settings],
    problem: ErrorDetails,
    origin: Origin,
    subject: str,
    below: tuple[str, ...],
) -> str:
    keys, _ = _walk(model, problem["loc"])
    source = origin(".".join(keys)) if callable(origin) else origin
    tag = [_discriminator(problem)] if problem["type"].startswith("union_tag") else []
    parts = [source, subject, ".".join((*below, *keys, *tag)), _explain(model, problem)]
    return ": ".join(str(part) for part in parts if part)


def _explain(model: type[Settings], problem: ErrorDetails) -> str:
    kind, context = problem["type"], problem.get("ctx", {})
    _, annotation = _walk(model, problem["loc"])
    if kind == "extra_forbidden":
        _, above = _walk(model, problem["loc"][:-1])
        allowed = sorted({k for cls in _settings_classes(above) for k in cls.model_fields})
        key = str(problem["loc"][-1])
        return f"unknown key{nearest(key, allowed)}; allowed: {', '.join(allowed)}"
    if kind == "missing":
        return "missing; it has no default"
    if kind == "union_tag_not_found":
        tags = [tag for cls in _settings_classes(annotation) for tag in _tags(cls)]
        return f"missing; expected one of {', '.join(map(repr, tags))}"
    if kind == "union_tag_invalid":
        return f"expected one of {context['expected_tags']}, got '{context['tag']}'"
    if kind == "too_short":
        return f"expected at least {context['min_length']}, got {context['actual_length']}"
    if kind in _EXPECTED:
        return f"expected {_EXPECTED[kind].format(**context)}, got {_shown(problem['input'])}"
    return _message(problem)


def _message(problem: ErrorDetails) -> str:
    """A validator's own message, followed by the value unless that is a mapping."""
    message = problem["msg"].removeprefix("Value error, ")
    given = problem["input"]
    shown = "" if isinstance(given, dict) else f", got {_shown(given)}"
    return f"{message[0].lower()}{message[1:]}{shown}"


def _shown(value: object) -> str:
    """A value as YAML writes it."""
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return "a mapping" if isinstance(value, dict) else repr(value)


def _discriminator(problem: ErrorDetails) -> str:
    return str(problem["ctx"]["discriminator"]).strip("'")


def _walk(annotation: Any, loc: tuple[int | str, ...]) -> tuple[list[str], Any]:
    """Follow pydantic's location; return the file's keys on the way and the annotation at its end.

    Not every part of a location is a key of the file. A union adds a part, the tag or the type of
    the member that was chosen. A wrong key adds the part "[key]".
    """
    keys = []
    for part in loc:
        annotation = _bare(annotation)
        classes = _settings_classes(annotation)
        if part == "[key]":
            continue
        if typing.get_origin(annotation) in (dict, list):
            keys.append(str(part))
            annotation = typing.get_args(annotation)[-1]
        elif len(classes) > 1:
            annotation = next((cls for cls in classes if part in _tags(cls)), annotation)
        elif classes or not _is_union(annotation):
            keys.append(str(part))
            field = classes[0].model_fields.get(str(part)) if classes else None
            annotation = field.annotation if field else None
    return keys, annotation


def _bare(annotation: Any) -> Any:
    """An annotation without its metadata, and without the None of an optional value."""
    if typing.get_origin(annotation) is Annotated:
        return _bare(typing.get_args(annotation)[0])
    if _is_union(annotation):
        others = [arg for arg in typing.get_args(annotation) if arg is not type(None)]
        return _bare(others[0]) if len(others) == 1 else annotation
    return annotation


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (typing.Union, types.UnionType)


def _tags(cls: type[Settings]) -> tuple[Any, ...]:
    fields = (cls.model_fields[name] for name in ("kind", "source") if name in cls.model_fields)
    return tuple(tag for field in fields for tag in typing.get_args(field.annotation))


def _settings_classes(annotation: Any) -> list[type[Settings]]:
    if isinstance(annotation, type) and issubclass(annotation, Settings):
        return [annotation]
    return [cls for arg in typing.get_args(annotation) for cls in _settings_classes(arg)]
