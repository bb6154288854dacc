"""Data frames as parquet files, and as CSV for people; equal frames give equal bytes."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from dpg.artifacts.whole import ArtifactError, atomic_path, write_text


def write_table(path: str | Path, table: pd.DataFrame) -> None:
    """Write a data frame as parquet (zstd); equal frames give equal bytes.

    Args:
        path: the file.
        table: each column has values of one type; lists of numbers are allowed. The index must be
            the default one, since it is not written.

    Raises:
        ArtifactError: the index is not the default one, a column has mixed types, or the file
            cannot be written (`atomic_path`).
    """
    if not table.index.equals(pd.RangeIndex(len(table))):
        raise ArtifactError(f"{path}: the table's index would be lost; call reset_index() first")
    try:
        arrow = pa.Table.from_pandas(table, preserve_index=False)
    except (pa.ArrowException, TypeError) as error:
        raise ArtifactError(f"{path}: a column cannot be written as parquet: {error}") from error
    with atomic_path(path) as partial:
        pq.write_table(arrow, partial, compression="zstd")


def write_csv(path: str | Path, table: pd.DataFrame) -> None:
    """Write a data frame as CSV without its index, one row per line, whole or not at all."""
    write_text(path, csv_text(table))


def csv_text(table: pd.DataFrame) -> str:
    """A data frame as CSV without its index; lines end with a line feed.

    A carriage return inside a text ends the row for every reader, unless the text is quoted. Python
    quotes it only from version 3.13 on, so all texts of such a table are quoted here.
    """
    texts = table.select_dtypes(exclude="number").astype(str)
    returns = any(column.str.contains("\r", regex=False).any() for _, column in texts.items())
    return table.to_csv(
        index=False,
        lineterminator="\n",
        quoting=csv.QUOTE_NONNUMERIC if returns else csv.QUOTE_MINIMAL,
    )


def read_table(path: str | Path, columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read a parquet file.

    Args:
        path: the file.
        columns: the columns to read, in this order; None reads all.

    Raises:
        ArtifactError: the file is missing, truncated or not parquet, or lacks a column; names the
            file, the missing columns and the existing ones.
    """
    path = Path(path)
    try:
        # Not `pq.read_table`, which makes a column of a parent folder named `seed=0`.
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
