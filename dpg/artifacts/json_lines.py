"""A log of steps: one JSON object per line, on the disk as soon as it is appended."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dpg.artifacts.json_files import naming, plain
from dpg.artifacts.whole import ArtifactError, naming_fault


class JsonLines:
    """A log of one JSON object per line, each with an integer `step` that never goes back.

    A line is on the disk when `append` returns. Floats are written by `repr`, so equal numbers give
    equal bytes; NumPy's float32 is written as the float64 of the same value. Keys keep the order in
    which they are given.

    An existing file is continued at its end. A last line without a newline, which a killed process
    left, is dropped. Use `resume` to go on from a checkpoint.

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
        # Without a buffer: otherwise closing the file would write what a full disk has refused.
        self._file = self.path.open("ab", buffering=0)
        self._file.truncate(ends[-1] if ends else 0)

    @classmethod
    def resume(cls, path: str | Path, after_step: int | None) -> JsonLines:
        """Open the log and drop every line of a step after `after_step`.

        Args:
            path: the file; it need not exist.
            after_step: the last step that the checkpoint contains; None if there is no checkpoint:
                the log starts empty.

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
                    "they are not of the same run: delete both to start again"
                )
        if path.exists():
            os.truncate(path, ends[kept - 1] if kept else 0)
        return cls(path)

    def append(self, record: Mapping[str, Any]) -> None:
        """Write one line and wait until it is on the disk.

        Args:
            record: values as in `write_json`, with an integer `step`.

        Raises:
            ArtifactError: there is no integer `step`, the step is before the last one, a number is
                not finite (names its key and step), or the disk is full or broken. Nothing is
                written then.
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
        with naming_fault(self.path, any_fault=True):
            self._write(line.encode("utf-8") + b"\n")
        self._last_step = step

    def _write(self, line: bytes) -> None:
        """Write a line to the disk, or leave the file unchanged."""
        end = self._file.seek(0, os.SEEK_END)
        try:
            left = memoryview(line)
            while left:
                left = left[self._file.write(left) :]
            os.fsync(self._file.fileno())
        except OSError:
            self._file.truncate(end)
            raise

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> JsonLines:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_lines(path: str | Path) -> list[dict[str, Any]]:
    """Read the records of a JSON lines file; a last line without a newline is not yet a record.

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
        except ValueError as error:  # wrong encoding, or not JSON
            raise ArtifactError(f"{path}, line {number}: not valid JSON ({error})") from error
        if not isinstance(record, dict):
            raise ArtifactError(f"{path}, line {number}: not a JSON object")
        yield record, end


def _steps(path: Path) -> tuple[list[int], list[int]]:
    steps: list[int] = []
    ends: list[int] = []
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
