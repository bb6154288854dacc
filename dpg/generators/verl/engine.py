"""A generator run with verl: its trainer in its own environment, rewards from a server in ours.

`dpg.generators.remote` says which processes make a run. verl's trainer
(`dpg.generators.verl.worker`) samples with vLLM where there is a GPU, else with transformers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator
from pathlib import Path

from dpg import artifacts, environments
from dpg.config import RunConfig
from dpg.errors import DpgError
from dpg.generators import remote
from dpg.generators.engine import OnStep, RunInputs, ignore
from dpg.generators.remote import UnderWay
from dpg.generators.verl import overrides, ray_cluster
from dpg.generators.verl.run import RUN_VARIABLE, Run, go_back, last_checkpoint
from dpg.processes import Process, started
from dpg.run_folder import RunFolder, RunState
from dpg.state import locked


class VerlError(DpgError):
    """verl or the reward server ended the run; the message says what it was."""


TRAINER = remote.Trainer(
    name="verl",
    error=VerlError,
    steps_done=lambda state: last_checkpoint(state.checkpoints),
    trained=lambda state, step: state.checkpoints / f"global_step_{step}" / "actor" / "huggingface",
    go_back=go_back,
)


def run_generator(
    run: RunConfig,
    inputs: RunInputs,
    folder: RunFolder,
    *,
    config: Path,
    gpus: int,
    nodes: int = 1,
    environment: str | Path | None = None,
    seconds: float | None = None,
    on_step: OnStep = ignore,
) -> None:
    """Carry out one run of the study with verl; a `dpg.generators.engine.Engine`.

    Args:
        run, inputs, folder, seconds, on_step: as for any engine; `run` as `config` gives it.
        config: the scale file, for the reward server.
        gpus: of each machine; 0 trains on the CPU, for tests.
        nodes: machines; on more than one the trainer joins a Ray cluster (`ray_cluster.joined`).
        environment: verl's, a virtual environment; by default where the workflow makes it.

    Raises:
        DpgError: the environment is missing, verl cannot be given a value, or what ended the run.
        OutOfTimeError: the time limit came first.
        StateLockedError: another process carries out the same run.
    """
    deadline = remote.deadline_of(seconds)
    python = environments.existing_python(environments.for_gpus("verl", gpus), environment)
    folder = RunFolder(folder.path.absolute())
    with locked(folder.state.path) as lock:
        beginning = remote.begin(run, inputs, folder, TRAINER)
        under_way, tokenizer = beginning.under_way, beginning.tokenizer
        if under_way.steps_done < run.generator.grpo_steps:
            state, keep = folder.state, lock.descriptors  # held open after this process is killed
            beginning.write_prompts()
            describe(under_way, inputs.generator, tokenizer.eos_ids, gpus, nodes)
            with (
                remote.reward_server(
                    run, inputs, config, folder, error=VerlError, gpus=gpus, keep=keep
                ) as server,
                _trainer(python, state, gpus, nodes, keep) as trainer,
            ):
                remote.watch(under_way, server, trainer, deadline, on_step)
        under_way.finish(folder, tokenizer)


def describe(
    under_way: UnderWay, model: Path, eos_ids: tuple[int, ...], gpus: int, nodes: int
) -> None:
    """Write the file by which the worker is told of the run."""
    run, state, done = under_way.run, under_way.state, under_way.steps_done
    paths = overrides.Paths(
        model=model.absolute(),
        prompts=state.prompts,
        validation=state.validation_prompts,
        checkpoints=state.checkpoints,
    )
    first = under_way.is_due(done) and not under_way.is_validated(done)
    values = overrides.settings(run, paths, gpus=gpus, nodes=nodes, validate_first=first)
    described = Run(
        overrides=overrides.overrides(values),
        connection=str(state.connection),
        state=str(state.path),
        seed=run.seed,
        eos_ids=list(eos_ids),
        prompts_per_step=run.prompts_per_step,
        advantage_eps=run.generator.advantage_eps,
        gpus=gpus,
        nodes=nodes,
    )
    artifacts.write_json(state.worker, described._asdict())


@contextlib.contextmanager
def _trainer(
    python: Path, state: RunState, gpus: int, nodes: int, keep: Collection[int]
) -> Iterator[Process]:
    """verl's trainer, and Ray on the run's machines where there are several."""
    command = [str(python), "-m", "dpg.generators.verl.worker", str(state.worker)]
    plain = worker_environment(state, gpus)
    with (
        ray_cluster.joined(python, plain, state.path, nodes=nodes, gpus=gpus) as environment,
        started("verl", command, state.log("verl"), environment, state.path, keep) as trainer,
    ):
        yield trainer


def worker_environment(state: RunState, gpus: int) -> dict[str, str]:
    """The environment variables of verl's processes."""
    environment = remote.trainer_environment(state, gpus)
    environment |= {"RAY_USAGE_STATS_ENABLED": "0", RUN_VARIABLE: str(state.worker)}
    if not gpus:
        # Ray would start one process per core, each of which would import verl for nothing.
        environment["RAY_prestart_worker_first_driver"] = "0"
    return environment
