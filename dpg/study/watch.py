"""News of a running study and of its sweeps: what began, what ended, and the time that is left.

Everything is read from the study's files, so it works for jobs on this machine and on a cluster.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from dpg import artifacts
from dpg.config import RunConfig, Study
from dpg.errors import DpgError
from dpg.progress import watched
from dpg.quantities import duration
from dpg.run_folder import RunFolder, SweepFolder
from dpg.study.layout import Layout
from dpg.study.outputs import Output, Outputs
from dpg.study.status import DONE, MISSING, RUNNING, Group, Item, begun
from dpg.study.sweeps import swept

_SAID = ("figures", "tables", "models", "perplexities", "ledger")
"""Groups, besides the generator runs, whose finished outputs are news."""


class Watch:
    """Compares a study's state with its state at the previous call.

    Args:
        study, layout: the study, and where its files are.
    """

    def __init__(self, study: Study, layout: Layout):
        self.study, self.layout = study, layout
        self._outputs: list[Output] = list(Outputs(study, layout))
        self._states: dict[str, str] | None = None

    def news(self, groups: Sequence[Group]) -> list[str]:
        """One line per run that began, and per run, model, figure or table that was finished.

        The first call says how many results exist already.

        Args:
            groups: the present result of `dpg.study.status.collect`.
        """
        items = [item for group in groups for item in group.items]
        now = {output.name: item.state for output, item in zip(self._outputs, items, strict=True)}
        before, self._states = self._states, now
        if before is None:
            done = sum(state == DONE for state in now.values())
            return (
                [f"{done} of {len(now)} results are there; what is out of date is made again"]
                if done
                else []
            )
        return [
            line
            for output, item in zip(self._outputs, items, strict=True)
            for line in self._changed(output, item, before[output.name])
        ]

    def _changed(self, output: Output, item: Item, before: str) -> Iterator[str]:
        if item.state == before:
            return
        if output.step == "generate" and output.run is not None:
            name = output.run.path.removesuffix("/seed0") if self._one_seed else output.run.path
            if item.state == RUNNING:
                yield f"{name}: begins, {output.run.generator.grpo_steps} steps"
            elif item.state == DONE:
                yield f"{name}: {headline(self.layout.run_of(output.run))}"
        elif item.state == DONE and output.group in _SAID:
            yield f"{output.name}: {output.files[0]}"

    @property
    def _one_seed(self) -> bool:
        return self.study.all_seeds == [0]


class SweepWatch:
    """Compares the sweeps of a study with their state at the previous call.

    Args:
        study, layout: the study, and where its files are.
    """

    def __init__(self, study: Study, layout: Layout):
        self._rates = study.scale.sweep.rates
        self._sweeps = [(run, layout.sweep(run.experiment, run.variant)) for run in swept(study)]
        self._there: set[Path] | None = None

    def news(self) -> list[str]:
        """One line per rate whose run was finished since the last call, and per finished sweep."""
        now = {record: line for sweep in self._sweeps for record, line in self._ended(*sweep)}
        before, self._there = self._there, set(now)
        if before is None:
            return []
        return [line() for record, line in now.items() if record not in before]

    def state(self) -> list[str]:
        """One line per finished sweep, and one for the sweeps that are running."""
        ended = [_choice(run, folder) for run, folder in self._sweeps if folder.record.exists()]
        return [*ended, *filter(None, [self.under_way()])]

    def under_way(self) -> str:
        """The rates that are tried at this moment; empty if no sweep is running."""
        now = time.time()
        return "; ".join(
            f"{_title(run)}: rate {number} of at most {len(self._rates)}, step {item.steps}"
            for run, folder in self._sweeps
            for number, (_, tried) in enumerate(self._tried(folder), start=1)
            if (item := begun(tried, run, run.variant, now)).state == RUNNING
        )

    def _tried(self, folder: SweepFolder) -> list[tuple[float, RunFolder]]:
        """The rates whose runs were begun, from the smallest to the largest."""
        runs = [(rate, folder.rate(rate)) for rate in self._rates]
        return [(rate, run) for rate, run in runs if run.path.exists()]

    def _ended(
        self, run: RunConfig, folder: SweepFolder
    ) -> Iterator[tuple[Path, Callable[[], str]]]:
        """The record of each finished run, and of the finished sweep, with the line about it."""
        for rate, tried in self._tried(folder):
            if tried.is_finished:
                yield tried.record, functools.partial(_outcome, run, rate, tried)
        if folder.record.exists():
            yield folder.record, functools.partial(_choice, run, folder)


def _title(run: RunConfig) -> str:
    return f"sweep of {run.experiment}/{run.variant}"


def _outcome(run: RunConfig, rate: float, tried: RunFolder) -> str:
    """The line about a rate whose run is finished."""
    return f"{_title(run)}, rate {rate:g}: {headline(tried)}"


def _choice(run: RunConfig, folder: SweepFolder) -> str:
    """The line about a finished sweep."""
    found = artifacts.read_json(folder.record)
    return f"{_title(run)}: of {len(found['tried'])} rates it chose {found['chosen']:g}"


def headline(folder: RunFolder) -> str:
    """How long a finished run took, and the numbers of its last validation."""
    try:
        seconds = artifacts.read_json(folder.record)["wall_seconds"]
        lines = artifacts.read_lines(folder.metrics)
    except (OSError, KeyError, DpgError):  # it is just being replaced
        return "done"
    last = [line for line in lines if line.get("phase") == "validation"][-1:]
    numbers = ", ".join(watched(line) for line in last).replace("  ", ", ")
    took = f"{seconds:.0f} s" if seconds < 60 else duration(seconds)
    return f"done in {took}; {numbers}" if numbers else f"done in {took}"


def time_left(study: Study, layout: Layout, groups: Sequence[Group]) -> float | None:
    """Seconds until all generator runs are done, at the pace of the finished runs.

    The estimate assumes that a run's time is proportional to its number of rollouts, and that as
    many runs go on in parallel as now (at least one).

    Returns:
        None while no run is finished; 0.0 if all are.
    """
    items = [item for group in groups for item in group.items]
    spent = written = left = 0.0
    for output, item in zip(Outputs(study, layout), items, strict=True):
        if output.step != "generate" or output.run is None:
            continue
        rollouts = output.run.generator.grpo_steps * output.run.rollouts_per_step
        if item.state == DONE:
            try:
                spent += artifacts.read_json(layout.run_of(output.run).record)["wall_seconds"]
            except (OSError, KeyError, TypeError, DpgError):
                continue
            written += rollouts
        else:
            left += rollouts * (1 - _share(item))
    if left == 0:
        return 0.0
    running = sum(item.state == RUNNING for item in items)
    return left * spent / written / max(1, running) if written else None


def _share(item: Item) -> float:
    """The share of a run that is done: 31 / 40 for "31 of 40"."""
    if item.state == MISSING or not item.steps:
        return 0.0
    done, _, every = item.steps.partition(" of ")
    return int(done) / int(every)


def left_in_words(seconds: float | None) -> str:
    """The time left for the generator runs, in words."""
    if seconds is None:
        return "time left: known once a run is done"
    if seconds == 0:
        return "all generator runs are done"
    return f"generator runs: about {duration(seconds) if seconds >= 60 else '1 min'} left"
