"""Tables inside a page: read from the Markdown that a study writes, with bold cells."""

from __future__ import annotations

import re
from typing import NamedTuple


class Cell(NamedTuple):
    """A cell's text, without Markdown's escapes, and whether it is bold."""

    text: str
    bold: bool


class Grid(NamedTuple):
    """A table.

    Attributes:
        title: the line above it.
        heads: heads of the columns.
        numeric: whether each column is aligned to the right.
        rows: the cells.
    """

    title: str
    heads: list[str]
    numeric: list[bool]
    rows: list[list[Cell]]


def read(markdown: str) -> Grid:
    """Read a table as `dpg figure table_1` writes it: a bold title, heads, a rule, rows.

    Raises:
        ValueError: the text is not such a table.
    """
    title, *lines = [line for line in markdown.splitlines() if line.strip()]
    heads, rule, *rows = [_split(line) for line in lines if line.startswith("|")]
    if not all(re.fullmatch(r":?-+:?", mark) for mark in rule):
        raise ValueError(f"expected a Markdown table with a rule below its heads, found {rule}")
    return Grid(
        title=_cell(title).text,
        heads=[_cell(head).text for head in heads],
        numeric=[mark.endswith(":") for mark in rule],
        rows=[[_cell(text) for text in row] for row in rows],
    )


def _split(line: str) -> list[str]:
    """The cells of a row; a `|` after a backslash is part of a cell."""
    return [part.strip() for part in re.split(r"(?<!\\)\|", line.strip()[1:-1])]


def _cell(text: str) -> Cell:
    bold = re.match(r"\*\*(.+?)\*\*(.*)", text)
    plain = bold[1] + bold[2] if bold else text
    return Cell(re.sub(r"\\([\\`*_{}\[\]<>|~$#&!])", r"\1", plain), bold is not None)
