"""Named arrays as safetensors files; nothing is pickled."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from dpg.artifacts.whole import ArtifactError, atomic_path


def save_arrays(path: str | Path, arrays: Mapping[str, Any]) -> None:
    """Write named arrays as one safetensors file.

    Args:
        path: the file.
        arrays: NumPy arrays, or anything `np.asarray` takes, of any shape and of a numeric or
            boolean dtype (bfloat16 included).

    Raises:
        ArtifactError: safetensors does not have the dtype of an array; names the array. The file
            cannot be written (`atomic_path`).
    """
    plain = {}
    for name, array in arrays.items():
        # Not `ascontiguousarray`, which makes a scalar one-dimensional.
        plain[name] = np.asarray(array, order="C")
        if plain[name].dtype.kind in "OSUMm":
            raise ArtifactError(
                f"{path}: the array {name} has dtype {plain[name].dtype}, expected numbers or "
                "booleans"
            )
    with atomic_path(path) as partial:
        try:
            safetensors.numpy.save_file(plain, partial)
        except (KeyError, safetensors.SafetensorError) as error:
            dtypes = {name: str(array.dtype) for name, array in plain.items()}
            raise ArtifactError(f"{path}: cannot write {dtypes}: {error}") from error


def load_arrays(path: str | Path) -> dict[str, np.ndarray]:
    """Read the arrays of a safetensors file, with the shapes and dtypes they were written with.

    Raises:
        ArtifactError: the file is missing, truncated or not safetensors; names the file.
    """
    path = Path(path)
    try:
        return safetensors.numpy.load_file(path)
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file; run the step that makes it") from error
    except (safetensors.SafetensorError, OSError) as error:
        size = path.stat().st_size if path.is_file() else 0
        raise ArtifactError(
            f"{path}: not a whole safetensors file ({size} bytes: {error}); "
            "delete it to have it made again"
        ) from error
