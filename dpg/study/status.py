"""The state of a study: what is done, running, stopped or missing, read only from its files."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpg import artifacts, provenance
from dpg.config import RunConfig, Study
from dpg.errors import DpgError
from dpg.progress import timed
from dpg.revisions import HISTORY, revision_of
from dpg.run_folder import RunFolder
from dpg.study.layout import Layout
from dpg.study.outputs import Output, Outputs

if TYPE_CHECKING:
    from rich.table import Table

FRESH = 15 * 60.0
"""A run counts as running for this many seconds after its last log line: a GRPO step may take
minutes."""

DONE, RUNNING, STOPPED, MISSING = "done", "running", "stopped", "missing"

_SHOWN = 4  # names listed before "and N more"


@dataclass(frozen=True)
class Item:
    """One output of the workflow.

    Attributes:
        name: its name within its group, such as adam-T8.
        state: "done", "running", "stopped" (begun, but no log line for a while; it goes on from its
            last checkpoint) or "missing".
        steps: such as "31 of 40", if it was begun and is not done.
        pace: seconds of its last training step by part, and memory, if its engine records them.
        maker: step, revision and git state of the code that made it; None if not known.
    """

    name: str
    state: str
    steps: str = ""
    maker: dict[str, Any] | None = None
    pace: str = ""


@dataclass(frozen=True)
class Group:
    """Outputs of one kind, in the workflow's order."""

    name: str
    items: tuple[Item, ...]

    def of(self, state: str) -> list[Item]:
        """The items in a state."""
        return [item for item in self.items if item.state == state]


def collect(study: Study, layout: Layout, *, now: float | None = None) -> list[Group]:
    """The state of every output of a study, in the order in which they are made.

    Args:
        study: the study.
        layout: where its files are.
        now: the present time, in seconds since 1970; for tests.
    """
    now = time.time() if now is None else now
    groups: dict[str, list[Item]] = {}
    for output in Outputs(study, layout):
        groups.setdefault(output.group, []).append(_item(output, study, layout, now))
    return [Group(name, tuple(items)) for name, items in groups.items()]


def _item(output: Output, study: Study, layout: Layout, now: float) -> Item:
    name = _short_name(output, study)
    if output.is_there:
        return Item(name, DONE, maker=provenance.made_by(output.maker))
    if output.run is not None and output.step == "generate":
        return begun(layout.run_of(output.run), output.run, name, now)
    return Item(name, MISSING)


def _short_name(output: Output, study: Study) -> str:
    """The name within its group: for a run its variant, with the seed if there are several."""
    if output.run is None:
        return output.name.removeprefix("models/").removeprefix("perplexity/")
    one_seed = len(study.all_seeds) == 1
    name = output.run.variant if one_seed else f"{output.run.variant}/seed{output.run.seed}"
    several = output.group in ("judged", "fresh samples")
    return f"{output.run.experiment}/{name}" if several else name


def begun(folder: RunFolder, run: RunConfig, name: str, now: float) -> Item:
    """The item of a run that is not done; its log is in its state folder.

    Args:
        folder: the run's folder.
        run: its configuration.
        name: the item's name.
        now: the present time, in seconds since 1970.
    """
    log = folder.state.metrics
    try:
        age = now - log.stat().st_mtime
        lines = artifacts.read_lines(log)
    except (FileNotFoundError, DpgError):  # not begun, or just finished
        return Item(name, MISSING)
    done = 0
    if lines:
        # A training line is written after its step, a validation line before its step.
        done = lines[-1]["step"] + (lines[-1].get("phase") == "train")
    steps = f"{done} of {run.generator.grpo_steps}"
    pace = _pace(folder.state.clock)
    return Item(name, RUNNING if age < FRESH else STOPPED, steps, pace=pace)


def _pace(clock: Path) -> str:
    """The time of the last training step, and of compilation so far, in words."""
    try:
        lines = artifacts.read_lines(clock)
    except (FileNotFoundError, DpgError):  # another engine's run, or just finished
        return ""
    steps = [line for line in lines if line.get("phase") == "train"]
    if not steps:
        return ""
    compiling = sum(line.get("seconds_compilation", 0.0) for line in lines)
    return f"last step {timed(steps[-1])}; compilation so far {compiling:.0f} s"


def table(groups: Sequence[Group], title: str) -> Table:
    """One line per group: how many outputs are done, and the names and steps of the others."""
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
            _with_steps(group.of(RUNNING)),
            _with_steps(group.of(STOPPED)),
            "all" if len(group.of(MISSING)) == every > 1 else _shortened(group.of(MISSING)),
            style=style,
        )
    return made


def outdated(groups: Sequence[Group], commit: str | None) -> list[str]:
    """One line per output of an older revision of its step, and one with counts of other commits.

    Args:
        groups: the result of `collect`.
        commit: commit of the present checkout; None outside of a checkout.
    """
    done = [item for group in groups for item in group.of(DONE)]
    known = [item for item in done if item.maker is not None]
    lines = []
    for item in known:
        assert item.maker is not None
        step, then = item.maker["step"], item.maker["revision"]
        if step in HISTORY and then < revision_of(step):
            reasons = "; ".join(HISTORY[step][then:])
            lines.append(
                f"{item.name}: made by revision {then} of step {step}, now {revision_of(step)} "
                f"({reasons}); the next run of the workflow makes it again"
            )
    commits = Counter(
        item.maker["git"]["commit"][:7] for item in known if item.maker and item.maker.get("git")
    )
    others = {name: n for name, n in commits.items() if commit is None or name != commit[:7]}
    if others:
        listed = ", ".join(f"{name} ({count})" for name, count in others.items())
        lines.append(f"made by other commits than the present {(commit or 'none')[:7]}: {listed}")
    return lines


def _with_steps(items: Sequence[Item]) -> str:
    return ", ".join(
        f"{item.name}: {item.steps}" + (f" ({item.pace})" if item.pace else "") for item in items
    )


def _shortened(items: Sequence[Item]) -> str:
    names = ", ".join(item.name for item in items[:_SHOWN])
    return names + (f" and {len(items) - _SHOWN} more" if len(items) > _SHOWN else "")
