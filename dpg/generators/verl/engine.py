"""A generator run with verl: its trainer in its own environment, rewards from a server in ours.

Three processes make a run. This one writes the prompts and the settings, watches the other two and
puts the results together, in the layout of the JAX engine. The reward server
(`dpg.generators.reward_service`) trains and differentiates the target model. verl's trainer
(`dpg.generators.verl.worker`) samples rollouts, asks the server for their rewards and updates the
generator; where there is a GPU it samples with vLLM, else with transformers.

While a run is under way its state lies in ``<run>/state``: verl's checkpoints, one file of numbers
per step, one table per validation, both processes' logs. A run that is started again goes on from
there.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

import dpg
from dpg import artifacts, environments
from dpg.config import RunConfig
from dpg.errors import DpgError
from dpg.generators import sampling
from dpg.generators.engine import OnStep, OutOfTimeError, RunInputs, ZeroRewards, ignore
from dpg.generators.outputs import say_of_earlier_version, write_outputs
from dpg.generators.prompts import Prompts, prompts_of
from dpg.generators.started_from import started_from
from dpg.generators.verl import overrides, ray_cluster
from dpg.generators.verl.run import RUN_VARIABLE, Run, last_checkpoint
from dpg.models import Tokenizer, load
from dpg.processes import Process, started
from dpg.rewards.protocol import RewardError
from dpg.run_folder import RunFolder, RunState
from dpg.state import locked, take_up

_UP = 900.0  # seconds for the reward server to load its models


class VerlError(DpgError):
    """verl or the reward server ended the run; the message says what it was."""


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
    deadline = None if seconds is None else time.monotonic() + seconds
    python = environments.existing_python(environments.for_gpus("verl", gpus), environment)
    folder = RunFolder(folder.path.absolute())
    with locked(folder.state.path) as lock:
        say_of_earlier_version(folder)
        tokenizer = Tokenizer.load(inputs.generator)
        prompts = prompts_of(run, inputs.articles, tokenizer, "train")
        unseen = prompts_of(run, inputs.articles, tokenizer, "validation")
        digests = started_from(run, inputs, tokenizer, prompts, unseen)
        under_way = _UnderWay.open(run, folder.state, digests)
        if under_way.steps_done < run.generator.grpo_steps:
            worker = under_way.prepare(
                inputs.generator, tokenizer.eos_ids, gpus, nodes, prompts, unseen
            )
            keep = lock.descriptors  # both write to the state, and end after a killed parent
            with (
                _reward_server(run, inputs, config, folder, gpus, keep) as server,
                _trainer(python, worker, folder.state, gpus, nodes, keep) as trainer,
            ):
                _watch(under_way, server, trainer, deadline, on_step)
        under_way.finish(folder, tokenizer)


class _UnderWay:
    """A run under way, by its state."""

    def __init__(
        self, run: RunConfig, state: RunState, inputs: Mapping[str, Any], seconds: float
    ) -> None:
        self.run, self.state, self.inputs = run, state, inputs
        self._earlier, self._start = seconds, time.monotonic()

    @classmethod
    def open(cls, run: RunConfig, state: RunState, inputs: Mapping[str, Any]) -> _UnderWay:
        """Take up the state left there, or start anew where it is of other settings or inputs."""
        settings = {
            "engine": "verl",
            "run": run.model_dump(mode="json"),
            "inputs": inputs,
        }
        take_up(state.path, "generate", settings)
        state.failure.unlink(missing_ok=True)
        seconds = artifacts.read_json(state.seconds) if state.seconds.exists() else 0.0
        return cls(run, state, inputs, seconds)

    @property
    def steps_done(self) -> int:
        """Training steps in the last checkpoint."""
        return last_checkpoint(self.state.checkpoints)

    @property
    def seconds(self) -> float:
        """Wall time of the run so far."""
        return self._earlier + time.monotonic() - self._start

    def prepare(
        self,
        model: Path,
        eos_ids: tuple[int, ...],
        gpus: int,
        nodes: int,
        prompts: Prompts,
        unseen: Prompts,
    ) -> Path:
        """Write what the worker reads; returns its file."""
        run, state = self.run, self.state
        paths = overrides.Paths(
            model=model.absolute(),
            prompts=state.prompts,
            validation=state.validation_prompts,
            checkpoints=state.checkpoints,
        )
        write_prompts(paths.prompts, prompts, prompt_order(run, len(prompts.articles)))
        write_prompts(paths.validation, unseen, np.arange(len(unseen.articles)))
        first = self._is_due(self.steps_done) and not self._validated(self.steps_done)
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
        return state.worker

    def _is_due(self, step: int) -> bool:
        return step % self.run.validation.every == 0 or step == self.run.generator.grpo_steps

    def _validated(self, step: int) -> bool:
        return self.state.numbers("validation", step).exists()

    def updates(self) -> int:
        """Training steps of which all numbers are there."""
        return len(list(self.state.numbers("update", 0).parent.glob("update-*.json")))

    def record(self, step: int) -> dict[str, Any]:
        """A training step's line of the log."""
        found = [
            artifacts.read_json(self.state.numbers(kind, step)) for kind in ("reward", "update")
        ]
        return {"step": step, "phase": "train", **found[0], **found[1]}

    def lines(self) -> Iterator[dict[str, Any]]:
        """The whole log, in the order in which things happened."""
        for step in range(self.run.generator.grpo_steps + 1):
            if self._is_due(step):
                found = artifacts.read_json(self.state.numbers("validation", step))
                yield {"step": step, "phase": "validation", **found}
            if step < self.run.generator.grpo_steps:
                yield self.record(step)

    def finish(self, folder: RunFolder, tokenizer: Tokenizer) -> None:
        """Write what the JAX engine leaves, and clear the state away."""
        last = self.run.generator.grpo_steps
        trained = self.state.checkpoints / f"global_step_{last}" / "actor" / "huggingface"
        model, params, _ = load(trained)
        with (
            artifacts.atomic_path(self.state.metrics) as partial,
            artifacts.JsonLines(partial) as log,
        ):
            for line in self.lines():
                log.append(line)
        write_outputs(
            self.run,
            folder,
            model=model,
            params=params,
            tokenizer=tokenizer,
            seconds=self.seconds,
            inputs=self.inputs,
            engine="verl",
        )


def prompt_order(run: RunConfig, count: int) -> np.ndarray:
    """The prompts of all training steps in the order of their use: int64 [M x prompts per step].

    The very prompts, in the very order, of the JAX engine.
    """
    steps = [
        sampling.prompt_indices(
            count, run.prompts_per_step, step, seed=run.seed, shuffle=run.prompt_shuffle
        )
        for step in range(run.generator.grpo_steps)
    ]
    return np.concatenate(steps)


def write_prompts(path: Path, prompts: Prompts, order: np.ndarray) -> None:
    """The file that `dpg.generators.verl.prompts.PromptDataset` reads."""
    arrays = {"tokens": prompts.tokens, "mask": prompts.mask, "order": order.astype(np.int64)}
    artifacts.save_arrays(path, arrays)


# --- the other two processes ---------------------------------------------------------------------


@contextlib.contextmanager
def _reward_server(
    run: RunConfig,
    inputs: RunInputs,
    config: Path,
    folder: RunFolder,
    gpus: int,
    keep: Collection[int],
) -> Iterator[Process]:
    """The reward server, up and ready."""
    connection = folder.state.connection
    connection.unlink(missing_ok=True)
    command = [
        *(sys.executable, "-m", "dpg", "reward-server", "--config", str(config)),
        *("--experiment", run.experiment, "--variant", run.variant, "--seed", str(run.seed)),
        *("--generator", str(inputs.generator), "--target", str(inputs.target)),
        *("--articles", str(inputs.articles), "--connection", str(connection)),
        *("--out", str(folder.path), "--with-parent"),
    ]
    for option in ("passages", "reward_model"):
        if (value := getattr(inputs, option)) is not None:
            command += [f"--{option.replace('_', '-')}", str(value)]
    environment = dict(os.environ)
    if gpus:  # verl's processes live on the same devices
        environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    log = folder.state.log("reward_server")
    with started("the reward server", command, log, environment, keep=keep) as server:
        end = time.monotonic() + _UP
        while not connection.exists():
            if server.handle.poll() is not None:
                raise VerlError(f"the reward server ended before it was up:\n{server.tail()}")
            if time.monotonic() > end:
                raise VerlError(f"the reward server was not up within {_UP:g} s:\n{server.tail()}")
            time.sleep(0.2)
        yield server


@contextlib.contextmanager
def _trainer(
    python: Path, worker: Path, state: RunState, gpus: int, nodes: int, keep: Collection[int]
) -> Iterator[Process]:
    """verl's trainer, and Ray on the run's machines where there are several."""
    command = [str(python), "-m", "dpg.generators.verl.worker", str(worker)]
    plain = worker_environment(state, gpus)
    with (
        ray_cluster.joined(python, plain, state.path, nodes=nodes, gpus=gpus) as environment,
        started("verl", command, state.log("verl"), environment, state.path, keep) as trainer,
    ):
        yield trainer


def worker_environment(state: RunState, gpus: int) -> dict[str, str]:
    """The environment variables of verl's processes.

    Of our own packages they see this one alone: a link to it is all that is on their path.
    """
    link = state.path / "python" / "dpg"
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(Path(dpg.__file__).parent, target_is_directory=True)
    environment = {
        name: value
        for name, value in os.environ.items()
        if name not in ("VIRTUAL_ENV", "PYTHONHOME", "PYTHONPATH")
    }
    environment |= {
        "PYTHONPATH": str(link.parent),
        "PYTHONUNBUFFERED": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "TOKENIZERS_PARALLELISM": "false",
        RUN_VARIABLE: str(state.worker),
    }
    if not gpus:  # a tiny model's threads would fight each other for the cores
        environment["OMP_NUM_THREADS"] = "1"
        # Ray would start one process per core, each of which would import verl for nothing.
        environment["RAY_prestart_worker_first_driver"] = "0"
    return environment


def _watch(
    under_way: _UnderWay,
    server: Process,
    trainer: Process,
    deadline: float | None,
    on_step: OnStep,
) -> None:
    """Wait for the trainer to end, and end with it when something is wrong."""
    told, zeros = under_way.updates(), ZeroRewards()
    steps = under_way.run.generator.grpo_steps
    while (status := trainer.handle.poll()) is None:
        for step in range(told, under_way.updates()):
            record = under_way.record(step)
            zeros.look(step, record)
            on_step(step + 1, record)
            told = step + 1
        artifacts.write_json(under_way.state.seconds, under_way.seconds)
        if server.handle.poll() is not None:
            raise VerlError(
                f"the reward server ended after {told} of {steps} steps (status "
                f"{server.handle.returncode}); the same command goes on from the last checkpoint. "
                f"Its log ends with:\n{server.tail()}"
            )
        if deadline is not None and time.monotonic() > deadline:
            raise OutOfTimeError(
                f"{under_way.state.path.parent}: stopped at the time limit after {told} of {steps} "
                "steps; the same command goes on from the checkpoint of step "
                f"{under_way.steps_done}"
            )
        time.sleep(0.5)
    if status or under_way.steps_done < steps:
        raise _failure(under_way, trainer, status)


def _failure(under_way: _UnderWay, trainer: Process, status: int) -> DpgError:
    """What ended the trainer, as the error it was."""
    path = under_way.state.failure
    if not path.exists():
        return VerlError(f"verl ended with status {status}; its log ends with:\n{trainer.tail()}")
    found = artifacts.read_json(path)
    print(found["traceback"], file=sys.stderr)
    if found["kind"] == RewardError.__name__:
        return RewardError(found["message"])
    return VerlError(f"verl ended the run: {found['kind']}: {found['message']}")
