"""Read texts from JSON lines, parquet or .txt files, or from folders of such files.

A row has one of three forms: `text`; `prompt` and `completion`; or `messages`, a conversation whose
last message is the assistant's. Losses are over the tokens of the text, of the completion, or of
the last message. The model reads what comes before, but is not trained to predict it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from dpg.errors import DpgError
from dpg.text.reading import (
    check_characters,
    json_lines,
    parquet_table,
    read_text,
    shown,
    table_rows,
)

SUFFIXES = (".jsonl", ".json", ".parquet", ".txt")
"""Suffixes of the files that are read; `.json` is read as JSON lines."""

_KINDS = '"text", "prompt" and "completion", or "messages"'
_ANSWERS = ("text", "completion", "messages")


class Text(NamedTuple):
    """One training or validation text.

    Attributes:
        where: its file, and the line or row in the file, from 1.
        prompt: the part that is not predicted: a string, or a conversation for the chat template.
        answer: the part that is predicted.
    """

    where: str
    prompt: str | tuple[Mapping[str, Any], ...]
    answer: str

    @property
    def shown(self) -> str:
        """The whole text, for display."""
        if isinstance(self.prompt, str):
            return self.prompt + self.answer
        said = [*self.prompt, {"role": "assistant", "content": self.answer}]
        return "\n".join(f"{one['role']}: {one['content']}" for one in said)


def read(path: str | Path) -> list[Text]:
    """All texts of a file, or of the files of a folder in the order of their names.

    Raises:
        DpgError: no such path, no file that can be read, a column or key that occurs twice, text
            that is not UTF-8, no row, or a row that has none of the three forms or is empty. The
            error names the file and, where there is one, the line or row.
    """
    path = Path(path)
    files = _files(path)
    texts = [text for file in files for text in _of_file(file)]
    if not texts:
        raise DpgError(f"{path} holds no text; expected rows with {_KINDS}")
    return texts


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        found = sorted(
            one
            for one in path.rglob("*")
            if one.suffix.lower() in SUFFIXES and one.is_file() and not one.name.startswith(".")
        )
        if not found:
            raise DpgError(
                f"the folder {path} holds no file that can be read; expected names that end with "
                f"{', '.join(SUFFIXES)}"
            )
        return found
    if not path.is_file():
        raise DpgError(f"{path}: no such file or folder; give the path of the texts")
    if path.suffix.lower() not in SUFFIXES:
        raise DpgError(
            f"{path} ends with {path.suffix or 'nothing'!r}; expected one of {', '.join(SUFFIXES)}"
        )
    return [path]


def _of_file(path: Path) -> Iterator[Text]:
    if path.suffix.lower() == ".txt":
        yield _text({"text": read_text(path)}, shown(path.name))
        return
    rows = _parquet_rows(path) if path.suffix.lower() == ".parquet" else _json_rows(path)
    for where, row in rows:
        yield _text(row, where)


def _json_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for _, where, row in json_lines(path):
        if not isinstance(row, dict):
            kind = type(row).__name__
            raise DpgError(f"{where}: a {kind}; expected one object per line, with {_KINDS}")
        yield where, row


def _parquet_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    table = parquet_table(path)
    if not set(_ANSWERS) & set(table.column_names):
        columns = ", ".join(table.column_names) or "nothing"
        raise DpgError(f"{shown(path.name)}: it has {columns}; expected {_KINDS}")
    for _, where, row in table_rows(table, path, ("prompt", *_ANSWERS)):
        yield where, row


def _text(row: Mapping[str, Any], where: str) -> Text:
    if row.get("messages") is not None:
        prompt, answer = _conversation(row["messages"], where)
        return Text(where, prompt, answer)
    if row.get("completion") is not None:
        begin = row.get("prompt")
        opening = "" if begin is None else _words(begin, where, "prompt", may_be_empty=True)
        return Text(where, opening, _words(row["completion"], where, "completion"))
    if "text" in row:
        return Text(where, "", _words(row["text"], where, "text"))
    raise DpgError(f"{where}: it has {', '.join(row) or 'nothing'}; expected {_KINDS}")


def _conversation(messages: Any, where: str) -> tuple[tuple[Mapping[str, Any], ...], str]:
    right = isinstance(messages, Sequence) and all(
        isinstance(one, Mapping) and isinstance(one.get("role"), str) for one in messages
    )
    if not right or not messages or messages[-1]["role"] != "assistant":
        raise DpgError(
            f"{where}: its messages are no conversation that the assistant ends; expected a list "
            'of {"role": ..., "content": ...}, the last one with the role "assistant"'
        )
    for one in messages:
        _words(one.get("content"), where, f"{one['role']}'s message", may_be_empty=True)
    return tuple(messages[:-1]), _words(messages[-1]["content"], where, "assistant's message")


def _words(value: Any, where: str, what: str, *, may_be_empty: bool = False) -> str:
    if not isinstance(value, str):
        raise DpgError(f"{where}: the {what} is a {type(value).__name__}; expected a string")
    if not value.strip() and not may_be_empty:
        raise DpgError(f"{where}: the {what} is empty; expected words: remove the row")
    check_characters(value, where, what)
    return value
