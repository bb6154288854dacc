"""One JSON value per file; equal values give equal bytes."""

from __future__ import annotations

import contextlib
import json
import math
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dpg.artifacts.whole import ArtifactError, write_text


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as JSON: keys sorted, two spaces of indent, UTF-8, a newline at the end.

    Args:
        path: the file.
        value: dicts with string keys, lists, tuples, strings, numbers, booleans, None; NumPy
            scalars and arrays are written as numbers and lists, a `Path` as a string.

    Raises:
        ArtifactError: a number is not finite, or a value has another type; names its key.
    """
    with naming(path):
        text = json.dumps(
            plain(value), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False
        )
    write_text(path, text + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file.

    Raises:
        ArtifactError: the file is missing, or not JSON; names the file and the line.
    """
    text = _read_text(Path(path))
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise ArtifactError(
            f"{path}, line {error.lineno}, column {error.colno}: not valid JSON ({error.msg}); "
            "delete the file to have it made again"
        ) from error


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file; run the step that makes it") from error
    except UnicodeDecodeError as error:
        raise ArtifactError(f"{path}: not UTF-8 text at byte {error.start}") from error


@contextlib.contextmanager
def naming(path: str | Path) -> Iterator[None]:
    """Put the file's name before the message of an `ArtifactError` raised in the block."""
    try:
        yield
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error


def plain(value: Any, key: str = "") -> Any:
    """Return `value` in JSON's own types; `key` is its place, for errors.

    Raises:
        ArtifactError: as in `write_json`.
    """
    where = key or "the value"
    if isinstance(value, np.generic | np.ndarray):
        value = value.tolist()
    if isinstance(value, Mapping):
        for name in value:
            if not isinstance(name, str):
                raise ArtifactError(f"{where}: the key {name!r} is no string")
        return {name: plain(item, f"{key}.{name}" if key else name) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item, f"{key}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ArtifactError(f"{where}: {value} is not finite, and JSON cannot hold it")
        return float(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise ArtifactError(f"{where}: a {type(value).__name__} cannot be written as JSON")
