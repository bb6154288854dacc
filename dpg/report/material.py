"""The content of the report, gathered from a study's results or from a kept reference."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from dpg import artifacts
from dpg.config import Study
from dpg.errors import DpgError
from dpg.report import pages
from dpg.study.layout import Layout
from dpg.study.outputs import CURVES, FIGURES, TABLES, THEOREM, drawable, run_times


@dataclass(frozen=True)
class Material:
    """The results of one study, from its results folder or from a reference.

    Attributes:
        scale, seeds: of the study.
        figures: folder of the figures' and tables' files.
        names: the study's figures and tables, including those not drawn yet.
        runs: one row per finished run (`dpg.report.pages.run_table`).
        planned: number of runs in the study.
        titles: experiment -> its title.
        provenance: what the runs have in common (`dpg.report.pages.provenance`).
        run_times: figure or table -> how long its runs took.
        claims: the ledger's record; None if there is none.
        generations: HTML of the generations side by side, without a heading.
        config: the scale's settings, as YAML.
    """

    scale: str
    seeds: list[int]
    figures: Path
    names: list[str]
    runs: pd.DataFrame
    planned: int
    titles: dict[str, str]
    provenance: dict[str, Any]
    run_times: dict[str, str]
    claims: dict[str, Any] | None
    generations: str
    config: str


def of_study(study: Study, layout: Layout) -> Material:
    """Gather the existing results of a study; it need not be finished.

    Raises:
        DpgError: no run is finished.
    """
    runs = pages.finished(study, layout)
    ledger = layout.claims / "claims.json"
    return Material(
        scale=study.scale.scale,
        seeds=study.all_seeds,
        figures=layout.figures,
        names=[*drawable(study), THEOREM],
        runs=pages.run_table(runs, layout.folder / "logs" / "generate"),
        planned=len(study.runs),
        titles={run.experiment: run.title for run in study.runs},
        provenance=pages.provenance(study, runs),
        run_times=run_times(study, layout),
        claims=artifacts.read_json(ledger) if ledger.exists() else None,
        generations=fragment(pages.generations_page(runs, study.scale.scale)),
        config=pages.settings_of(study),
    )


def of_reference(folder: Path) -> Material:
    """Gather the results in a folder made by `dpg report keep`.

    Raises:
        DpgError: the folder holds no reference.
    """
    import yaml

    from dpg.report import records

    record = records.read(folder)
    ledger = folder / "claims.json"
    names = (*FIGURES, CURVES, *TABLES, THEOREM)
    runs = record["runs"]
    return Material(
        scale=record["provenance"]["scale"],
        seeds=record["provenance"]["seeds"],
        figures=folder,
        names=[name for name in names if (folder / f"{name}.csv").exists()],
        runs=pd.read_csv(folder / "runs.csv"),
        planned=len(runs),
        titles={name.split("/")[0]: config["title"] for name, config in runs.items()},
        provenance=record["provenance"],
        run_times=record["run_times"],
        claims=artifacts.read_json(ledger) if ledger.exists() else None,
        generations=fragment((folder / "generations.html").read_text(encoding="utf-8")),
        config=yaml.safe_dump(record["scale"], sort_keys=False),
    )


def fragment(page: str) -> str:
    """The content of `generations.html` as a part of another page.

    Its headings become one level lower, and every cell gets its end tag.

    Raises:
        DpgError: the text is not such a page.
    """
    match = re.search(r"<h1>.*?</h1>(.*)</html>", page, re.S)
    if match is None:
        raise DpgError("generations.html: expected the page that `dpg report pages` writes")
    text = re.sub(
        r'<h2 id="([^"]*)">(.*?)</h2>', r'<h3 id="generations-\1">\2</h3>', match[1], flags=re.S
    )
    cells = r"<tr><th>(.*?)<br><small>(.*?)</small><td>(.*?)</tr>"
    closed = r"<tr><th>\1<br><small>\2</small></th><td>\3</td></tr>"
    text = re.sub(cells, closed, text, flags=re.S)
    return text.replace("<table>", '<table class="answers">').strip()
