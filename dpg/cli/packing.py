"""`dpg pack`: a bundle for a machine without a network."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from dpg.cli.options import Out
from dpg.config import RunConfig, Study, load
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
    bench: Annotated[
        bool, typer.Option("--bench", help="Measure the machine after the runs, too.")
    ] = False,
    part_mb: Annotated[int, typer.Option(min=1, help="Largest file, in MB.")] = 60,
) -> None:
    """Pack what a machine without a network needs for some runs: code, texts, models, wheels.

    The texts and models must exist already. Large files are cut into parts. On the other machine,
    `python3 bundle/run.py --out OUT --seconds 560` checks the bundle and runs its stages.

    **Example:** `dpg pack --scale gpu --out bundle`
    """
    from dpg import pack as packing

    if not re.fullmatch(r"3\.\d+(\.\d+)?", python):
        raise DpgError(f"--python {python}: expected a version such as 3.12")
    path = Path(scale) if scale.endswith((".yaml", ".yml")) else Path("config") / f"{scale}.yaml"
    study = load(path)
    made = packing.make(
        study,
        Layout(study.scale.scale),
        out,
        [_named(study, name) for name in runs or _RUNS],
        python=python,
        wheels=() if no_wheels else (wheels or packing.WHEELS),
        limits=limits or (),
        bench=bench,
        part_bytes=part_mb * 1_000_000,
    )
    for file in made:
        typer.echo(f"{file.stat().st_size:>12,}  {file}")


_RUNS = ("lambada-es/adam", "lambada-es/sgd")
_NAME = re.compile(r"([^/]+)/([^/]+)(?:/seed(\d+))?")


def _named(study: Study, name: str) -> RunConfig:
    """The run of a name such as lambada-es/adam or lambada-es/adam/seed1."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise DpgError(
            f"--run {name}: expected EXPERIMENT/VARIANT or EXPERIMENT/VARIANT/seedNUMBER, such as "
            f"{_RUNS[0]}"
        )
    experiment, variant, seed = match.groups()
    return study.run(experiment, variant, study.all_seeds[0] if seed is None else int(seed))


COMMANDS = (pack,)
