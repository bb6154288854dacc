"""The file that the engine writes for verl's processes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from dpg import artifacts
from dpg.run_folder import RunState

RUN_VARIABLE = "DPG_VERL_RUN"
"""Environment variable with the path of the run's file, in every process of a run."""


class Run(NamedTuple):
    """What the engine tells the worker.

    Attributes:
        overrides: Hydra's.
        connection: the reward server's file.
        state: folder of the run's state (`dpg.run_folder.RunState`).
        seed: of the run.
        eos_ids: the generator's ends of a response; no part of a rollout.
        prompts_per_step: prompts of a training step.
        advantage_eps: as in `group_advantages`.
        gpus: on each machine; 0 is the CPU.
        nodes: machines.
    """

    overrides: list[str]
    connection: str
    state: str
    seed: int
    eos_ids: list[int]
    prompts_per_step: int
    advantage_eps: float
    gpus: int
    nodes: int

    @classmethod
    def read(cls, path: str | Path | None = None) -> Run:
        """The run's file; by default that of this process's run."""
        return cls(**artifacts.read_json(path or os.environ[RUN_VARIABLE]))

    @property
    def files(self) -> RunState:
        """The paths of the run's state."""
        return RunState(Path(self.state))

    def checkpoint(self) -> int:
        """Training steps done in the last checkpoint."""
        return last_checkpoint(self.files.checkpoints)


def last_checkpoint(folder: Path) -> int:
    """Training steps done in verl's last whole checkpoint; 0 where there is none."""
    named = folder / "latest_checkpointed_iteration.txt"
    return int(named.read_text(encoding="utf-8")) if named.exists() else 0
