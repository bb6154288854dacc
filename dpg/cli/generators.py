"""`dpg generate`, `reward-server`, `fresh-samples`, `sweep`: Algorithm 1 and what it needs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpg.cli import process
from dpg.cli.options import (
    Config,
    Experiment,
    ModelFolder,
    OptionalOut,
    RewardModel,
    Seed,
    Table,
    Variant,
    inputs_of,
    require_made,
    seconds_of,
    study_of,
)


def generate(
    config: Config,
    experiment: Experiment,
    variant: Variant,
    seed: Seed = 0,
    generator: ModelFolder = None,
    target: ModelFolder = None,
    articles: Table = None,
    passages: Table = None,
    reward_model: RewardModel = None,
    until: Annotated[
        str | None, typer.Option(help="Stop cleanly within this time, such as 9m or 2h.")
    ] = None,
    environment: Annotated[
        Path | None,
        typer.Option(
            "--environment", "--verl", help="Of verl or TRL; default: the workflow's own."
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Train again; the finished run is kept beside it.")
    ] = False,
    out: OptionalOut = None,
) -> None:
    """Train a generator with the Dataset Policy Gradient (Algorithm 1).

    If it is killed or reaches its time limit, run the same command again: it goes on from the last
    checkpoint and ends with the same numbers. At the time limit the exit status is 75 instead of 0.
    A finished run is not trained again, unless you give --force.

    **Example:** `dpg generate -c config/tiny.yaml --experiment lambada-es --variant adam`
    """
    study, layout = study_of(config)
    run = study.run(experiment, variant, seed)
    seconds = None if until is None else seconds_of(until)
    if study.scale.engine == "jax":  # another engine's target lives in its reward server
        process.enter_targets_environment(study, run)
    process.start_jax()
    from dpg.generators.finished import done_already, taken_from
    from dpg.generators.run import engine_of
    from dpg.generators.started_from import from_files
    from dpg.progress import StepBar
    from dpg.run_folder import RunFolder

    inputs = inputs_of(
        run,
        generator=generator,
        target=target,
        articles=articles,
        passages=passages,
        reward_model=reward_model,
    )
    folder = RunFolder(out) if out else layout.run_of(run)
    engine = study.scale.engine
    require_made(inputs, config)  # before --force renames a finished run
    if done := done_already(run, inputs, folder, engine=engine, force=force):
        typer.echo(done, err=True)
        return
    swept = layout.sweep(experiment, variant).rate(run.learner.learning_rate)
    may_be_taken = engine == "jax" and swept.is_finished and not force
    if may_be_taken and taken_from(swept, run, folder, from_files(run, inputs)):
        return
    with StepBar(f"{experiment}/{variant}", run.generator.grpo_steps) as bar:
        engine_of(study, environment)(run, inputs, folder, seconds=seconds, on_step=bar)


def reward_server(
    config: Config,
    experiment: Experiment,
    variant: Variant,
    connection: Annotated[
        Path,
        typer.Option(help="File for clients: host, port, token. Deleted when the server stops."),
    ],
    seed: Seed = 0,
    generator: ModelFolder = None,
    target: ModelFolder = None,
    articles: Table = None,
    passages: Table = None,
    reward_model: RewardModel = None,
    out: Annotated[
        Path | None, typer.Option(help="Run folder for validations' rollouts; default: none.")
    ] = None,
    host: Annotated[str, typer.Option(help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 chooses a free port.")] = 0,
    with_parent: Annotated[
        bool, typer.Option("--with-parent", help="Stop when the process that started it ends.")
    ] = False,
) -> None:
    """Serve a run's rewards to an engine in another environment, over HTTP on loopback.

    **Example:** `dpg reward-server -c config/tiny.yaml --experiment sixseven --variant adam-T8
    --connection rewards.json`
    """
    study, _ = study_of(config)
    run = study.run(experiment, variant, seed)
    process.enter_targets_environment(study, run)
    process.start_jax()
    from dpg.generators.reward_service import serve_run
    from dpg.run_folder import RunFolder

    inputs = inputs_of(
        run,
        generator=generator,
        target=target,
        articles=articles,
        passages=passages,
        reward_model=reward_model,
    )
    require_made(inputs, config)
    serve_run(
        run,
        inputs,
        connection=connection,
        state=RunFolder(out).state if out else None,
        host=host,
        port=port,
        with_parent=with_parent,
        say=lambda line: typer.echo(line, err=True),
    )


def sweep(
    config: Config,
    experiment: Annotated[str, typer.Option(help="Such as norm.")],
    variant: Annotated[str, typer.Option(help="With SGD or the naive reward, such as sgd-T8.")],
    seed: Seed = 0,
    out: OptionalOut = None,
) -> None:
    """Find a target's learning rate: one generator run per rate, from `sweep.first` upwards.

    Each rate is the one before times `sweep.factor`. The sweep stops after `sweep.patience`
    consecutive rates that end with a worse validation than the best. Rates already tried are not
    tried again.

    **Example:** `dpg sweep -c config/tiny.yaml --experiment norm --variant sgd-T8`
    """
    study, layout = study_of(config)
    run = study.run(experiment, variant, seed)
    process.enter_targets_environment(study, run)
    process.start_jax()
    from dpg.generators import sweep as sweeps

    inputs = inputs_of(run)
    require_made(inputs, config)
    folder = out or layout.sweep(experiment, variant).path
    record = sweeps.sweep(run, study.scale.sweep, inputs, folder, layout.run_of(run))
    for entry in record["tried"]:
        typer.echo(f"{entry['learning_rate']:.3g}: {entry['metric'] or entry['error']}")
    typer.echo(f"chosen: {record['chosen']:.3g}; configured: {record['configured']:.3g}")


def fresh_samples(
    config: Config,
    experiment: Annotated[str, typer.Option(help="Such as qr.")],
    variant: Variant,
    seed: Seed = 0,
    target: ModelFolder = None,
    articles: Table = None,
    samples: Annotated[int, typer.Option(min=1, help="Number of samples of text.")] = 5,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The run's folder; default: in results/.")
    ] = None,
) -> None:
    """Sample a finished run's text again, and count in how many samples its QR code is decoded.

    For each sample the trained generator answers the same unseen prompts again, and a target is
    trained on the answers. The numbers go to `fresh_samples.json` in the run's folder.

    **Example:** `dpg fresh-samples -c config/gpu.yaml --experiment qr --variant adam-T96`
    """
    study, layout = study_of(config)
    run = study.run(experiment, variant, seed)
    process.enter_targets_environment(study, run)
    process.start_jax()
    from dpg.generators import fresh
    from dpg.progress import StepBar
    from dpg.provenance import stamp
    from dpg.run_folder import RunFolder

    folder = RunFolder(out) if out else layout.run_of(run)
    folder.require_finished()
    inputs = inputs_of(run, generator=folder.generator, target=target, articles=articles)
    require_made(inputs, config)
    with StepBar(f"{experiment}/{variant}, fresh samples", samples) as bar:
        found = fresh.measure(run, inputs, samples, on_sample=bar)
    fresh.write(found, folder)
    stamp(folder.fresh_samples, "fresh_samples")
    typer.echo(fresh.in_words(found))


COMMANDS = (generate, reward_server, fresh_samples, sweep)
