"""Read files of a user or of the hub: every error names the file, the line and what to do."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from dpg.errors import DpgError
from dpg.text.cleaning import find_control


def import_datasets() -> ModuleType:
    """The datasets library.

    Raises:
        DpgError: it is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise DpgError(
            "text from the hub needs the library `datasets`: install it (pip install datasets), "
            "or take another source of text"
        ) from error
    return datasets


def hub_error(name: str, config: str, error: Exception) -> DpgError:
    """The error for a dataset that could not be read, which also says what to do."""
    said = str(error).strip().splitlines() or [""]
    return DpgError(
        f"could not read {name} ({config}) from the hub: {type(error).__name__}: {said[0]}\n"
        f"Check the network, HF_HUB_OFFLINE and the names; or take the packaged texts, or a "
        f"folder of your own files."
    )


def require_columns(table: pd.DataFrame, columns: Iterable[str], what: str) -> None:
    """Raise a DpgError that names the columns that a table lacks; `what` is the table's name."""
    lacking = [column for column in columns if column not in table.columns]
    if lacking:
        raise DpgError(f"{what} lacks {', '.join(lacking)}: it has {', '.join(table.columns)}")


def shown(name: str) -> str:
    """A file's name as valid UTF-8, for messages and tables; other bytes are escaped."""
    return name.encode("utf-8", "backslashreplace").decode()


def check_characters(text: str, where: str, what: str = "text") -> None:
    """Raise a DpgError if a text has a control character or half of a surrogate pair."""
    found = find_control(text)
    if found is not None:
        raise DpgError(f"{where}: the {what} has the character {found}; remove it")


def read_text(path: Path) -> str:
    """The text of a UTF-8 file with plain line breaks; a byte order mark is removed.

    Raises:
        DpgError: the file cannot be read or has another encoding; names the file, and the line if
            it is known.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DpgError(f"{shown(path.name)} cannot be read: {error.strerror or error}") from error
    for mark, encoding in _OTHER_MARKS:
        if content.startswith(mark):
            raise DpgError(
                f"{shown(path.name)} is {encoding} (it begins with the byte order mark "
                f"{mark.hex(' ').upper()}); expected UTF-8: save it as UTF-8"
            )
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DpgError(
            f"{shown(path.name)}, line {_line_at(content, error.start)}: the byte "
            f"0x{content[error.start]:02X} is not UTF-8 ({error.reason}); save the file as UTF-8"
        ) from error
    if "\0" in text:
        raise DpgError(
            f"{shown(path.name)}, line {_line_at(content, content.index(0))}: the text has the "
            "character U+0000, as files in UTF-16 have; save the file as UTF-8"
        )
    return _LINE_END.sub("\n", text)


# UTF-32 comes first, since its little-endian mark begins with that of UTF-16.
_OTHER_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32"),
    (codecs.BOM_UTF32_BE, "UTF-32"),
    (codecs.BOM_UTF16_LE, "UTF-16"),
    (codecs.BOM_UTF16_BE, "UTF-16"),
)
_LINE_END = re.compile("\r\n?")


def _line_at(content: bytes, place: int) -> int:
    return len(re.findall(rb"\r\n?|\n", content[:place])) + 1


def json_lines(path: Path) -> Iterator[tuple[int, str, Any]]:
    """(line number from 1, file and line in words, value) of the lines of a JSON lines file.

    Empty lines are skipped.

    Raises:
        DpgError: a line is not JSON or has a key twice; names file and line.
    """
    # Not `splitlines`, which also splits at U+2028 and others that a text may contain.
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        line = line.lstrip("\ufeff")  # concatenated files keep their byte order marks
        if line.strip():
            where = f"{shown(path.name)}, line {number}"
            yield number, where, _value(line, where)


def read_jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(line number from 1, object) of a JSON lines file whose objects all have a string `text`.

    Raises:
        DpgError: as in `json_lines`; or a line is not such an object, or has a text with control
            characters (names file and line).
    """
    for number, where, row in json_lines(path):
        if not isinstance(row, dict) or "text" not in row:
            raise DpgError(f'{where}: write {{"text": "..."}}, an object with a text')
        yield number, checked_row(row, where)


def _value(line: str, where: str) -> Any:
    try:
        return json.loads(line, object_pairs_hook=_unrepeated)
    except _RepeatedKeyError as error:
        raise DpgError(f"{where}: the key {error.args[0]!r} occurs twice; keep one") from error
    except json.JSONDecodeError as error:
        said = f"{error.msg} at column {error.colno}"  # its own "line 1" would mislead
        raise DpgError(f"{where}: not JSON: {said}") from error
    except (ValueError, RecursionError) as error:
        raise DpgError(f"{where}: not JSON: {error}") from error


def checked_row(row: dict[str, Any], where: str) -> dict[str, Any]:
    """Return the row if its `text` is a string without control characters.

    Raises:
        DpgError: it is not; names `where`.
    """
    text = row["text"]
    if not isinstance(text, str):
        kind = "missing (null)" if text is None else f"{_short(text)} ({type(text).__name__})"
        raise DpgError(f"{where}: the text is {kind}; expected a string")
    check_characters(text, where)
    return row


def _short(value: object) -> str:
    said = repr(value)
    return said if len(said) <= 40 else f"{said[:37]}..."


class _RepeatedKeyError(Exception):
    """A JSON object has a key twice; the key is its argument."""


def _unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    row = dict(pairs)
    if len(row) < len(pairs):
        seen: set[str] = set()
        for key, _ in pairs:
            if key in seen:
                raise _RepeatedKeyError(key)
            seen.add(key)
    return row


def parquet_table(path: Path) -> Any:
    """The `pyarrow.Table` of a file; a DpgError naming the file for one that cannot be read."""
    import pyarrow
    from pyarrow import parquet

    try:
        # Not `read_table`, which takes folders named `key=value` above the file for columns.
        return parquet.ParquetFile(path).read()
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        said = (str(error).strip().splitlines() or [""])[0]
        raise DpgError(f"{shown(path.name)} cannot be read as parquet: {said}") from error


def table_rows(
    table: Any, path: Path, columns: Sequence[str]
) -> Iterator[tuple[int, str, dict[str, Any]]]:
    """(row number from 1, file and row in words, values by column) of a parquet file's table.

    Args:
        table: from `parquet_table`.
        path: its file, for errors.
        columns: the columns to read. Those that the table lacks are left out.

    Raises:
        DpgError: a column occurs twice (names the file), or has a text that is not UTF-8 (names the
            row).
    """
    for name in columns:
        if table.column_names.count(name) > 1:
            raise DpgError(f"{shown(path.name)} has the column {name} twice; keep one")
    found = {name: table.column(name) for name in columns if name in table.column_names}
    for number in range(1, table.num_rows + 1):
        where = f"{shown(path.name)}, row {number}"
        try:
            row = {name: column[number - 1].as_py() for name, column in found.items()}
        except UnicodeDecodeError as error:
            raise DpgError(f"{where}: not UTF-8 ({error.reason}); write it as UTF-8") from error
        yield number, where, row


def read_parquet(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(row number from 1, {"text": ..., "title": ...}) of a parquet file with a column `text`.

    Without a column `title`, the rows have no title.

    Raises:
        DpgError: the file cannot be read, lacks `text` or has a column twice (names the file); a
            text is not a string or has control characters (names the row).
    """
    table = parquet_table(path)
    if "text" not in table.column_names:
        raise DpgError(f"{shown(path.name)} lacks text: it has {', '.join(table.column_names)}")
    for number, where, row in table_rows(table, path, ("text", "title")):
        yield number, checked_row(row, where)
