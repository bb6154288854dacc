"""A generator run with TRL: its trainer in its own environment, rewards from a server in ours.

`dpg.generators.remote` says which processes make a run. TRL's trainer (`dpg.generators.trl.worker`)
samples with vLLM where there is a GPU, else with transformers; it may itself be several processes.
"""

from __future__ import annotations

import re
from pathlib import Path

from dpg import environments
from dpg.config import Requirements, RunConfig
from dpg.errors import DpgError
from dpg.generators import remote
from dpg.generators.engine import OnStep, RunInputs, ignore
from dpg.generators.trl import machines, settings
from dpg.generators.trl.run import Run, Shape, checkpoint_of, last_checkpoint
from dpg.models import Tokenizer
from dpg.processes import started
from dpg.run_folder import RunFolder, RunState
from dpg.state import locked


class TrlError(DpgError):
    """TRL or the reward server ended the run; the message says what it was."""


def trainer_of(shape: Shape) -> remote.Trainer:
    """TRL's trainer; its random numbers depend on the number of its processes."""
    return remote.Trainer(
        name="trl",
        error=TrlError,
        steps_done=lambda state: last_checkpoint(state.checkpoints)[0] // shape.updates,
        trained=lambda state, step: checkpoint_of(state.checkpoints, step * shape.updates),
        settings={"processes": shape.processes},
        why=dead_rank,
    )


def run_generator(
    run: RunConfig,
    inputs: RunInputs,
    folder: RunFolder,
    *,
    config: Path,
    gpus: int,
    nodes: int = 1,
    processes: int | None = None,
    environment: str | Path | None = None,
    seconds: float | None = None,
    on_step: OnStep = ignore,
) -> None:
    """Carry out one run of the study with TRL; a `dpg.generators.engine.Engine`.

    Args:
        run, inputs, folder, seconds, on_step: as for any engine; `run` as `config` gives it.
        config: the scale file, for the reward server.
        gpus: of each machine; 0 trains on the CPU.
        nodes: machines (`dpg.generators.trl.machines`).
        processes: of the trainer on all machines; by default one per GPU, or one per machine.
        environment: TRL's, a virtual environment; by default where the workflow makes it.

    Raises:
        DpgError: the environment is missing, TRL cannot be given a value, or what ended the run.
        OutOfTimeError: the time limit came first.
        StateLockedError: another process carries out the same run.
    """
    deadline = remote.deadline_of(seconds)
    python = environments.existing_python(environments.for_gpus("trl", gpus), environment)
    needs = Requirements(gpus=gpus, nodes=nodes, processes=processes)
    shape = settings.shape_of(run, settings.processes_of(needs), nodes)
    folder = RunFolder(folder.path.absolute())
    with locked(folder.state.path) as lock:
        beginning = remote.begin(run, inputs, folder, trainer_of(shape))
        under_way, tokenizer = beginning.under_way, beginning.tokenizer
        if not under_way.is_over:
            state, keep = folder.state, lock.descriptors  # held open after this process is killed
            beginning.write_prompts()
            described(run, shape, state, inputs.generator, tokenizer, gpus).write(state.worker)
            command = [str(python), "-m", machines.LAUNCH, str(state.worker)]
            surroundings = worker_environment(state, gpus)
            with (
                remote.reward_server(
                    run, inputs, config, folder, error=TrlError, gpus=gpus, keep=keep
                ) as server,
                machines.joined(python, surroundings, state, nodes=nodes, gpus=gpus) as there,
                started(
                    "trl", [*command, *there.options], state.log("trl"), surroundings, state.path,
                    keep,
                ) as trainer,
            ):  # fmt: skip
                remote.watch(under_way, server, trainer, deadline, on_step, there.others)
        under_way.finish(folder, tokenizer)


def described(
    run: RunConfig, shape: Shape, state: RunState, model: Path, tokenizer: Tokenizer, gpus: int
) -> Run:
    """A run as the trainer is told of it."""
    generator, optimizer = run.generator, run.generator.optimizer
    return Run(
        model=str(model.absolute()),
        arguments=settings.arguments(run, shape, state.checkpoints, gpus=gpus),
        shape=shape,
        connection=str(state.connection),
        state=str(state.path),
        seed=run.seed,
        eos_ids=list(tokenizer.eos_ids),
        pad_id=tokenizer.pad_id,
        advantage_eps=generator.advantage_eps,
        loss_rollouts=generator.loss_rollouts,
        schedule=generator.schedule,
        optimizer={
            "learning_rate": generator.learning_rate,
            "b1": optimizer.b1,
            "b2": optimizer.b2,
            "eps": optimizer.eps,
            "weight_decay": optimizer.weight_decay,
        },
        validation_every=run.validation.every,
        validation_temperature=run.validation.temperature,
        rollout_batch=settings.rollout_batch(run),
    )


def worker_environment(state: RunState, gpus: int) -> dict[str, str]:
    """The environment variables of TRL's processes; nothing is sent to anyone or asked for."""
    environment = remote.trainer_environment(state, gpus)
    # accelerate and torchrun read these, and a shell may have them from another job.
    inherited = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    environment = {
        name: value
        for name, value in environment.items()
        if name not in inherited and not name.startswith(("ACCELERATE_", "FSDP_", "TORCHELASTIC_"))
    }
    return environment | {
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
    }


def dead_rank(log: str) -> str:
    """Which process ended first, as torchrun's report says; empty without a report."""
    root = log.rpartition("Root Cause")[2]
    found = re.search(r"rank\s*:\s*(\d+).*?exitcode\s*:\s*(-?\d+)", root, re.DOTALL)
    if found is None:
        return ""
    code = int(found[2])
    how = f"by signal {-code}" if code < 0 else f"with status {code}"
    return (
        f": rank {found[1]} ended {how} (out of memory?)"
        if code == -9
        else (f": rank {found[1]} ended {how}")
    )
