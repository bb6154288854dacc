"""The file that the engine writes for TRL's processes, and the checkpoints that can be used."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from dpg import artifacts
from dpg.run_folder import RunState

WHOLE = "whole.json"
"""Written last into a checkpoint: the name and size of every file that it has."""

_PREFIX = "checkpoint-"  # of transformers' checkpoints; the number of optimizer steps follows


class Shape(NamedTuple):
    """How rollouts are divided over mini-batches, processes and backward passes.

    Attributes:
        steps: M, the GRPO steps of the run.
        prompts: U, prompts per GRPO step.
        group_size: G, responses per prompt.
        mini_batch_prompts: prompts per mini-batch of the update.
        epochs: passes over the rollouts of one GRPO step.
        processes: of the trainer, on all machines.
        microbatch: rollouts per backward pass on one process.
        nodes: machines; each has the same number of processes.
    """

    steps: int
    prompts: int
    group_size: int
    mini_batch_prompts: int
    epochs: int
    processes: int
    microbatch: int
    nodes: int = 1

    @property
    def mini_batches(self) -> int:
        """Mini-batches per epoch of a GRPO step."""
        return self.prompts // self.mini_batch_prompts

    @property
    def accumulation(self) -> int:
        """Backward passes per mini-batch on one process."""
        return self.mini_batch_prompts * self.group_size // (self.processes * self.microbatch)

    @property
    def updates(self) -> int:
        """Optimizer steps per GRPO step."""
        return self.mini_batches * self.epochs


class Run(NamedTuple):
    """What the engine tells the trainer.

    Attributes:
        model: the generator to start from, a Hugging Face directory.
        arguments: of TRL's `GRPOConfig`.
        shape: how rollouts are divided.
        connection: the reward server's file.
        state: folder of the run's state (`dpg.run_folder.RunState`).
        seed: of the run.
        eos_ids: the generator's ends of a response; no part of a rollout.
        pad_id: what fills the ends of prompts and responses; it changes no number.
        advantage_eps: as in `group_advantages`.
        loss_rollouts: as in `GeneratorSettings`.
        schedule: "constant" or "linear", as in `GeneratorSettings`.
        optimizer: b1, b2, eps and weight_decay of AdamW, and `learning_rate`.
        validation_every: GRPO steps between validations.
        validation_temperature: 0 is greedy.
        rollout_batch: rollouts sampled at once by transformers; None = all of a process.
    """

    model: str
    arguments: dict[str, Any]
    shape: Shape
    connection: str
    state: str
    seed: int
    eos_ids: list[int]
    pad_id: int
    advantage_eps: float
    loss_rollouts: int | None
    schedule: str
    optimizer: dict[str, float]
    validation_every: int
    validation_temperature: float
    rollout_batch: int | None

    @classmethod
    def read(cls, path: str | Path) -> Run:
        """The run's file."""
        values = artifacts.read_json(path)
        return cls(**values | {"shape": Shape(**values["shape"])})

    def write(self, path: Path) -> None:
        """Write the run's file."""
        artifacts.write_json(path, self._asdict() | {"shape": self.shape._asdict()})

    @property
    def files(self) -> RunState:
        """The paths of the run's state."""
        return RunState(Path(self.state))

    def rate(self, step: int) -> float:
        """The share of the learning rate at a GRPO step, as in `GeneratorSettings.rate`."""
        return 1.0 - step / self.shape.steps if self.schedule == "linear" else 1.0

    def is_validated_after(self, step: int) -> bool:
        """Whether a validation comes after this many GRPO steps."""
        return step % self.validation_every == 0 or step == self.shape.steps


def checkpoint_of(folder: Path, updates: int) -> Path:
    """Where transformers keeps the checkpoint after this many optimizer steps."""
    return folder / f"{_PREFIX}{updates}"


def mark_whole(checkpoint: Path) -> None:
    """Mark a checkpoint as complete: write the list of its files and their sizes."""
    files = {path.name: path.stat().st_size for path in checkpoint.iterdir() if path.name != WHOLE}
    for name in files:  # the mark must not reach the disk before what it speaks of
        descriptor = os.open(checkpoint / name, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    artifacts.write_json(checkpoint / WHOLE, files)


def fault_of(checkpoint: Path) -> str:
    """What is missing in a checkpoint; empty if it is complete.

    transformers goes on from a checkpoint without an optimizer or random numbers, silently and to
    other weights.
    """
    mark = checkpoint / WHOLE
    if not mark.is_file():
        return f"it has no {WHOLE}: its writing was cut off"
    for name, size in artifacts.read_json(mark).items():
        path = checkpoint / name
        if not path.is_file():
            return f"{name} is not there"
        if path.stat().st_size != size:
            return f"{name} has {path.stat().st_size:,} bytes, expected {size:,}"
    return ""


def checkpoints(folder: Path) -> dict[int, Path]:
    """Optimizer steps -> checkpoint, for all checkpoints; the last one comes first."""
    found = {}
    for path in folder.glob(f"{_PREFIX}*"):
        number = path.name.removeprefix(_PREFIX)
        if number.isdigit() and path.is_dir():
            found[int(number)] = path
    return dict(sorted(found.items(), reverse=True))


def last_checkpoint(folder: Path) -> tuple[int, Path | None]:
    """(optimizer steps, path) of the last complete checkpoint; (0, None) if there is none."""
    for updates, path in checkpoints(folder).items():
        if not fault_of(path):
            return updates, path
    return 0, None
