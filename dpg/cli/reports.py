"""`dpg claims` and `dpg report`: the ledger of claims, the report's pages, and kept results."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from dpg.cli.options import Config, OptionalOut, Out, group, study_of
from dpg.config import load

report_app = group("Report pages; kept results and their cards.")
GROUPS = {"report": report_app}


def claims(config: Config, out: OptionalOut = None) -> None:
    """Check every claim of the paper over the results: JSON, Markdown and a page.

    A claim counts as not tested if the study does not test it or its results are missing.

    **Example:** `dpg claims -c config/tiny.yaml --out claims`
    """
    from dpg import claims as ledger
    from dpg.provenance import stamp

    results = ledger.Results(load(config))
    verdicts = [ledger.verdict_on(claim, results) for claim in ledger.CLAIMS]
    for verdict in verdicts:
        typer.echo(f"{verdict.claim.name}: {verdict.line}")
    scale = results.study.scale.scale
    folder = out or results.layout.claims
    paths = ledger.write(verdicts, folder, scale=scale, seeds=results.study.all_seeds)
    stamp(paths[-1], "claims")


@report_app.command()
def pages(config: Config, out: OptionalOut = None) -> None:
    """Write the report's own pages: generations side by side, provenance, one line per run.

    **Example:** `dpg report pages -c config/tiny.yaml --out report`
    """
    from dpg.provenance import stamp
    from dpg.report import pages

    study, layout = study_of(config)
    paths = pages.build(study, layout, out or layout.report)
    stamp(paths[-1], "report")
    for path in paths:
        typer.echo(path)


@report_app.command()
def page(
    config: Config,
    appendix: Annotated[
        bool, typer.Option("--appendix", help="Make Snakemake's own report, too, and link to it.")
    ] = False,
    out: OptionalOut = None,
) -> None:
    """Write the report: one HTML page with every figure, table, claim and generation.

    It needs no network and no other file. For an unfinished study it shows what exists so far.

    **Example:** `dpg report page -c config/tiny.yaml`
    """
    from dpg.provenance import stamp
    from dpg.report import material
    from dpg.report import page as pages

    study, layout = study_of(config)
    path = out or layout.page
    found = material.of_study(study, layout)
    if appendix:
        _make_appendix(config, layout.appendix)
    missing = pages.write(found, path, appendix=layout.appendix)
    stamp(path, "report")
    _say_written(path, missing)


@report_app.command()
def kept(
    reference: Annotated[Path, typer.Argument(help="A folder made by `dpg report keep`.")],
    out: Out,
) -> None:
    """Write the report's page from kept results.

    **Example:** `dpg report kept results/reference/tiny --out results/reference.html`
    """
    from dpg.report import material
    from dpg.report import page as pages

    _say_written(out, pages.write(material.of_reference(reference), out))


def _make_appendix(config: Path, out: Path) -> None:
    """Have Snakemake write its own report; it fails, with a message, for an unfinished study."""
    command = [sys.executable, "-m", "snakemake", "--cores", "1", "--configfile", str(config)]
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent) as folder:
        made = Path(folder) / out.name
        done = subprocess.run(
            [*command, "--report", str(made)], capture_output=True, text=True, check=False
        )
        if done.returncode == 0 and made.exists():
            made.replace(out)
        else:
            typer.echo("no appendix: Snakemake's own report needs the whole study", err=True)


def _say_written(path: Path, missing: list[str]) -> None:
    if missing:
        typer.echo(f"not drawn yet, and left out: {', '.join(missing)}", err=True)
    typer.echo(path)


@report_app.command()
def keep(
    config: Config,
    out: Out,
    stopped: Annotated[
        bool,
        typer.Option("--stopped", help="Keep stopped runs too, with their rollouts."),
    ] = False,
    rollouts: Annotated[
        bool,
        typer.Option("--rollouts", help="Keep what each finished run wrote, too."),
    ] = False,
) -> None:
    """Keep a finished study small: figures, tables, claims, pages, configuration and cards.

    With --stopped, a run that was stopped before its end is kept as far as it got. Every figure,
    table and page says so. The run itself is not changed, and can be continued. The runs beside the
    study are then kept too, and drawn apart (extras.png). With --rollouts,
    `runs/<run>/rollouts.csv` has the text of every validation, with the judge's language.

    The dataset card and the model card are written from what the study recorded. Fill in the
    licence of your own sources before you publish the study.

    **Example:** `dpg report keep -c config/tiny.yaml --out results/reference/tiny`
    """
    from dpg.report import reference

    study, layout = study_of(config)
    for path in reference.keep(study, layout, out, stopped=stopped, rollouts=rollouts):
        typer.echo(path)


@report_app.command()
def add(
    reference: Annotated[Path, typer.Argument(help="A folder made by `dpg report keep`.")],
    config: Config,
) -> None:
    """Add runs beside the study, made on another machine, to a kept study.

    These are the runs under `extras` in the scale file. A run that was stopped is added as far as
    it got. Their text goes to `runs/`, and extras.png is drawn again with their curves. All else in
    the folder stays as it is.

    **Example:** `dpg report add results/reference/laptop -c config/laptop.yaml`
    """
    from dpg.report import beside

    study, layout = study_of(config)
    for path in beside.add(study, layout, reference):
        typer.echo(path)


@report_app.command()
def cards(
    reference: Annotated[Path, typer.Argument(help="A folder made by `dpg report keep`.")],
) -> None:
    """Write the dataset card and the model card of a kept study again, from its own files.

    **Example:** `dpg report cards results/reference/tiny`
    """
    from dpg.report import cards

    for path in cards.write(reference):
        typer.echo(path)


@report_app.command()
def redraw(
    reference: Annotated[Path, typer.Argument(help="A folder made by `dpg report keep`.")],
) -> None:
    """Draw the figures of kept results again, and judge the claims again, from the kept tables.

    **Example:** `dpg report redraw results/reference/tiny`
    """
    from dpg.claims.kept import VALIDATIONS
    from dpg.report import graphics, merging, records

    for path in graphics.redraw(reference):
        typer.echo(path)
    if not (reference / VALIDATIONS).exists():
        typer.echo(f"claims left as they are: {reference} has no {VALIDATIONS}", err=True)
        return
    for path in merging.judge(records.study_of(reference), reference):
        typer.echo(path)


@report_app.command()
def merge(
    config: Config,
    kept: Annotated[list[Path], typer.Argument(help="Folders made by `dpg report keep`.")],
    out: Out,
) -> None:
    """Merge several kept studies with different seeds into one reference.

    Figures are drawn and claims judged over all seeds. Each seed can be run on a different machine:
    `dpg config derive --only` writes the scale file of one seed.

    **Example:** `dpg report merge kept/seed0 kept/seed1 -c config/tiny.yaml --out kept/both`
    """
    from dpg.report import merging

    for path in merging.merge(load(config), kept, out):
        typer.echo(path)


@report_app.command()
def check(
    config: Config,
    reference: Annotated[Path, typer.Argument(help="A folder made by `dpg report keep`.")],
) -> None:
    """Check that kept results match the present configuration; exit status 1 if they do not.

    **Example:** `dpg report check results/reference/tiny -c config/tiny.yaml`
    """
    from dpg.report import records

    records.require_current(load(config), reference)
    typer.echo(f"{reference} matches the present {config}")


COMMANDS = (claims,)
