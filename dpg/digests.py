"""SHA-256 digests of a step's inputs: settings, files, models, arrays.

A step's state and its cached results are used only while these digests are the same.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from dpg.artifacts import plain


def of_text(text: str) -> str:
    """The digest of a text in UTF-8, 64 hexadecimal digits."""
    return hashlib.sha256(text.encode("utf-8")).hexdigest()


def of_file(path: str | Path) -> str:
    """The digest of a file's bytes, 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_path(path: str | Path) -> str:
    """The digest of a file, or of all files below a folder and their relative paths."""
    path = Path(path)
    if path.is_file():
        return of_file(path)
    digest = hashlib.sha256()
    for file in sorted(one for one in path.rglob("*") if one.is_file()):
        digest.update(f"{file.relative_to(path).as_posix()}\0{of_file(file)}\n".encode())
    return digest.hexdigest()


def of_weights(directory: str | Path) -> str:
    """The digest of a model directory's safetensors files, in the order of their names."""
    digest = hashlib.sha256()
    for path in sorted(Path(directory).glob("*.safetensors")):
        digest.update(bytes.fromhex(of_file(path)))
    return digest.hexdigest()


def of_arrays(arrays: Iterable[ArrayLike]) -> str:
    """The digest of arrays in this order: dtype, shape and bytes of each."""
    digest = hashlib.sha256()
    for one in arrays:
        array = np.ascontiguousarray(one)
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(array.data)
    return digest.hexdigest()


def of_rows(rows: Iterable[ArrayLike]) -> str:
    """The digest of rows of token ids; rows may have different lengths."""
    digest = hashlib.sha256()
    for row in rows:
        line = np.asarray(row, np.int32)
        digest.update(len(line).to_bytes(4, "little") + line.tobytes())
    return digest.hexdigest()


def of_settings(settings: Mapping[str, Any]) -> str:
    """The digest of settings as canonical JSON: sorted keys, no spaces, UTF-8.

    Raises:
        ArtifactError: a value that JSON cannot hold; names its key.
    """
    return of_text(
        json.dumps(
            plain(settings),
            sort_keys=True,
            separators=(",", ":"),
            ensure_ascii=False,
            allow_nan=False,
        )
    )


def without_nulls(value: Any) -> Any:
    """Settings without the entries that are None or empty tables, at every depth.

    So a new setting does not change a digest as long as no file sets it.
    """
    if isinstance(value, Mapping):
        kept = {key: without_nulls(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item is not None and item != {}}
    if isinstance(value, list | tuple):
        return [without_nulls(item) for item in value]
    return value
