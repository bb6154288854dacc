"""`dpg train`: train target models in PyTorch (Table 1)."""

from __future__ import annotations

from typing import Annotated

import typer

from dpg.cli.options import (
    Config,
    OptionalOut,
    Table,
    TargetName,
    Tasks,
    downstream_of,
    group,
    one_of,
)

train_app = group("Train target models in PyTorch (Table 1).")
GROUPS = {"train": train_app}


@train_app.command()
def cpt(
    config: Config,
    target: TargetName,
    group: Annotated[
        str, typer.Option(help="A language, or common: the texts that all languages share.")
    ],
    out: OptionalOut = None,
) -> None:
    """Continue a target model's pre-training on each corpus of a group (Table 11); resumes.

    **Example:** `dpg train cpt -c config/tiny.yaml --target llama-base --group es`
    """
    from dpg.evaluation import downstream
    from dpg.study import sources

    study, layout, settings = downstream_of(config)
    one_of("--target", target, settings.targets)
    one_of("--group", group, sources.groups(study))
    run = sources.language_runs(study)[0]
    downstream.continue_pretraining(
        settings.cpt,
        target=layout.model(target),
        generator=layout.model(run.generator.model),
        replay=layout.text_corpus("replay"),
        corpora={
            source: layout.text_corpus(*names)
            for source, names in sources.corpora(study, group).items()
        },
        seed=settings.seed,
        out=out or layout.trained(target, group),
    )


@train_app.command()
def sft(
    config: Config,
    target: TargetName,
    language: Annotated[str, typer.Option(help="Language of the passages: de, es, fr or it.")],
    passages: Table = None,
    tasks: Tasks = None,
    out: OptionalOut = None,
) -> None:
    """Fine-tune a target model on the benchmark's train split, the grid of Table 12; resumes.

    **Example:** `dpg train sft -c config/tiny.yaml --target llama-base --language es`
    """
    from dpg.artifacts import read_table
    from dpg.evaluation import downstream
    from dpg.evaluation.perplexity import Harness
    from dpg.study import sources

    study, layout, settings = downstream_of(config)
    one_of("--target", target, settings.targets)
    one_of("--language", language, sources.languages(study))
    downstream.fine_tune(
        settings.sft,
        target=layout.model(target),
        passages=read_table(passages or layout.passages),
        language=language,
        harness=Harness(tasks or layout.tasks, settings.perplexity),
        seed=settings.seed,
        out=out or layout.trained(target, language),
    )
