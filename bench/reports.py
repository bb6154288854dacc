"""A benchmark's report: its numbers as JSON, and a table in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from dpg import artifacts


def write(folder: Path, name: str, content: Mapping[str, Any], text: str) -> None:
    """Write `<name>.json` and `<name>.md`, each whole or not at all."""
    artifacts.write_json(folder / f"{name}.json", content)
    artifacts.write_text(folder / f"{name}.md", text)


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """The lines of a table in Markdown."""
    return [row(columns), "|" + "---|" * len(columns), *map(row, rows)]


def row(cells: Sequence[str]) -> str:
    """One line of a table in Markdown."""
    return "| " + " | ".join(cells) + " |"


def page(table: str, about: Mapping[str, Any]) -> str:
    """A table and its conditions."""
    return "\n".join([table, "", *facts(about)]) + "\n"


def facts(about: Mapping[str, Any]) -> list[str]:
    """Lines of a list in Markdown, one per name, in the order in which JSON keeps them."""
    return [f"- {name}: {value}" for name, value in sorted(about.items())]


def megabytes(size: float) -> str:
    """A number of bytes, such as "1,355 MB" (1 MB is 10^6 bytes)."""
    return f"{size / 1e6:,.0f} MB"
