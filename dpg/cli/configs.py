"""`dpg config`: check and show a configuration."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, cast, get_args

import typer

from dpg.artifacts import write_text
from dpg.cli.options import Config, Out, group, one_of
from dpg.config import ReadingName, Settings, derived, leaves, load
from dpg.config.diff import Comparison, compare
from dpg.errors import DpgError

config_app = group("Check and show a configuration.")
GROUPS = {"config": config_app}


@config_app.command()
def check(config: Config) -> None:
    """Check a scale file together with config/experiments.yaml.

    A custom metric or reward is imported. The value of a custom metric must be one number.

    **Example:** `dpg config check --config config/tiny.yaml`
    """
    study = load(config)
    own = [run for run in study.every_run if "custom" in (run.metric.kind, run.reward.kind)]
    if own:
        from dpg.targets.own import check_own

        for words in dict.fromkeys(check_own(run, study.scale) for run in own):
            if words:
                typer.echo(words)
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
    runs = [r for r in study.every_run if run is None or f"{r.experiment}/{r.variant}" == run]
    downstream = study.downstream if run in (None, "downstream") else None
    if not runs and downstream is None:
        names = dict.fromkeys(f"{r.experiment}/{r.variant}" for r in study.every_run)
        raise DpgError(f"{config}: no run '{run}'; there are: {', '.join(names)}")
    for one in runs:
        typer.secho(f"\n{one.path}", bold=True, nl=False)
        typer.echo(f"  {one.title} (section {one.section})")
        typer.echo(
            f"  a GRPO step: {one.prompts_per_step} prompts x {one.generator.group_size} = "
            f"{one.rollouts_per_step} rollouts = {one.learner.steps} x {one.learner.batch_size}"
        )
        chosen = one.prompts.described(one.prompt_shuffle)
        typer.echo(f"  prompts: {chosen}; {study.prompt_epochs(one):.4g} epochs")
        _show_values(one, study.sources(one))
    if downstream is not None:
        typer.secho("\ndownstream", bold=True, nl=False)
        typer.echo("  Perplexity after training on each generator's text (Table 1, Appendix C)")
        _show_values(downstream, study.downstream_sources)


@config_app.command()
def diff(
    first: Annotated[Path, typer.Argument(help="A scale file.")],
    second: Annotated[Path | None, typer.Argument(help="A second scale file.")] = None,
    reading: Annotated[
        tuple[str, str] | None,
        typer.Option(help="Compare two readings of the first file: text code."),
    ] = None,
    run: Annotated[
        str | None,
        typer.Option(help="Only this run, such as sixseven/adam-long, experiment, or scale."),
    ] = None,
) -> None:
    """Print every value that differs between two scales, or two readings, with both sources.

    **Example:** `dpg config diff config/tiny.yaml config/paper.yaml --run sixseven`

    **Example:** `dpg config diff config/paper.yaml --reading text code`
    """
    if (second is None) == (reading is None):
        raise DpgError(
            f"{first}: expected a second scale file or --reading with two names, such as "
            f"--reading text code; got {'neither' if reading is None else 'both'}"
        )
    if reading is None:
        assert second is not None
        labels = (str(first), str(second))
        found = compare(load(first), load(second), run)
    else:
        labels = reading
        left, right = (load(first, reading=_reading(name)) for name in reading)
        found = compare(left, right, run, {"reading": "--reading"})
    _show_comparison(found, labels)


def _reading(name: str) -> ReadingName:
    one_of("reading", name, list(get_args(ReadingName)))
    return cast(ReadingName, name)


def _show_comparison(found: Comparison, labels: tuple[str, str]) -> None:
    for label, names in zip(labels, found.only, strict=True):
        if names:
            typer.echo(f"only in {label}: {', '.join(names)}")
    if not found.groups:
        typer.echo(f"no value differs between {labels[0]} and {labels[1]}")
    for shared in found.groups:
        typer.secho(f"\n{found.names(shared.parts)}", bold=True)
        typer.echo(f"  {'':34} {labels[0]:<24} {labels[1]:<24} sources")
        for key, left, right in shared.differences:
            typer.echo(
                f"  {key:34} {left.value!s:<24} {right.value!s:<24} {left.source} | {right.source}"
            )


@config_app.command()
def derive(
    config: Config,
    out: Out,
    seeds: Annotated[int | None, typer.Option(help="Number of seeds: 0, 1, ...")] = None,
    only: Annotated[int | None, typer.Option(help="Only this seed of the study.")] = None,
    seeds_of: Annotated[
        list[str] | None,
        typer.Option(help="Number of seeds of one variant, such as sixseven/adam-long=5."),
    ] = None,
) -> None:
    """Write a scale file like this one with other seeds; its results go to the same folder.

    **Example:** `dpg config derive -c config/tiny.yaml --seeds 3 --out tiny-3-seeds.yaml`
    """
    text = derived(config, seeds=seeds, only=only, seeds_of=dict(map(_count, seeds_of or ())))
    if out.is_file() and out.read_text(encoding="utf-8") == text:
        return  # up to date: keep its modification time
    write_text(out, text)


def _count(words: str) -> tuple[str, int]:
    """``experiment/variant=number`` in two."""
    name, equals, count = words.partition("=")
    if not (name and equals and count.isascii() and count.isdigit()):
        raise DpgError(f"--seeds-of {words}: expected VARIANT=NUMBER, like sixseven/adam-long=5")
    return name, int(count)


def _show_values(settings: Settings, origins: Mapping[str, str]) -> None:
    for key, value in leaves(settings):
        typer.echo(f"  {key:34} {value!s:<38} {origins.get(key, 'default')}")
