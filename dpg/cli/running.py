"""`dpg run`: run a study with a short console; Snakemake's own output goes to a file."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from dpg import processes
from dpg.cli.options import Config, study_of
from dpg.config import Study
from dpg.study import status, watch
from dpg.study.layout import Layout
from dpg.study.outputs import drawable

_EVERY = 2.0  # seconds between two looks at the study's files
_LINE_EVERY = 60.0  # seconds between two lines about the time left, if there is no terminal
_FIRST = "figure_1"
_TAIL = 40

Show = Callable[[int, int, str], None]


def run(
    context: typer.Context,
    config: Config,
    cores: Annotated[str, typer.Option(help="Cores to use: a number, or all.")] = "all",
) -> None:
    """Run a study: every figure and table, or only the named targets.

    It prints when a run begins, its result, what was drawn, and the time left; of the target
    `sweeps`, the rates that are tried and what came out at each. Snakemake's own
    output goes to results/SCALE/logs/snakemake.log. Options of Snakemake, such as -n, may follow;
    then its output goes to the terminal instead.

    **Example:** `dpg run -c config/tiny.yaml figure_2`
    """
    study, layout = study_of(config)
    command = [sys.executable, "-m", "snakemake", "--cores", cores]
    if any(word.startswith("-") for word in context.args):
        # Targets come first: --configfile takes every following word that is not an option.
        done = subprocess.run([*command, *context.args, "--configfile", str(config)], check=False)
        raise typer.Exit(done.returncode)
    if not context.args and _FIRST in drawable(study):
        command += ["--prioritize", _FIRST]  # draw the first figure early
    command += ["--configfile", str(config), "--", *context.args]
    raise typer.Exit(_watched(command, study, layout))


def _watched(command: list[str], study: Study, layout: Layout) -> int:
    """Run Snakemake, print what happens until it ends, and return its exit status."""
    log = layout.folder / "logs" / "snakemake.log"
    log.parent.mkdir(parents=True, exist_ok=True)
    began, size = time.monotonic(), log.stat().st_size if log.exists() else 0
    typer.echo(f"Scale {study.scale.scale}: results go to {layout.folder}, details to {log}")
    eye, sweeps = watch.Watch(study, layout), watch.SweepWatch(study, layout)
    with (
        processes.started("snakemake", command, log, os.environ) as process,
        _bar(study.scale.scale) as (say, show),
    ):
        while True:
            status_now = process.handle.poll()  # first, so that no news is missed
            groups = status.collect(study, layout)
            for line in (*eye.news(groups), *sweeps.news()):
                say(line)
            items = [item for group in groups for item in group.items]
            done = sum(item.state == status.DONE for item in items)
            left = watch.left_in_words(watch.time_left(study, layout, groups))
            show(done, len(items), sweeps.under_way() or left)
            if status_now is not None:
                break
            time.sleep(_EVERY)
    took = f"{(time.monotonic() - began) / 60:.0f} min"
    if status_now:
        _say_failure(log, size)
    else:
        _say_end(study, layout, took)
    return int(status_now)


def _say_failure(log: Path, start: int) -> None:
    with log.open("rb") as file:
        file.seek(start)
        lines = file.read().decode("utf-8", errors="replace").splitlines()
    for line in lines[-_TAIL:]:
        typer.echo(line, err=True)
    typer.secho(
        f"\nThe study failed: the end of the log is above, the whole log is {log}.\n"
        "What is finished is kept: the same command goes on from there.",
        fg="red",
        err=True,
    )


def _say_end(study: Study, layout: Layout, took: str) -> None:
    typer.echo(f"\nDone in {took}.")
    if layout.page.exists():
        typer.echo(f"  report   {layout.page}: open it in a browser")
    typer.echo(f"  figures  {layout.figures}")
    typer.echo(f"Next: make report SCALE={_named(study)}, or dpg status -c {study.path}")


def _named(study: Study) -> str:
    """The study as `make report` takes it: a scale's name for a file in config/, else a path."""
    packaged = study.path == Path("config") / f"{study.scale.scale}.yaml"
    return study.scale.scale if packaged else str(study.path)


@contextmanager
def _bar(title: str) -> Iterator[tuple[Callable[[str], None], Show]]:
    """On a terminal a progress bar below the lines; elsewhere one line per minute."""
    if not sys.stdout.isatty():
        yield typer.echo, _lines()
        return
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[left]}"),
    )
    with Progress(*columns) as bar:
        task = bar.add_task(title, total=None, left="")

        def show(done: int, total: int, left: str) -> None:
            bar.update(task, completed=done, total=total, left=left)

        def say(line: str) -> None:
            bar.console.print(line, markup=False, highlight=False)

        yield say, show


def _lines() -> Show:
    last = time.monotonic()

    def show(done: int, total: int, left: str) -> None:
        nonlocal last
        if time.monotonic() - last >= _LINE_EVERY:
            last = time.monotonic()
            typer.echo(f"{done} of {total} results; {left}")

    return show


PASSING = (run,)
"""Commands that pass unknown options on to Snakemake."""
