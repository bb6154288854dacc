"""The application: its chapters, and what happens to an error."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

import dpg
from dpg.artifacts import DISK_FAULTS
from dpg.cli import (
    configs,
    corpora,
    environments,
    evaluation,
    figures,
    findings,
    generators,
    models,
    packing,
    reports,
    running,
    scores,
    studies,
    surroundings,
    texts,
    training,
)
from dpg.errors import DpgError

app = typer.Typer(
    name="dpg",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="""Dataset Policy Gradients: train a generator to write data for any differentiable target.

    The whole study is a Snakemake workflow (`make tiny`); each of its steps is a subcommand here.

    **Try:** `dpg config show --config config/tiny.yaml`
    """,
)
for group in (configs, texts, models, corpora, training, evaluation, findings, reports):
    for name, chapter in group.GROUPS.items():
        app.add_typer(chapter, name=name)
for commands in (
    scores, generators, environments, evaluation, figures, packing, reports, studies,
):  # fmt: skip
    for function in commands.COMMANDS:
        app.command()(function)


for function in running.PASSING:
    passing = {"allow_extra_args": True, "ignore_unknown_options": True}
    app.command(context_settings=passing)(function)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"dpg {dpg.__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[
        bool,
        typer.Option("--debug", help="Show an error's traceback; may also follow a subcommand."),
    ] = False,
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    """Take the options of the command itself; `main` reads --debug before this is called."""


def main() -> None:
    """Entry point: errors that a user can mend are one paragraph, without a traceback."""
    # `sys.argv` stays as it is: a command that starts itself again in another environment passes
    # all of it on.
    arguments = sys.argv[1:]
    debug = "--debug" in arguments
    try:
        surroundings.prepare()
        app(args=[argument for argument in arguments if argument != "--debug"])
    except DpgError as error:
        if debug:
            raise
        typer.secho(f"dpg: {error}", fg="red", err=True)
        raise SystemExit(error.exit_status) from None
    except OSError as error:
        if debug or error.errno not in DISK_FAULTS:
            raise
        where = f"{error.filename}: " if error.filename else ""
        words = f"{where}{error.strerror}; free space or choose another disk, then run it again"
        typer.secho(f"dpg: {words}", fg="red", err=True)
        raise SystemExit(DpgError.exit_status) from None
    except KeyboardInterrupt:
        typer.secho("dpg: interrupted; what was finished is kept", err=True)
        raise SystemExit(130) from None
