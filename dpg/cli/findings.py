"""`dpg findings`: small controlled experiments that explain a result."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpg.cli import process
from dpg.cli.options import Config, OptionalOut, group, inputs_of, study_of

findings_app = group("Small controlled experiments that explain a result.")
GROUPS = {"findings": findings_app}


@findings_app.command()
def make(
    config: Config,
    name: Annotated[str, typer.Argument(help="Such as collapse; the workflow makes all of them.")],
    out: OptionalOut = None,
) -> None:
    """Run one finding's experiment: make its figure, its table and a result in one sentence.

    It starts from finished runs of the study. Its own runs go to `runs/` beside the figure. If it
    is killed, run the same command again: finished runs stay.

    **Example:** `dpg findings make collapse -c config/tiny.yaml`
    """
    study, layout = study_of(config)
    process.start_jax()
    from dpg.evaluation.judge import build
    from dpg.findings import record
    from dpg.findings.lab import Lab

    folder = out or layout.findings
    lab = Lab(
        study=study,
        inputs=inputs_of,
        finished=layout.run_of,
        folder=folder / "runs",
        judge=build(study.scale.judge, cache=layout.judge_cache),
    )
    for path in record.make(name, lab, folder):
        typer.echo(path)


@findings_app.command()
def page(
    folder: Annotated[Path, typer.Argument(help="The findings, such as results/tiny/findings.")],
    docs: Annotated[
        Path | None, typer.Option(help="Copy page, figures and tables to this folder, too.")
    ] = None,
) -> None:
    """Write the page of the findings, `findings.md`, beside them.

    **Example:** `dpg findings page results/tiny/findings --docs docs`
    """
    from dpg.findings import page as pages

    typer.echo(pages.write(folder))
    if docs is not None:
        typer.echo(pages.publish(folder, docs))
