"""`dpg figure` and `dpg theorem`: draw the paper's figures and tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpg.cli import process
from dpg.cli.options import FigureFolder


def figure(
    name: Annotated[
        str, typer.Argument(help="figure_1 ... figure_7, table_1 ... table_6, curves, extras")
    ],
    runs: Annotated[
        list[Path] | None, typer.Argument(help="Run folders; table_1: perplexities.")
    ] = None,
    out: FigureFolder = Path("."),
) -> None:
    """Draw a figure or table of the paper from run folders: PDF, PNG and its CSV.

    **Example:** `dpg figure figure_2 results/tiny/runs/sixseven/*/seed0 --out figures`
    """
    from dpg import figures
    from dpg.provenance import stamp

    paths = figures.build(name, runs or [], out)
    stamp(paths[-1], "figures")
    for path in paths:
        typer.echo(path)


def theorem(out: FigureFolder = Path(".")) -> None:
    """Measure Theorem 3.1: the exact error of the policy gradient against eta, B and T.

    The policy is so small that the target can be trained on every dataset that the policy can
    write. This takes half a minute on one core.

    **Example:** `dpg theorem --out results/tiny/figures`
    """
    process.start_jax()
    from dpg import theory
    from dpg.figures import theorem_3_1
    from dpg.progress import Progress
    from dpg.provenance import stamp

    with Progress("theorem_3_1", len(theory.OPTIMIZERS) * len(theory.POINTS)) as bar:
        measured = theory.measure(progress=bar)
    paths = theorem_3_1.build(measured, out / "theorem_3_1")
    stamp(paths[-1], "theorem")
    for path in paths:
        typer.echo(path)


COMMANDS = (figure, theorem)
