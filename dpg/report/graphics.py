"""Figures inside a page: SVG drawn from a figure's table, or its PNG if there is no table."""

from __future__ import annotations

import base64
import html
import importlib
import io
import re
from pathlib import Path

import pandas as pd

from dpg import artifacts
from dpg.errors import DpgError

_UNWANTED = re.compile(r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", re.S)
_HEAD = re.compile(r"<svg [^>]*?width=\"([\d.]+)pt\" height=\"([\d.]+)pt\"[^>]*>")
_REFERENCES = re.compile(r'(url\(#|href="#)([\w.-]+)')
_NAMES = re.compile(r'\sid="([^"]*)"')


def picture(name: str, folder: Path, words: str) -> str | None:
    """A figure as HTML that needs no other file.

    Args:
        name: such as "figure_2"; it is drawn from `<name>.csv`, or else `<name>.png` is used.
        folder: folder of these files.
        words: alternative text, for readers who cannot see the figure.

    Returns:
        An `<svg>` or `<img>` element; None if there is neither file.
    """
    table, image = folder / f"{name}.csv", folder / f"{name}.png"
    if table.exists():
        return inline(_svg(name, pd.read_csv(table)), name, words)
    if image.exists():
        data = base64.b64encode(image.read_bytes()).decode("ascii")
        return f'<img alt="{html.escape(words)}" src="data:image/png;base64,{data}">'
    return None


def redraw(folder: Path) -> list[Path]:
    """Draw the figures of kept results again, each `<name>.png` from its `<name>.csv`.

    Table 1 is written again from its table, too.

    Raises:
        DpgError: the folder has no picture beside its table.
    """
    from dpg.figures import table_1
    from dpg.figures.style import save_picture

    kept = [image for image in sorted(folder.glob("*.png")) if image.with_suffix(".csv").exists()]
    if not kept:
        raise DpgError(
            f"{folder} has no figure beside its table; expected a folder made by `dpg report keep`"
        )
    for image in kept:
        module = importlib.import_module(f"dpg.figures.{image.stem}")
        save_picture(module.draw(pd.read_csv(image.with_suffix(".csv"))), image)
    numbers, text = folder / "table_1.csv", folder / "table_1.md"
    if numbers.exists():
        artifacts.write_text(text, table_1.markdown(pd.read_csv(numbers)))
        kept.append(text)
    return kept


def _svg(name: str, table: pd.DataFrame) -> str:
    from dpg.figures.style import styled

    module = importlib.import_module(f"dpg.figures.{name}")

    @styled
    def written() -> str:
        text = io.StringIO()
        left_out = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        module.draw(table).savefig(text, format="svg", metadata=left_out)
        return text.getvalue()

    return written()


def inline(text: str, name: str, words: str) -> str:
    """An SVG file's text as an element of an HTML page.

    The XML head is left out, and so is matplotlib's style sheet, which would apply to the whole
    page. Ids that nothing refers to are removed. Other ids get `name` as a prefix, so that the ids
    of two figures on a page differ.
    """
    head = _HEAD.search(text)
    assert head is not None, "matplotlib writes width and height in points"
    width, height = head.groups()
    body = _UNWANTED.sub("", text[head.end() :]).replace("xlink:href", "href")
    used = {match[1] for match in _REFERENCES.findall(body)}
    body = _NAMES.sub(lambda one: f' id="{name}-{one[1]}"' if one[1] in used else "", body)
    body = _REFERENCES.sub(rf"\g<1>{name}-\g<2>", body)
    # At most twice its size on paper; on a phone it scrolls, so that it stays legible.
    widest = 2 * float(width)
    opening = (
        f'<svg class="drawn" role="img" aria-label="{html.escape(words)}" '
        f'style="max-width: {widest:g}px; min-width: min(34rem, {widest:g}px)" '
        f'viewBox="0 0 {width} {height}" width="{width}" height="{height}">'
    )
    return opening + re.sub(r"\n\s*", "\n", body).strip()
