"""`dpg corpus`: texts to train a target model on (Table 1)."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpg.cli import process
from dpg.cli.options import Config, OptionalOut, Table, Wheel, downstream_of, group, listed

corpus_app = group("Texts to train a target model on (Table 1).")
GROUPS = {"corpus": corpus_app}


@corpus_app.command()
def replay(
    config: Config,
    wheel: Wheel = None,
    articles: Table = None,
    tokenizer: Annotated[
        Path | None, typer.Option(help="A target model; default: in results/.")
    ] = None,
    out: OptionalOut = None,
) -> None:
    """Collect the English text that is mixed into continued pre-training (Table 11).

    **Example:** `dpg corpus replay -c config/tiny.yaml`
    """
    from dpg.evaluation import replay as replays
    from dpg.text.wikipedia import WHEEL_FILENAME

    _, layout, settings = downstream_of(config)
    record, counts = replays.write_replay(
        settings,
        tokenizer=tokenizer or layout.model(settings.targets[0]),
        articles=articles or layout.articles,
        wheel=wheel or layout.sources / WHEEL_FILENAME,
        out=out or layout.text_corpus("replay"),
    )
    typer.echo(f"{record['texts']:,} texts, {record['tokens']:,} tokens; {listed(counts)}")


@corpus_app.command()
def rollouts(
    config: Config,
    experiment: Annotated[
        str | None, typer.Option(help="Such as lambada-es; without it: the untuned generator.")
    ] = None,
    variant: Annotated[str | None, typer.Option(help="Such as adam.")] = None,
    generator: Annotated[
        Path | None, typer.Option(help="Checkpoint; default: in results/.")
    ] = None,
    articles: Table = None,
    out: OptionalOut = None,
) -> None:
    """Have a generator write text for continued pre-training; resumes where it was stopped.

    **Example:** `dpg corpus rollouts -c config/tiny.yaml --experiment lambada-es --variant adam`
    """
    study, layout, settings = downstream_of(config)
    if settings.corpus.engine == "vllm":
        reason = f"{config}: downstream.corpus.engine is vllm"
        process.enter_environment("vllm", study, reason, instead="jax")
    process.start_jax()
    from dpg.evaluation import corpora
    from dpg.study import sources

    writer = sources.writer(study, experiment, variant)
    record = corpora.write_corpus(
        writer.run,
        settings.corpus,
        generator=generator or writer.model_in(layout),
        articles=articles or layout.articles,
        out=out or layout.text_corpus(*writer.corpus),
        seed=settings.seed,
    )
    typer.echo(
        f"{record['texts']:,} texts, {record['distinct']:,} of them distinct, "
        f"{record['tokens']:,} tokens, from {record['prompts']:,} articles"
    )
