"""`dpg score`: which training texts help a model on validation texts, and by how much."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpg.cli import process
from dpg.cli.options import one_of

_OPTIMIZERS, _SCHEDULES = ("adamw", "sgd"), ("constant", "linear", "cosine")
_IMPLEMENTATIONS = ("native", "easydel")


def score(
    out: Annotated[Path, typer.Option("--out", "-o", help="A new folder for the results.")],
    model: Annotated[
        Path | None, typer.Argument(help="A Hugging Face folder of the GPT-2 or Llama family.")
    ] = None,
    train: Annotated[
        Path | None, typer.Option(help="Texts to be scored: .jsonl, .parquet, .txt or a folder.")
    ] = None,
    validation: Annotated[
        Path | None, typer.Option(help="Texts whose loss, after training, is the metric.")
    ] = None,
    held_out: Annotated[
        Path | None, typer.Option(help="Texts whose loss is only measured, before and after.")
    ] = None,
    example: Annotated[
        bool,
        typer.Option("--example", help="Score built-in example texts, on a tiny model."),
    ] = False,
    optimizer: Annotated[str, typer.Option(help="adamw or sgd.")] = "adamw",
    learning_rate: Annotated[
        float | None, typer.Option(help="Default: 1e-4; with --example 1e-3.")
    ] = None,
    schedule: Annotated[str, typer.Option(help="constant, linear or cosine.")] = "constant",
    warmup: Annotated[int, typer.Option(help="Steps over which the rate rises.")] = 0,
    weight_decay: Annotated[float, typer.Option(help="For adamw.")] = 1e-4,
    batch_size: Annotated[int, typer.Option(help="Texts per step.")] = 16,
    epochs: Annotated[int, typer.Option(help="Passes over the training texts.")] = 1,
    steps: Annotated[int | None, typer.Option(help="Steps, in as many passes as it takes.")] = None,
    length: Annotated[
        int | None, typer.Option(help="Tokens per text at most; default: the model's context.")
    ] = None,
    cut: Annotated[
        bool, typer.Option("--cut", help="Cut longer texts instead of refusing them.")
    ] = False,
    end: Annotated[
        bool, typer.Option("--end/--no-end", help="Put the end of text after each text.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Of the order of the texts.")] = 0,
    lora: Annotated[
        int | None, typer.Option(help="Train LoRA matrices of this rank, not all parameters.")
    ] = None,
    lora_alpha: Annotated[float, typer.Option(help="LoRA's products count alpha / rank.")] = 16.0,
    microbatch: Annotated[str, typer.Option(help="Texts at a time; auto: what fits.")] = "auto",
    memory: Annotated[
        str, typer.Option(help="For kept states, such as 4GB; auto: what the device has left.")
    ] = "auto",
    on_disk: Annotated[
        bool, typer.Option("--on-disk", help="Keep states in files: a killed call resumes.")
    ] = False,
    remat: Annotated[
        bool, typer.Option("--remat", help="Compute layers twice to save memory.")
    ] = False,
    compare: Annotated[
        int, typer.Option(help="Seeds of the check: better half against random half.")
    ] = 0,
    implementation: Annotated[
        str, typer.Option(help="native, or easydel for other families of models.")
    ] = "native",
) -> None:
    """Score training texts: how much each helps a model on validation texts.

    The model is trained on the texts and the training is differentiated. The folder gets
    scores.parquet and scores.csv, report.html with the best and the worst texts, the trained model
    in checkpoint/ and run.json. If the command is killed, repeat it: what was finished is kept.

    **Example:** `dpg score --example --out first-scores`
    """
    one_of("--optimizer", optimizer, _OPTIMIZERS)
    one_of("--schedule", schedule, _SCHEDULES)
    one_of("--implementation", implementation, _IMPLEMENTATIONS)
    if implementation == "easydel":
        process.enter_easydel("dpg score --implementation easydel")
    process.start_jax()
    from dpg.score import run
    from dpg.score.options import inputs_of, settings_of

    settings = settings_of(
        example=example,
        optimizer=optimizer,
        learning_rate=learning_rate,
        schedule=schedule,
        warmup=warmup,
        weight_decay=weight_decay,
        batch_size=batch_size,
        epochs=epochs,
        steps=steps,
        length=length,
        cut=cut,
        end=end,
        seed=seed,
        lora=lora,
        lora_alpha=lora_alpha,
        microbatch=microbatch,
        memory=memory,
        on_disk=on_disk,
        remat=remat,
    )
    inputs = inputs_of(model, train, validation, held_out, example=example)
    record = run.score(
        inputs,
        out,
        settings,
        implementation="easydel" if implementation == "easydel" else "native",
        compared_seeds=compare,
        say=typer.echo,
    )
    typer.echo(
        f"{out / 'report.html'}: scores of {record['texts']} texts; metric {record['metric']:.4f}"
    )


COMMANDS = (score,)
