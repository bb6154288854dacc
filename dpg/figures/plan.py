"""Which figure shows which runs: asked by the workflow before anything is drawn.

Importing this module loads no drawing library and no jax.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from dpg import artifacts
from dpg.config import RunConfig, Study
from dpg.evaluation import sources
from dpg.figures import FIGURES, TABLES
from dpg.layout import Layout

DOWNSTREAM = "table_1"
"""Drawn from perplexities rather than from run directories."""

_EXPERIMENTS = {
    "figure_1": ("qr",),
    "figure_2": ("sixseven", "norm"),
    "figure_3": ("sixseven",),
    "figure_4": ("lambada-de", "lambada-es", "lambada-fr", "lambada-it"),
    "figure_5": ("uuid",),
}
# The diagrams of the two ways of batching: drawn from no run.
_DIAGRAMS = ("figure_6", "figure_7")


def runs_of(name: str, runs: Iterable[RunConfig]) -> list[RunConfig]:
    """The runs of the study that a figure or table shows, in the study's order."""
    if name == DOWNSTREAM:
        return sources.language_runs(runs)
    if name in TABLES:
        from dpg.figures import generations

        table = generations.TABLES[name]
        chosen = (table.experiment, table.method)
        return [run for run in runs if (run.experiment, run.variant.split("-")[0]) == chosen]
    return [run for run in runs if run.experiment in _EXPERIMENTS.get(name, ())]


def drawable(study: Study) -> list[str]:
    """The figures and tables that the study's runs suffice for."""
    found = [name for name in FIGURES + TABLES if name in _DIAGRAMS or runs_of(name, study.runs)]
    return [name for name in found if name != DOWNSTREAM or study.downstream is not None]


def suffixes(name: str) -> tuple[str, ...]:
    """The files of a figure or table, by their suffixes; the first is what a report shows."""
    return ("csv", "md", "tex") if name in TABLES else ("png", "pdf", "csv")


def run_time(records: Iterable[Path]) -> str:
    """The wall time of runs together, such as "1 h 5 min"; runs not yet done are counted apart.

    Args:
        records: paths of ``run.json`` files, which need not exist.
    """
    records = list(records)
    done = [artifacts.read_json(path)["wall_seconds"] for path in records if path.exists()]
    words = duration(sum(done))
    unfinished = len(records) - len(done)
    return f"{words} ({unfinished} of {len(records)} runs not yet done)" if unfinished else words


def run_times(study: Study, layout: Layout) -> dict[str, str]:
    """How long the runs behind each figure and table took, as far as they are done."""
    return {
        name: run_time(
            layout.run(run.experiment, run.variant, run.seed) / "run.json"
            for run in runs_of(name, study.runs)
        )
        for name in drawable(study)
    }


def duration(seconds: float) -> str:
    """Seconds in words, such as "1 h 5 min"."""
    minutes = round(seconds / 60)
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def needs_judge(name: str) -> bool:
    """Whether the figure shows in which language the rollouts are."""
    return name == "figure_4"
