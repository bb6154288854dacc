"""`dpg config`: check and show a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import typer

from dpg.artifacts import atomic_path
from dpg.cli.options import Config, Out, group
from dpg.config import Settings, derived, leaves, load
from dpg.errors import DpgError

config_app = group("Check and show a configuration.")
GROUPS = {"config": config_app}


@config_app.command()
def check(config: Config) -> None:
    """Check a scale file together with config/experiments.yaml.

    **Example:** `dpg config check --config config/tiny.yaml`
    """
    study = load(config)
    typer.echo(f"{config}: {len(study.runs)} generator runs, every value in its range")


@config_app.command()
def show(
    config: Config,
    run: Annotated[
        str | None, typer.Option(help="Only this run, such as sixseven/adam-T8, or downstream.")
    ] = None,
) -> None:
    """Print every run's resolved values, each with its source (a table of the paper, a file).

    **Example:** `dpg config show --config config/paper.yaml --run sixseven/adam-T96`
    """
    study = load(config)
    runs = [r for r in study.runs if run is None or f"{r.experiment}/{r.variant}" == run]
    downstream = study.downstream if run in (None, "downstream") else None
    if not runs and downstream is None:
        names = dict.fromkeys(f"{r.experiment}/{r.variant}" for r in study.runs)
        raise DpgError(f"{config}: no run '{run}'; there are: {', '.join(names)}")
    for one in runs:
        typer.secho(f"\n{one.path}", bold=True, nl=False)
        typer.echo(f"  {one.title} (section {one.section})")
        typer.echo(
            f"  a GRPO step: {one.prompts_per_step} prompts x {one.generator.group_size} = "
            f"{one.rollouts_per_step} rollouts = {one.learner.steps} x {one.learner.batch_size}"
        )
        _show_values(one, study.sources(one))
    if downstream is not None:
        typer.secho("\ndownstream", bold=True, nl=False)
        typer.echo("  Perplexity after training on each generator's text (Table 1, Appendix C)")
        _show_values(downstream, study.downstream_sources)


@config_app.command()
def derive(
    config: Config,
    out: Out,
    seeds: Annotated[int, typer.Option(help="How many seeds: 0, 1, ...")],
) -> None:
    """Write a scale file like this one with more seeds; its results go to the same folder.

    **Example:** `dpg config derive -c config/tiny.yaml --seeds 3 --out tiny-3-seeds.yaml`
    """
    text = derived(config, seeds=seeds)
    if out.is_file() and out.read_text(encoding="utf-8") == text:
        return  # its age says nothing to Snakemake, and stays
    with atomic_path(out) as partial:
        partial.write_text(text, encoding="utf-8")


def _show_values(settings: Settings, origins: Mapping[str, str]) -> None:
    for key, value in leaves(settings):
        typer.echo(f"  {key:34} {value!s:<38} {origins.get(key, 'default')}")
