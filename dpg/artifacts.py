"""What a step leaves behind: files that are whole or absent.

Every output of the workflow is written beside its final name and renamed into place, so a process
killed at any moment leaves either the old file or the new one. Four kinds of file cover all needs:

===============  ===========================================  ==============
file             written by                                   read by
===============  ===========================================  ==============
`*.json`         `write_json`                                 `read_json`
`*.jsonl`        `JsonLines` (appended, cut back on resume)   `read_lines`
`*.parquet`      `write_table`                                `read_table`
`*.safetensors`  `save_arrays`                                `load_arrays`
===============  ===========================================  ==============

Equal values give byte-equal files (with equal versions of the libraries): a resumed run can be
compared with an uninterrupted one by its bytes. Nothing is pickled, so no file can run code when
it is read.
"""

import contextlib
import json
import math
import os
import shutil
import socket
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import safetensors
import safetensors.numpy

from dpg.errors import DpgError

__all__ = [
    "ArtifactError",
    "JsonLines",
    "atomic_path",
    "load_arrays",
    "naming",
    "plain",
    "read_json",
    "read_lines",
    "read_table",
    "save_arrays",
    "write_json",
    "write_table",
]


class ArtifactError(DpgError):
    """A file that cannot be written or read as what it should be; names the file and the fault."""


# --- whole or not at all ---------------------------------------------------------------------


@contextlib.contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Give a temporary sibling of `path` that becomes `path` when the block ends without an error.

    The block creates a file or a directory under the name it is given. The name is hidden and keeps
    the suffix of `path`, since some writers choose their format by it. Missing parent directories
    are made. If the block raises, the sibling is removed and `path` stays as it was; siblings that
    a killed process of this machine left are removed by the next call for the same `path`.

    A file replaces its predecessor in one step. A directory that replaces another takes two
    renames, and a kill between them leaves neither: what must survive goes into a file, or into a
    directory of a new name (`step_0040`, not `latest`).

    Args:
        path: where the result belongs.

    Yields:
        The temporary path; nothing exists there yet.

    Raises:
        ArtifactError: the block created nothing.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    _remove_leftovers(path)
    partial = path.with_name(f"{_partial_prefix(path)}{os.getpid()}{path.suffix}")
    _remove(partial)
    try:
        yield partial
        if not partial.exists():
            raise ArtifactError(f"{path}: nothing was written, so there is nothing to keep")
        _sync_tree(partial)
        if path.is_dir() and not path.is_symlink():
            retired = path.with_name(f"{_partial_prefix(path)}{os.getpid()}.old")
            _remove(retired)
            path.rename(retired)
            partial.rename(path)
            _remove(retired)
        else:
            partial.replace(path)
        _sync(path.parent)
    except BaseException:
        _remove(partial)
        raise


def _partial_prefix(path: Path) -> str:
    # The host's name is part of it: on a shared file system another machine's process numbers
    # say nothing about who is alive.
    return f".{path.stem}.partial-{socket.gethostname()}-"


def _remove_leftovers(path: Path) -> None:
    prefix = _partial_prefix(path)
    for sibling in path.parent.iterdir():
        if not sibling.name.startswith(prefix):
            continue
        owner = sibling.name[len(prefix) :].split(".", 1)[0]
        if owner.isdigit() and not _alive(int(owner)):
            _remove(sibling)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_tree(path: Path) -> None:
    # Contents must reach the disk before the name does: after a power cut some file systems
    # otherwise show the new name on an empty file.
    if path.is_dir():
        for child in path.iterdir():
            if not child.is_symlink():
                _sync_tree(child)
    _sync(path)


# --- JSON ------------------------------------------------------------------------------------


def write_json(path: str | Path, value: Any) -> None:
    """Write `value` as JSON: keys sorted, two spaces of indent, UTF-8, a newline at the end.

    Args:
        path: the file.
        value: dicts with string keys, lists, tuples, strings, numbers, booleans, None; NumPy
            scalars and arrays are written as numbers and lists, a `Path` as a string.

    Raises:
        ArtifactError: a number that is not finite or a value of another type, named by its key.
    """
    with naming(path):
        text = json.dumps(
            plain(value), sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False
        )
    with atomic_path(path) as partial:
        partial.write_text(text + "\n", encoding="utf-8")


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
    """Put the file's name before an error of `plain`, which knows only the key."""
    try:
        yield
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error


def plain(value: Any, key: str = "") -> Any:
    """Return `value` in JSON's own types, or raise an error that names the key."""
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
            raise ArtifactError(f"{where}: {value} is not finite, and JSON has no word for it")
        return float(value)
    if value is None or isinstance(value, bool | int | str):
        return value
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise ArtifactError(f"{where}: a {type(value).__name__} cannot be written as JSON")


# --- a log of steps --------------------------------------------------------------------------


class JsonLines:
    """A log of one JSON object a line, each with an integer `step` that never goes back.

    A line is on the disk when `append` returns. Floats are written by `repr`, so equal numbers give
    equal bytes; NumPy's float32 is written as the float64 of the same value. Keys keep the order in
    which they are given.

    Opening a file that exists goes on at its end; a last line without its newline, which a killed
    process left, is dropped. Use `resume` to go on from a checkpoint.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "metrics.jsonl"
        >>> with JsonLines(path) as log:
        ...     log.append({"step": 0, "metric": -0.69})
        ...     log.append({"step": 1, "metric": -0.52})
        >>> with JsonLines.resume(path, after_step=0) as log:
        ...     log.append({"step": 1, "metric": -0.52})
        >>> [row["step"] for row in read_lines(path)]
        [0, 1]
    """

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        steps, ends = _steps(self.path) if self.path.exists() else ([], [])
        self._last_step = steps[-1] if steps else None
        self._file = self.path.open("ab")
        self._file.truncate(ends[-1] if ends else 0)

    @classmethod
    def resume(cls, path: str | Path, after_step: int | None) -> "JsonLines":
        """Open the log and drop every line of a step later than `after_step`.

        Args:
            path: the file; it need not exist.
            after_step: the last step that the checkpoint contains; None when there is no
                checkpoint, and the log starts anew.

        Raises:
            ArtifactError: the log ends before `after_step` (it belongs to another run), or a line
                other than the last is damaged; names the file and the line.
        """
        path = Path(path)
        steps, ends = _steps(path) if path.exists() else ([], [])
        if after_step is None:
            kept = 0
        else:
            kept = sum(step <= after_step for step in steps)
            if kept == 0 or steps[kept - 1] < after_step:
                found = f"ends at step {steps[kept - 1]}" if kept else "has no step"
                raise ArtifactError(
                    f"{path}: the checkpoint is at step {after_step} but the log {found}; "
                    "they are not of the same run: delete both to start anew"
                )
        if path.exists():
            os.truncate(path, ends[kept - 1] if kept else 0)
        return cls(path)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line and have it on the disk.

        Args:
            record: what `write_json` takes, with an integer `step`.

        Raises:
            ArtifactError: no integer `step`, a step before the last one, or a number that is not
                finite, named by its key and step. Nothing is written then.
        """
        step = record.get("step")
        if isinstance(step, np.integer):
            step = int(step)
        if not isinstance(step, int) or isinstance(step, bool):
            raise ArtifactError(f"{self.path}: a record needs an integer `step`, not {step!r}")
        if self._last_step is not None and step < self._last_step:
            raise ArtifactError(f"{self.path}: step {step} cannot follow step {self._last_step}")
        with naming(f"{self.path}, step {step}"):
            line = json.dumps(plain(record), ensure_ascii=False, allow_nan=False)
        self._file.write(line.encode("utf-8") + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())
        self._last_step = step

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> "JsonLines":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_lines(path: str | Path) -> list[dict[str, Any]]:
    """Read the records of a JSON lines file; a last line without its newline is not yet a record.

    Raises:
        ArtifactError: the file is missing or a line is damaged; names the file and the line.
    """
    return [record for record, _ in _records(Path(path))]


def _records(path: Path) -> Iterator[tuple[dict[str, Any], int]]:
    """Yield each complete record and the offset in bytes at which its line ends."""
    try:
        content = path.read_bytes()
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file; run the step that makes it") from error
    end = 0
    for number, line in enumerate(content.split(b"\n")[:-1], start=1):
        end += len(line) + 1
        try:
            record = json.loads(line)
        except ValueError as error:  # of the text's encoding or of the JSON
            raise ArtifactError(f"{path}, line {number}: not valid JSON ({error})") from error
        if not isinstance(record, dict):
            raise ArtifactError(f"{path}, line {number}: not a JSON object")
        yield record, end


def _steps(path: Path) -> tuple[list[int], list[int]]:
    steps, ends = [], []
    for number, (record, end) in enumerate(_records(path), start=1):
        if not isinstance(record.get("step"), int):
            raise ArtifactError(f"{path}, line {number}: no integer `step`")
        if steps and record["step"] < steps[-1]:
            raise ArtifactError(
                f"{path}, line {number}: step {record['step']} follows step {steps[-1]}"
            )
        steps.append(record["step"])
        ends.append(end)
    return steps, ends


# --- tables ----------------------------------------------------------------------------------


def write_table(path: str | Path, table: pd.DataFrame) -> None:
    """Write a data frame as parquet (zstd); equal frames give equal bytes.

    Args:
        path: the file.
        table: columns of one type each, lists of numbers among them. Its index must be the default
            one: what matters belongs in a column.

    Raises:
        ArtifactError: a named or non-default index, or a column of mixed types.
    """
    if not table.index.equals(pd.RangeIndex(len(table))):
        raise ArtifactError(f"{path}: the table's index would be lost; call reset_index() first")
    try:
        arrow = pa.Table.from_pandas(table, preserve_index=False)
    except (pa.ArrowException, TypeError) as error:
        raise ArtifactError(f"{path}: a column cannot be written as parquet: {error}") from error
    with atomic_path(path) as partial:
        pq.write_table(arrow, partial, compression="zstd")


def read_table(path: str | Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a parquet file.

    Args:
        path: the file.
        columns: the columns wanted, in the order wanted; None gives all.

    Raises:
        ArtifactError: the file is missing, truncated or not parquet, or lacks a column; names the
            file, the columns missing and those present.
    """
    path = Path(path)
    try:
        # Not `pq.read_table`: it turns a folder named `seed=0` into a column of its own.
        with pq.ParquetFile(path) as file:
            present = file.schema_arrow.names
            missing = [name for name in columns or () if name not in present]
            if missing:
                raise ArtifactError(
                    f"{path}: no column {', '.join(missing)}; it has {', '.join(present)}"
                )
            table = file.read(None if columns is None else list(columns)).to_pandas()
    except FileNotFoundError as error:
        raise ArtifactError(f"{path}: no such file; run the step that makes it") from error
    except (pa.ArrowException, OSError) as error:
        raise ArtifactError(
            f"{path}: not a whole parquet file ({error}); delete it to have it made again"
        ) from error
    return table if columns is None else table[list(columns)]


# --- arrays ----------------------------------------------------------------------------------


def save_arrays(path: str | Path, arrays: Mapping[str, Any]) -> None:
    """Write named arrays as one safetensors file.

    Args:
        path: the file.
        arrays: NumPy arrays, or anything `np.asarray` takes, of any shape and of a numeric or
            boolean dtype (bfloat16 included).

    Raises:
        ArtifactError: an array of a dtype that safetensors does not have, named.
    """
    plain = {}
    for name, array in arrays.items():
        # Not `ascontiguousarray`, which gives a scalar a dimension.
        plain[name] = np.asarray(array, order="C")
        if plain[name].dtype.kind in "OSUMm":
            raise ArtifactError(f"{path}: the array {name} has dtype {plain[name].dtype}")
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
