"""What TRL and verl share: each has a trainer in a process and an environment of its own.

Three processes make a run of verl or TRL. The engine's process writes the prompts and the settings,
watches the other two and puts the results together, in the layout of the JAX engine. The reward
server (`dpg.generators.reward_service`) trains and differentiates the target model. The trainer
samples rollouts, asks the server for their rewards and updates the generator.

While a run is under way its state lies in ``<run>/state``: the trainer's checkpoints, one file of
numbers per step, one table per validation, both processes' logs. A run that is started again goes
on from the last checkpoint. Numbers of later steps are removed, because these steps are done again.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import dpg
from dpg import artifacts
from dpg.config import RunConfig
from dpg.errors import DpgError
from dpg.generators import sampling
from dpg.generators.engine import OnStep, OutOfTimeError, RunInputs, ZeroRewards
from dpg.generators.outputs import say_of_earlier_version, write_outputs
from dpg.generators.prompts import Prompts, check_prompting, prompts_of
from dpg.generators.started_from import started_from
from dpg.generators.validation import is_due
from dpg.models import Tokenizer, load, without_weights
from dpg.processes import Process, started
from dpg.rewards.protocol import RewardError
from dpg.run_folder import RunFolder, RunState
from dpg.state import take_up

_UP = 900.0  # seconds for the reward server to load its models
_SOON = 30.0  # seconds for the trainer to find that its other machines are gone


class Trainer(NamedTuple):
    """What a run under way needs to know about its trainer.

    Attributes:
        name: used in errors and records, such as "verl".
        error: raised when the trainer or the reward server ends the run.
        steps_done: the GRPO steps in its last whole checkpoint.
        trained: the Hugging Face directory of the checkpoint after this many GRPO steps.
        go_back: called before a run starts, for a trainer whose last checkpoint may be of no use;
            makes an earlier one the last.
        settings: what its state depends on besides the run and its inputs.
        why: reads from a log why the trainer ended; empty if the log does not say.
    """

    name: str
    error: type[DpgError]
    steps_done: Callable[[RunState], int]
    trained: Callable[[RunState, int], Path]
    go_back: Callable[[RunState], None] = lambda state: None
    settings: Mapping[str, Any] = {}
    why: Callable[[str], str] = lambda log: ""


class UnderWay:
    """A run that is not finished; everything is read from its state on disk."""

    def __init__(
        self,
        run: RunConfig,
        state: RunState,
        inputs: Mapping[str, Any],
        trainer: Trainer,
        seconds: float,
    ) -> None:
        self.run, self.state, self.inputs, self.trainer = run, state, inputs, trainer
        self._earlier, self._start = seconds, time.monotonic()

    @classmethod
    def open(
        cls, run: RunConfig, state: RunState, inputs: Mapping[str, Any], trainer: Trainer
    ) -> UnderWay:
        """Continue from the state on disk, or start again if settings or inputs have changed."""
        settings = {
            "engine": trainer.name,
            "run": run.model_dump(mode="json"),
            "inputs": inputs,
            **trainer.settings,
        }
        take_up(state.path, "generate", settings)
        trainer.go_back(state)
        _forget(run, state, trainer.steps_done(state))
        state.failure.unlink(missing_ok=True)
        seconds = artifacts.read_json(state.seconds) if state.seconds.exists() else 0.0
        return cls(run, state, inputs, trainer, seconds)

    @property
    def steps_done(self) -> int:
        """Training steps in the last checkpoint."""
        return self.trainer.steps_done(self.state)

    @property
    def is_over(self) -> bool:
        """Whether training and the last validation are done."""
        last = self.run.generator.grpo_steps
        return self.steps_done >= last and self.is_validated(last)

    @property
    def seconds(self) -> float:
        """Wall time of the run so far."""
        return self._earlier + time.monotonic() - self._start

    def is_due(self, step: int) -> bool:
        """Whether a validation comes after this many training steps."""
        return is_due(self.run, step)

    def is_validated(self, step: int) -> bool:
        """Whether the validation after this many training steps is done."""
        return self.state.numbers("validation", step).exists()

    def updates(self) -> int:
        """Number of training steps whose numbers are all written."""
        return len(list(self.state.numbers("update", 0).parent.glob("update-*.json")))

    def record(self, step: int) -> dict[str, Any]:
        """A training step's line of the log."""
        found = [
            artifacts.read_json(self.state.numbers(kind, step)) for kind in ("reward", "update")
        ]
        return {"step": step, "phase": "train", **found[0], **found[1]}

    def lines(self) -> Iterator[dict[str, Any]]:
        """All lines of the log, in the order of events."""
        for step in range(self.run.generator.grpo_steps + 1):
            if self.is_due(step):
                found = artifacts.read_json(self.state.numbers("validation", step))
                yield {"step": step, "phase": "validation", **found}
            if step < self.run.generator.grpo_steps:
                yield self.record(step)

    def finish(self, folder: RunFolder, tokenizer: Tokenizer) -> None:
        """Write the same files as the JAX engine, and remove the state."""
        model, params, _ = load(self.trainer.trained(self.state, self.run.generator.grpo_steps))
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
            engine=self.trainer.name,
        )


def _forget(run: RunConfig, state: RunState, done: int) -> None:
    """Remove what is left of steps that are done again.

    Where training is not repeatable bit by bit, the log would mix numbers of two policies.

    Args:
        run: the resolved configuration.
        state: of the run.
        done: training steps in the last checkpoint; the validation after them stays.
    """
    for step in range(done, run.generator.grpo_steps + 1):
        left = [state.numbers("reward", step), state.numbers("update", step)]
        if step > done:
            numbers = state.numbers("validation", step)
            left += [numbers, state.validation(step), state.image(step)]
        for path in left:
            path.unlink(missing_ok=True)


class Beginning(NamedTuple):
    """A run that is about to start, or to go on.

    Attributes:
        under_way: the run by its state.
        tokenizer: the generator's.
        prompts, unseen: of training and of validation, as rendered and encoded.
    """

    under_way: UnderWay
    tokenizer: Tokenizer
    prompts: Prompts
    unseen: Prompts

    def write_prompts(self) -> None:
        """Write what the trainer reads: the prompts in the order of their use."""
        run, state = self.under_way.run, self.under_way.state
        order = prompt_order(run, len(self.prompts.articles))
        write_prompts(state.prompts, self.prompts, order)
        places = np.arange(len(self.unseen.articles))
        write_prompts(state.validation_prompts, self.unseen, places)


def begin(run: RunConfig, inputs: RunInputs, folder: RunFolder, trainer: Trainer) -> Beginning:
    """Check what a run starts from, and take up its state; the folder is locked by the caller.

    Weights are not read: on a machine with GPUs this process must take none of their memory.

    Raises:
        DpgError: the prompts do not fit the model, or the files are not what they should be.
    """
    say_of_earlier_version(folder)
    model, tokenizer = without_weights(inputs.generator), Tokenizer.load(inputs.generator)
    check_prompting(run.generator, run.prompt_style, inputs.generator, model, tokenizer)
    prompts = prompts_of(run, inputs.articles, tokenizer, "train")
    unseen = prompts_of(run, inputs.articles, tokenizer, "validation")
    digests = started_from(run, inputs, tokenizer, prompts, unseen)
    return Beginning(UnderWay.open(run, folder.state, digests, trainer), tokenizer, prompts, unseen)


def deadline_of(seconds: float | None) -> float | None:
    """`time.monotonic()` after this time; None without a limit."""
    return None if seconds is None else time.monotonic() + seconds


def prompt_order(run: RunConfig, count: int) -> np.ndarray:
    """The prompts of all training steps in the order of their use: int64 [M x prompts per step].

    The JAX engine uses the same prompts in the same order.
    """
    steps = [
        sampling.prompt_indices(
            count, run.prompts_per_step, step, seed=run.seed, shuffle=run.prompt_shuffle
        )
        for step in range(run.generator.grpo_steps)
    ]
    return np.concatenate(steps)


def write_prompts(path: Path, prompts: Prompts, order: np.ndarray) -> None:
    """Prompts for a trainer: tokens int32 and mask bool [U, P], order int64 [N]."""
    arrays = {"tokens": prompts.tokens, "mask": prompts.mask, "order": order.astype(np.int64)}
    artifacts.save_arrays(path, arrays)


# --- the other two processes ---------------------------------------------------------------------


@contextlib.contextmanager
def reward_server(
    run: RunConfig,
    inputs: RunInputs,
    config: Path,
    folder: RunFolder,
    *,
    error: type[DpgError],
    gpus: int,
    keep: Collection[int],
) -> Iterator[Process]:
    """Start the reward server and wait until it is ready.

    Args:
        run, inputs, folder: as for any engine.
        config: the scale file.
        error: raised where the server does not come up.
        gpus: of the machine; with any, the server shares them with the trainer.
        keep: open files that the server holds open, too (`dpg.state.Lock.descriptors`).
    """
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
    if gpus:  # the trainer's processes live on the same devices
        environment.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    log = folder.state.log("reward_server")
    with started("the reward server", command, log, environment, keep=keep) as server:
        end = time.monotonic() + _UP
        while not connection.exists():
            if server.handle.poll() is not None:
                raise error(f"the reward server ended before it was up:\n{server.tail()}")
            if time.monotonic() > end:
                raise error(f"the reward server was not up within {_UP:g} s:\n{server.tail()}")
            time.sleep(0.2)
        yield server


def trainer_environment(state: RunState, gpus: int) -> dict[str, str]:
    """The environment variables of a trainer's processes.

    Of our own environment they see only this package: their path holds one link to it.
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
        "TOKENIZERS_PARALLELISM": "false",
    }
    if not gpus:  # a tiny model's threads would fight each other for the cores
        environment["OMP_NUM_THREADS"] = "1"
    return environment


def watch(
    under_way: UnderWay,
    server: Process,
    trainer: Process,
    deadline: float | None,
    on_step: OnStep,
    others: Collection[Process] = (),
) -> None:
    """Wait until the trainer has ended. Raise an error when something goes wrong.

    Args:
        under_way: the run.
        server, trainer: its processes.
        deadline: `time.monotonic()` at which the run stops.
        on_step: told of each step.
        others: what keeps the trainer's processes on other machines at work.
    """
    told, zeros = under_way.updates(), ZeroRewards()
    steps, error = under_way.run.generator.grpo_steps, under_way.trainer.error
    while (status := trainer.handle.poll()) is None:
        for step in range(told, under_way.updates()):
            record = under_way.record(step)
            zeros.look(step, record)
            on_step(step + 1, record)
            told = step + 1
        artifacts.write_json(under_way.state.seconds, under_way.seconds)
        if server.handle.poll() is not None:
            raise error(
                f"the reward server ended after {told} of {steps} steps (status "
                f"{server.handle.returncode}); the same command goes on from the last checkpoint. "
                f"Its log ends with:\n{server.tail()}"
            )
        _look_at(others, trainer, error)
        if deadline is not None and time.monotonic() > deadline:
            raise OutOfTimeError(
                f"{under_way.state.path.parent}: stopped at the time limit after {told} of {steps} "
                "steps; the same command goes on from the checkpoint of step "
                f"{under_way.steps_done}"
            )
        time.sleep(0.5)
    if status or not under_way.is_over:
        raise _failure(under_way, trainer, status)


def _look_at(others: Collection[Process], trainer: Process, error: type[DpgError]) -> None:
    """Raise an error if a process on another machine failed and the trainer has not noticed."""
    for process in others:
        if process.handle.poll():
            with contextlib.suppress(subprocess.TimeoutExpired):
                trainer.handle.wait(_SOON)
                return  # the trainer says more
            raise error(
                f"{process.name} ended with status {process.handle.returncode}; its log ends "
                f"with:\n{process.tail()}"
            )


def _failure(under_way: UnderWay, trainer: Process, status: int) -> DpgError:
    """The error that ended the trainer."""
    path, (name, error) = under_way.state.failure, under_way.trainer[:2]
    if not path.exists():
        log = trainer.tail()
        why = under_way.trainer.why(log)
        return error(f"{name} ended with status {status}{why}; its log ends with:\n{log}")
    found = artifacts.read_json(path)
    print(found["traceback"], file=sys.stderr)
    if found["kind"] == RewardError.__name__:
        return RewardError(found["message"])
    return error(f"{name} ended the run: {found['kind']}: {found['message']}")
