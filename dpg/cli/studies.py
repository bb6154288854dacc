"""`dpg status` and `dpg doctor`: the state of a study, and what it needs from the machine."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpg.cli.options import Config, one_of, study_of
from dpg.config import ENGINES
from dpg.errors import DpgError


def status(config: Config) -> None:
    """Show which runs, models, figures and tables are done, running or missing.

    Below the table: how long the rest of the generator runs takes, how far the sweeps of learning
    rates are, and what was made by an older revision of its step or by another commit of the code.

    **Example:** `dpg status --config config/tiny.yaml`
    """
    from rich.console import Console

    from dpg.provenance import git_state
    from dpg.study import status as states
    from dpg.study import watch

    study, layout = study_of(config)
    groups = states.collect(study, layout)
    title = f"Scale {study.scale.scale}, in {layout.folder}"
    Console().print(states.table(groups, title))
    typer.echo(watch.left_in_words(watch.time_left(study, layout, groups)))
    for line in watch.SweepWatch(study, layout).state():
        typer.echo(line)
    git = git_state()
    for line in states.outdated(groups, None if git is None else git["commit"]):
        typer.echo(line)


def doctor(
    scale: Annotated[
        str | None,
        typer.Option(help="A scale in config/: tiny, smoke, gpu, paper ...; or give --config."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="Path of a scale file.")
    ] = None,
    profile: Annotated[
        str, typer.Option(help="Where jobs run: default (here), slurm or kubernetes.")
    ] = "default",
    engine: Annotated[
        str | None, typer.Option(help="As if the scale had this engine: jax, trl or verl.")
    ] = None,
) -> None:
    """Say what a scale needs and this machine lacks, how to fix it, and what the study will cost.

    Looks at GPUs, memory, disk, the hub's answer for every repository, environments, the judge's
    key, ports and Slurm. Exit status 1 if something needed is missing.

    **Example:** `dpg doctor --scale paper --profile slurm`, `dpg doctor --scale paper --engine trl`
    """
    from rich.console import Console

    from dpg import doctor as doctors

    if (scale is None) == (config is None):
        raise DpgError("give --scale, such as paper, or --config, the path of a scale file")
    one_of("--profile", profile, list(doctors.PROFILES))
    study, layout = study_of(config or Path("config") / f"{scale}.yaml")
    if engine is not None:
        one_of("--engine", engine, list(ENGINES))
        study = study.with_engine(ENGINES[engine])
    findings = doctors.examine(study, layout, doctors.Machine(), profile=doctors.PROFILES[profile])
    Console().print(doctors.table(findings, f"Scale {study.scale.scale}, profile {profile}"))
    typer.echo()
    for line in doctors.costs(study, doctors.estimate(study, layout)):
        typer.echo(line)
    lacking = [one.name for one in findings if one.state == doctors.MISSING]
    if lacking:
        typer.secho(f"\nmissing: {', '.join(lacking)}", fg="red")
        raise typer.Exit(1)
    typer.secho("\nnothing needed is missing", fg="green")


COMMANDS = (status, doctor)
