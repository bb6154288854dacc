"""`dpg pack`: a bundle for a machine without a network."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpg.cli.options import Out
from dpg.config import load
from dpg.errors import DpgError
from dpg.study.layout import Layout


def pack(
    scale: Annotated[
        str, typer.Option(help="A scale of config/, such as gpu, or the path of a scale file.")
    ],
    out: Out,
    runs: Annotated[
        list[str] | None,
        typer.Option("--run", help="A run, such as lambada-es/adam; may be given several times."),
    ] = None,
    limits: Annotated[
        list[int] | None, typer.Option("--limit", help="Seconds of each run's stage, in order.")
    ] = None,
    python: Annotated[str, typer.Option(help="Python version of the other machine.")] = "3.12",
    wheels: Annotated[
        list[str] | None,
        typer.Option("--wheel", help="A package it lacks; default: seven small packages."),
    ] = None,
    no_wheels: Annotated[
        bool, typer.Option("--no-wheels", help="It lacks no package: download none.")
    ] = False,
) -> None:
    """Pack what a machine without a network needs for some runs: code, texts, models, wheels.

    The texts and models must exist already. No file is larger than 60 MB. On the other machine,
    `python3 bundle/run.py --out OUT --seconds 560` checks the bundle and runs its stages.

    **Example:** `dpg pack --scale gpu --out bundle`
    """
    from dpg import pack as packing

    path = Path(scale) if scale.endswith((".yaml", ".yml")) else Path("config") / f"{scale}.yaml"
    study = load(path)
    known = {run.path: run for run in study.runs}
    chosen = [
        name if "/seed" in name else f"{name}/seed{study.all_seeds[0]}" for name in runs or _RUNS
    ]
    unknown = [name for name in chosen if name not in known]
    if unknown:
        raise DpgError(
            f"{path} has no run {', '.join(unknown)}; it has, for instance, "
            f"{', '.join(list(known)[:3])}: `dpg config show -c {path}` lists all"
        )
    made = packing.make(
        study,
        Layout(study.scale.scale),
        out,
        [known[name] for name in chosen],
        python=python,
        wheels=() if no_wheels else (wheels or packing.WHEELS),
        limits=limits or (),
    )
    for file in made:
        typer.echo(f"{file.stat().st_size:>12,}  {file}")


_RUNS = ("lambada-es/adam", "lambada-es/sgd")

COMMANDS = (pack,)
