"""A generator run with verl: its trainer in its own environment, rewards from a server in ours.

Three processes make a run. This one writes the prompts and the settings, watches the other two and
puts the results together, in the layout of the JAX engine. The reward server
(`dpg.generators.reward_service`) trains and differentiates the target model. verl's trainer
(`dpg.generators.verl_worker`) samples rollouts, asks the server for their rewards and updates the
generator; where there is a GPU it samples with vLLM, else with transformers.

While a run is under way its state lies in ``<run>/progress``: verl's checkpoints, a file of numbers
a step, a table a validation, both processes' logs. A run that is started again goes on from there.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import dpg
from dpg import artifacts, environments
from dpg.config import RunConfig
from dpg.errors import DpgError
from dpg.generators import ray_cluster, sampling, verl_config, verl_worker
from dpg.generators.algorithm import OutOfTimeError, Progress
from dpg.generators.outputs import write_outputs
from dpg.generators.processes import Process, started
from dpg.generators.run import prompts
from dpg.generators.validation import Prompts
from dpg.models import Tokenizer, load
from dpg.rewards.protocol import RewardError

_UP = 900.0  # seconds for the reward server to load its models


class VerlError(DpgError):
    """verl or the reward server ended the run; the message says what it was."""


class Files(NamedTuple):
    """What a run reads.

    Attributes:
        config: the scale file.
        generator, target: Hugging Face directories.
        articles: table of articles.
        passages: the benchmark's table, or None.
        reward_model: packaged model of a baseline, or None.
    """

    config: Path
    generator: Path
    target: Path
    articles: Path
    passages: Path | None
    reward_model: Path | None


def run_generator(
    run: RunConfig,
    files: Files,
    out: str | Path,
    *,
    gpus: int,
    nodes: int = 1,
    environment: str | Path | None = None,
    seconds: float | None = None,
    progress: Progress = lambda step, record: None,
) -> None:
    """Carry out one run of the study with verl.

    Writes what `dpg.generators.algorithm.train_generator` writes.

    Args:
        run: the resolved configuration, as the scale file gives it.
        files: what it reads.
        out: the run directory; an unfinished run there is continued.
        gpus: of each machine; 0 trains on the CPU, for tests.
        nodes: machines; on more than one the trainer joins a Ray cluster (`ray_cluster.joined`).
        environment: verl's, a virtual environment; by default where the workflow makes it.
        seconds: stop after so long, and go on from the last checkpoint when called again.
        progress: called after each training step.

    Raises:
        DpgError: the environment is missing, verl cannot be given a value, or what ended the run.
        OutOfTimeError: the time limit came first.
    """
    deadline = None if seconds is None else time.monotonic() + seconds
    python = environments.existing_python(environments.for_gpus("verl", gpus), environment)
    out = Path(out).absolute()
    tokenizer = Tokenizer.load(files.generator)
    asked = prompts(run, files.articles, tokenizer, "train")
    unseen = prompts(run, files.articles, tokenizer, "validation")
    state = _State.open(run, out / "progress", files, asked, unseen)
    if state.steps_done < run.generator.grpo_steps:
        worker = state.prepare(files.generator, tokenizer.eos_id, gpus, nodes, asked, unseen)
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(_reward_server(run, files, state.folder, gpus))
            trainer = stack.enter_context(_trainer(python, worker, state.folder, gpus, nodes))
            _watch(state, server, trainer, deadline, progress)
    state.finish(out, tokenizer)


class _State:
    """A run under way, in ``<run>/progress``."""

    def __init__(self, run: RunConfig, folder: Path, seconds: float):
        self.run, self.folder = run, folder
        self._earlier, self._start = seconds, time.monotonic()

    @classmethod
    def open(
        cls, run: RunConfig, folder: Path, files: Files, asked: Prompts, unseen: Prompts
    ) -> _State:
        """Take up the state left there, or start anew where it is of other settings or inputs."""
        inputs = fingerprint([files.generator, files.target], [asked.tokens, unseen.tokens])
        settings = {"engine": "verl", "run": run.model_dump(mode="json"), "inputs": inputs}
        artifacts.progress_folder(folder, settings)
        (folder / "failure.json").unlink(missing_ok=True)
        spent = folder / "seconds.json"
        return cls(run, folder, artifacts.read_json(spent) if spent.exists() else 0.0)

    @property
    def steps_done(self) -> int:
        """Training steps in the last checkpoint."""
        return verl_worker.last_checkpoint(self.folder / "checkpoints")

    @property
    def seconds(self) -> float:
        return self._earlier + time.monotonic() - self._start

    def prepare(
        self,
        model: Path,
        eos_id: int | None,
        gpus: int,
        nodes: int,
        asked: Prompts,
        unseen: Prompts,
    ) -> Path:
        """Write what the worker reads; returns its file."""
        run, folder = self.run, self.folder
        paths = verl_config.Paths(
            model=model.absolute(),
            prompts=folder / "prompts.safetensors",
            validation=folder / "validation_prompts.safetensors",
            checkpoints=folder / "checkpoints",
        )
        write_prompts(paths.prompts, asked, prompt_order(run, len(asked.articles)))
        write_prompts(paths.validation, unseen, np.arange(len(unseen.articles)))
        first = self._is_due(self.steps_done) and not self._validated(self.steps_done)
        values = verl_config.settings(run, paths, gpus=gpus, nodes=nodes, validate_first=first)
        described = verl_worker.Run(
            overrides=verl_config.overrides(values),
            connection=str(folder / "reward_server.json"),
            progress=str(folder),
            seed=run.seed,
            eos_id=eos_id,
            prompts_per_step=run.prompts_per_step,
            advantage_eps=run.generator.advantage_eps,
            gpus=gpus,
            nodes=nodes,
        )
        artifacts.write_json(folder / "worker.json", described._asdict())
        return folder / "worker.json"

    def _is_due(self, step: int) -> bool:
        return step % self.run.validation.every == 0 or step == self.run.generator.grpo_steps

    def _validated(self, step: int) -> bool:
        return verl_worker.numbers_file(self.folder, "validation", step).exists()

    def updates(self) -> int:
        """Training steps of which all numbers are there."""
        return len(list((self.folder / "steps").glob("update-*.json")))

    def record(self, step: int) -> dict[str, Any]:
        """A training step's line of the log."""
        found = [
            artifacts.read_json(verl_worker.numbers_file(self.folder, kind, step))
            for kind in ("reward", "update")
        ]
        return {"step": step, "phase": "train", **found[0], **found[1]}

    def lines(self) -> list[dict[str, Any]]:
        """The whole log, in the order in which things happened."""
        lines = []
        for step in range(self.run.generator.grpo_steps + 1):
            if self._is_due(step):
                path = verl_worker.numbers_file(self.folder, "validation", step)
                found = artifacts.read_json(path)
                lines.append({"step": step, "phase": "validation", **found})
            if step < self.run.generator.grpo_steps:
                lines.append(self.record(step))
        return lines

    def finish(self, out: Path, tokenizer: Tokenizer) -> None:
        """Write what the JAX engine leaves, and clear the state away."""
        last = self.run.generator.grpo_steps
        trained = self.folder / "checkpoints" / f"global_step_{last}" / "actor" / "huggingface"
        model, params, _ = load(trained)
        with (
            artifacts.atomic_path(self.folder / "metrics.jsonl") as partial,
            artifacts.JsonLines(partial) as log,
        ):
            for line in self.lines():
                log.append(line)
        write_outputs(
            self.run,
            out,
            self.folder,
            model=model,
            params=params,
            tokenizer=tokenizer,
            seconds=self.seconds,
            engine="verl",
        )


def prompt_order(run: RunConfig, count: int) -> np.ndarray:
    """The prompts of all training steps in the order of their use: int64 [M x prompts a step].

    The very prompts, in the very order, of the JAX engine.
    """
    steps = [
        sampling.prompt_indices(
            count, run.prompts_per_step, step, seed=run.seed, shuffle=run.prompt_shuffle
        )
        for step in range(run.generator.grpo_steps)
    ]
    return np.concatenate(steps)


def write_prompts(path: Path, asked: Prompts, order: np.ndarray) -> None:
    """The file that `verl_worker.PromptDataset` reads."""
    arrays = {"tokens": asked.tokens, "mask": asked.mask, "order": order.astype(np.int64)}
    artifacts.save_arrays(path, arrays)


def fingerprint(models: list[Path], arrays: list[np.ndarray]) -> str:
    """SHA-256 over what a run starts from: its state must not outlive it."""
    digest = hashlib.sha256()
    for folder in models:
        for path in sorted(Path(folder).glob("*.safetensors")):
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    for array in arrays:
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


# --- the other two processes ---------------------------------------------------------------------


@contextlib.contextmanager
def _reward_server(run: RunConfig, files: Files, folder: Path, gpus: int) -> Iterator[Process]:
    """The reward server, up and ready."""
    connection = folder / "reward_server.json"
    connection.unlink(missing_ok=True)
    command = [
        *(sys.executable, "-m", "dpg", "reward-server", "--config", str(files.config)),
        *("--experiment", run.experiment, "--variant", run.variant, "--seed", str(run.seed)),
        *("--generator", str(files.generator), "--target", str(files.target)),
        *("--articles", str(files.articles), "--connection", str(connection)),
        *("--out", str(folder), "--with-parent"),
    ]
    for option in ("passages", "reward_model"):
        if (value := getattr(files, option)) is not None:
            command += [f"--{option.replace('_', '-')}", str(value)]
    environment = dict(os.environ)
    if gpus:  # verl's processes live on the same devices
        environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    log = folder / "reward_server.log"
    with started("the reward server", command, log, environment) as server:
        end = time.monotonic() + _UP
        while not connection.exists():
            if server.handle.poll() is not None:
                raise VerlError(f"the reward server ended before it was up:\n{server.tail()}")
            if time.monotonic() > end:
                raise VerlError(f"the reward server was not up within {_UP:g} s:\n{server.tail()}")
            time.sleep(0.2)
        yield server


@contextlib.contextmanager
def _trainer(python: Path, worker: Path, folder: Path, gpus: int, nodes: int) -> Iterator[Process]:
    """verl's trainer, and Ray on the run's machines where there are several."""
    command = [str(python), "-m", "dpg.generators.verl_worker", str(worker)]
    plain = worker_environment(folder, gpus)
    with (
        ray_cluster.joined(python, plain, folder, nodes=nodes, gpus=gpus) as environment,
        started("verl", command, folder / "verl.log", environment, folder) as trainer,
    ):
        yield trainer


def worker_environment(folder: Path, gpus: int) -> dict[str, str]:
    """The environment variables of verl's processes.

    Of our own packages they see this one alone: a link to it is all that is on their path.
    """
    link = folder / "python" / "dpg"
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
        verl_worker.RUN_VARIABLE: str(folder / "worker.json"),
    }
    if not gpus:  # a tiny model's threads would fight each other for the cores
        environment["OMP_NUM_THREADS"] = "1"
        # Ray would start a process a core, each of which would import verl for nothing.
        environment["RAY_prestart_worker_first_driver"] = "0"
    return environment


def _watch(
    state: _State,
    server: Process,
    trainer: Process,
    deadline: float | None,
    progress: Progress,
) -> None:
    """Wait for the trainer to end, and end with it when something is wrong."""
    told = state.updates()
    steps = state.run.generator.grpo_steps
    while (status := trainer.handle.poll()) is None:
        for step in range(told, state.updates()):
            progress(step + 1, state.record(step))
            told = step + 1
        artifacts.write_json(state.folder / "seconds.json", state.seconds)
        if server.handle.poll() is not None:
            raise VerlError(
                f"the reward server ended after {told} of {steps} steps (status "
                f"{server.handle.returncode}); the same command goes on from the last checkpoint. "
                f"Its log ends with:\n{server.tail()}"
            )
        if deadline is not None and time.monotonic() > deadline:
            raise OutOfTimeError(
                f"{state.folder.parent}: stopped at the time limit after {told} of {steps} steps; "
                f"the same command goes on from the checkpoint of step {state.steps_done}"
            )
        time.sleep(0.5)
    if status or state.steps_done < steps:
        raise _failure(state, trainer, status)


def _failure(state: _State, trainer: Process, status: int) -> DpgError:
    """What ended the trainer, as the error it was."""
    path = state.folder / "failure.json"
    if not path.exists():
        return VerlError(f"verl ended with status {status}; its log ends with:\n{trainer.tail()}")
    found = artifacts.read_json(path)
    print(found["traceback"], file=sys.stderr)
    if found["kind"] == RewardError.__name__:
        return RewardError(found["message"])
    return VerlError(f"verl ended the run: {found['kind']}: {found['message']}")
