"""Reading what a user or the hub provides: every error names file, line and the way out."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import ModuleType

import pandas as pd

from dpg.errors import DpgError


def import_datasets() -> ModuleType:
    """The datasets library, or a DpgError that says what it is needed for."""
    try:
        import datasets
    except ImportError as error:
        raise DpgError(
            "text from the hub needs the library `datasets`: install it (pip install datasets), "
            "or take another source of text"
        ) from error
    return datasets


def hub_error(name: str, config: str, error: Exception) -> DpgError:
    """The error for a dataset that could not be read, with the ways out."""
    said = str(error).strip().splitlines() or [""]
    return DpgError(
        f"could not read {name} ({config}) from the hub: {type(error).__name__}: {said[0]}\n"
        f"Check the network, HF_HUB_OFFLINE and the names; or take the packaged texts, or a "
        f"folder of your own files."
    )


def require_columns(table: pd.DataFrame, columns: Iterable[str], what: str) -> None:
    """Raise a DpgError that names the columns a table lacks."""
    lacking = [column for column in columns if column not in table.columns]
    if lacking:
        raise DpgError(f"{what} lacks {', '.join(lacking)}: it has {', '.join(table.columns)}")


def read_jsonl(path: Path) -> Iterator[tuple[int, dict]]:
    """(line number from 1, object) of a JSON lines file whose objects all have a string `text`.

    Empty lines are passed over. Raises DpgError naming file and line for anything else.
    """
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
            except json.JSONDecodeError as error:
                raise DpgError(f"{path.name}, line {number}: not JSON: {error}") from error
            if not isinstance(row, dict) or not isinstance(row.get("text"), str):
                raise DpgError(
                    f'{path.name}, line {number}: write {{"text": "..."}}, an object with a text'
                )
            yield number, row
