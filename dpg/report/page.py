"""The report: one HTML page that needs no network, no script and no other file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from dpg import artifacts
from dpg.claims.page import MARKS, summary
from dpg.claims.verdicts import in_full
from dpg.quantities import duration
from dpg.report import captions, graphics, grids, headlines, pages
from dpg.report.material import Material
from dpg.study.outputs import TABLES
from dpg.webpage import STYLE

_TEMPLATE = Path(__file__).resolve().parent / "page.html"
_SECTIONS = {
    "headlines": "Headline numbers",
    "runs": "What was run",
    "figures": "Figures",
    "tables": "Tables",
    "claims": "Claims",
    "generations": "Generations",
    "provenance": "Provenance",
}


def write(material: Material, out: Path, *, appendix: Path | None = None) -> list[str]:
    """Write the page, whole or not at all.

    Args:
        material: what it shows.
        out: the HTML file.
        appendix: Snakemake's own report; the page links to it if it exists.

    Returns:
        The study's figures and tables that are not drawn yet.
    """
    text, missing = render(material, appendix=_link(appendix, out))
    artifacts.write_text(out, text)
    return missing


def render(material: Material, *, appendix: str | None = None) -> tuple[str, list[str]]:
    """The page's text, and the names of the figures and tables that are not drawn yet."""
    import jinja2

    figures = list(_figures(material))
    tables = list(_tables(material))
    shown = {one["name"] for one in [*figures, *tables]}
    claims = list(_claims(material))
    first = headlines.read(material.figures, material.runs, material.claims)
    present = {"headlines": first, "tables": tables, "claims": claims}
    cells = material.runs.drop(columns="config_sha256")
    environment = jinja2.Environment(undefined=jinja2.StrictUndefined, autoescape=True)
    text = environment.from_string(_TEMPLATE.read_text(encoding="utf-8")).render(
        style=STYLE,
        title=f"Results at scale {material.scale}",
        lead=_lead(material),
        sections=[item for item in _SECTIONS.items() if present.get(item[0], True)],
        headlines=first,
        ran=_ran(material),
        experiments=list(_experiments(material)),
        columns=[str(name).replace("_", " ") for name in cells],
        rows=[[pages.cell(value) for value in row] for row in cells.itertuples(index=False)],
        figures=figures,
        tables=tables,
        claims=claims,
        counts=_counts(material),
        captions={"claims": _caption(material, "claims")},
        generations=material.generations,
        appendix=appendix,
        facts=pages.facts(material.provenance, material.runs, material.planned),
        config=material.config,
    )
    return text, [name for name in material.names if name not in shown]


def _link(appendix: Path | None, out: Path) -> str | None:
    """The appendix's path relative to the page; None if it does not exist."""
    if appendix is None or not appendix.exists():
        return None
    return Path(os.path.relpath(appendix, out.parent)).as_posix()


def _caption(material: Material, name: str) -> list[str]:
    filled = captions.filled(
        name, scale=material.scale, seeds=material.seeds, run_times=material.run_times
    )
    return captions.as_html(filled)


def _figures(material: Material) -> Iterator[dict[str, Any]]:
    for name in material.names:
        if name not in TABLES:
            words = name.replace("_", " ").capitalize()
            picture = graphics.picture(name, material.figures, words)
            if picture is not None:
                caption = _caption(material, name)
                yield {"name": name, "picture": picture, "caption": caption}


def _tables(material: Material) -> Iterator[dict[str, Any]]:
    for name in material.names:
        path = material.figures / f"{name}.md"
        if name in TABLES and path.exists():
            grid = grids.read(path.read_text(encoding="utf-8"))
            yield {"name": name, "grid": grid, "caption": _caption(material, name)}


def _claims(material: Material) -> Iterator[dict[str, Any]]:
    for claim in (material.claims or {"claims": []})["claims"]:
        conditions = [in_full(one) for one in claim["conditions"]]
        basis = claim["line"].removeprefix(claim["verdict"]).strip(" :")
        more = {"mark": MARKS[claim["verdict"]], "conditions": conditions, "basis": basis}
        yield claim | more


def _counts(material: Material) -> str:
    if material.claims is None:
        return ""
    return summary([claim["verdict"] for claim in material.claims["claims"]], material.seeds)


def _lead(material: Material) -> str:
    seeds = ", ".join(map(str, material.seeds))
    known = material.provenance
    counted = pages.count_in_words(known, len(material.runs), material.planned)
    when = " and ".join(map(_minute, known["finished"]))
    return (
        f"Seed{'s' if len(material.seeds) > 1 else ''} {seeds}; generator runs: {counted}"
        f"{f', between {when} UTC' if when else ''}. Every number below was read from these runs."
        f"{''.join(f' {name}: {words}.' for name, words in known.get('stopped', {}).items())}"
    )


def _minute(time: str) -> str:
    """A time in ISO 8601, cut to the minute."""
    return time[:16].replace("T", " ")


def _ran(material: Material) -> str:
    known = material.provenance
    machine = f"{', '.join(map(str, known['cpus']))} CPUs, {', '.join(known['platforms'])}"
    wall = duration(material.runs["wall_seconds"].sum())
    return (
        f"{len(material.runs)} generator runs took {wall} of wall time together, on "
        f"{', '.join(known['devices']) or 'an unknown device'} ({machine}). "
        "Runs side by side take less: the sum counts each of them."
    )


def _experiments(material: Material) -> Iterator[dict[str, str]]:
    """One row per experiment: its number of runs, and their wall and CPU time."""
    counts = Counter(material.runs["experiment"])
    for name, runs in counts.items():
        here = material.runs[material.runs["experiment"] == name]
        cpu = here["cpu_seconds"].sum() if "cpu_seconds" in here else 0.0
        yield {
            "name": material.titles.get(name, name),
            "runs": str(runs),
            "wall": _spent(here["wall_seconds"].sum()),
            "cpu": _spent(cpu) if cpu and not pd.isna(cpu) else "",
        }


def _spent(seconds: float) -> str:
    return duration(seconds) if seconds >= 60 else f"{seconds:.0f} s"
