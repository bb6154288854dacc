"""Captions of figures, tables and pages: one reStructuredText file each, beside this module.

Snakemake's report reads the files themselves; the page of `dpg.report.page` shows them as HTML.
"""

from __future__ import annotations

import html
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

from dpg.errors import DpgError

_FOLDER = Path(__file__).resolve().parent / "rst"


def file_of(name: str) -> Path:
    """The file with the caption of a figure, table or page.

    Raises:
        DpgError: there is no caption with this name.
    """
    path = _FOLDER / f"{name}.rst"
    if not path.exists():
        names = ", ".join(sorted(file.stem for file in _FOLDER.glob("*.rst")))
        raise DpgError(f"{name} has no caption; expected one of {names}")
    return path


def filled(name: str, *, scale: str, seeds: Sequence[int], run_times: Mapping[str, str]) -> str:
    """A caption with the scale, the seeds and the time of its runs filled in.

    Args:
        name: such as "figure_2".
        scale, seeds: of the study.
        run_times: name -> how long its runs took, such as "20 min".
    """
    import jinja2

    known = {"scale": scale, "seeds": list(seeds), "run_times": dict(run_times)}
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined)
    source = environment.from_string(file_of(name).read_text(encoding="utf-8"))
    return source.render(snakemake=SimpleNamespace(config=known))


def as_html(text: str) -> list[str]:
    """The paragraphs of a caption as HTML: bold, emphasis and code; other markup is escaped."""
    paragraphs = [" ".join(part.split()) for part in re.split(r"\n\s*\n", text.strip())]
    return [_inline(html.escape(paragraph, quote=False)) for paragraph in paragraphs]


def _inline(text: str) -> str:
    text = re.sub(r"``(.+?)``", r"<code>\1</code>", text)
    text = re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", text)
    return re.sub(r"(?<![*\w])\*([^*\s][^*]*)\*", r"<em>\1</em>", text)
