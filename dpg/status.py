"""Where a study stands: what is done, running, stopped or missing, read from its files alone."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from dpg import artifacts
from dpg.config import RunConfig, Study
from dpg.errors import DpgError
from dpg.layout import Layout

if TYPE_CHECKING:
    from rich.table import Table

FRESH = 15 * 60.0
"""Seconds after its last line that a run counts as running: a GRPO step may take minutes."""

DONE, RUNNING, STOPPED, MISSING = "done", "running", "stopped", "missing"


@dataclass(frozen=True)
class Item:
    """One output of the workflow.

    Attributes:
        name: within its group, such as adam-T8.
        state: "done", "running", "stopped" (begun, no line for a while; it goes on from its last
            checkpoint) or "missing".
        progress: such as "31 of 40", where it was begun and is not done.
    """

    name: str
    state: str
    progress: str = ""


@dataclass(frozen=True)
class Group:
    """Outputs of one kind, in the workflow's order."""

    name: str
    items: tuple[Item, ...]

    def of(self, state: str) -> list[Item]:
        """The items in a state."""
        return [item for item in self.items if item.state == state]


def collect(study: Study, layout: Layout, *, now: float | None = None) -> list[Group]:
    """Look at every output of a study, in the order in which they are made.

    Args:
        study: what there should be.
        layout: where it is.
        now: the present, in seconds since 1970; for tests.
    """
    from dpg.figures import FIGURES, plan

    now = time.time() if now is None else now
    texts = {path.stem: [path] for path in (layout.articles, layout.passages)}
    models = {name: [layout.model(name) / "config.json"] for name in study.scale.models}
    groups = [_files("texts", texts), _files("models", models)]
    by_experiment: dict[str, list[RunConfig]] = {}
    for run in study.runs:
        by_experiment.setdefault(run.experiment, []).append(run)
    for experiment, runs in by_experiment.items():
        groups.append(Group(experiment, tuple(_run(run, study, layout, now) for run in runs)))
    judged = plan.runs_of("figure_4", study.runs)
    folders = {f"{run.experiment}/{_name(run, study)}": _folder(run, layout) for run in judged}
    groups.append(_files("judged", {n: [path / "judged.parquet"] for n, path in folders.items()}))
    if study.downstream is not None:
        targets = {target: [layout.perplexity(target)] for target in study.downstream.targets}
        groups.append(_files("perplexities", targets))
    drawn = {
        name: [layout.figures / f"{name}.{suffix}" for suffix in plan.suffixes(name)]
        for name in (*plan.drawable(study), "theorem_3_1")
    }
    figures = {n: paths for n, paths in drawn.items() if n in FIGURES or n == "theorem_3_1"}
    groups.append(_files("figures", figures))
    groups.append(_files("tables", {n: paths for n, paths in drawn.items() if n not in figures}))
    ledger = [layout.claims / f"claims.{kind}" for kind in ("json", "md", "html")]
    groups.append(_files("ledger", {"claims": ledger}))
    return [group for group in groups if group.items]


def _files(name: str, items: dict[str, list[Path]]) -> Group:
    """A group of outputs that are there or not."""
    states = {n: all(path.exists() for path in paths) for n, paths in items.items()}
    return Group(name, tuple(Item(n, DONE if there else MISSING) for n, there in states.items()))


def _folder(run: RunConfig, layout: Layout) -> Path:
    return layout.run(run.experiment, run.variant, run.seed)


def _name(run: RunConfig, study: Study) -> str:
    """The variant, and the seed where there are several."""
    return run.variant if len(study.scale.seeds) == 1 else f"{run.variant}/seed{run.seed}"


def _run(run: RunConfig, study: Study, layout: Layout, now: float) -> Item:
    """A generator run: its record is written last, its log grows in `progress` until then."""
    folder, name = _folder(run, layout), _name(run, study)
    if (folder / "run.json").exists():
        return Item(name, DONE)
    log = folder / "progress" / "metrics.jsonl"
    try:
        age = now - log.stat().st_mtime
        lines = artifacts.read_lines(log)
    except (FileNotFoundError, DpgError):  # not begun, or finished this very moment
        return Item(name, MISSING)
    done = 0
    if lines:
        # A line of training is written after its step, one of validation before the step.
        done = lines[-1]["step"] + (lines[-1].get("phase") == "train")
    progress = f"{done} of {run.generator.grpo_steps}"
    return Item(name, RUNNING if age < FRESH else STOPPED, progress)


def table(groups: Sequence[Group], title: str) -> Table:
    """One line a group: how many are done, and which are not, with the steps of those begun."""
    from rich.table import Table

    made = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for heading in ("", "done", "running", "stopped", "missing"):
        made.add_column(heading, no_wrap=heading in ("", "done"))
    for group in groups:
        done, every = len(group.of(DONE)), len(group.items)
        style = "green" if done == every else None
        made.add_row(
            group.name,
            f"{done} of {every}",
            _begun(group.of(RUNNING)),
            _begun(group.of(STOPPED)),
            "all" if len(group.of(MISSING)) == every > 1 else _shortened(group.of(MISSING)),
            style=style,
        )
    return made


def _begun(items: Sequence[Item]) -> str:
    return ", ".join(f"{item.name}: {item.progress}" for item in items)


def _shortened(items: Sequence[Item], most: int = 4) -> str:
    names = ", ".join(item.name for item in items[:most])
    return names + (f" and {len(items) - most} more" if len(items) > most else "")
