"""The file that the engine writes for verl's processes, and verl's checkpoints."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from dpg import artifacts
from dpg.progress import say
from dpg.run_folder import RunState

RUN_VARIABLE = "DPG_VERL_RUN"
"""Environment variable with the path of the run's file, in every process of a run."""

_TRACKER = "latest_checkpointed_iteration.txt"  # verl's, written after each checkpoint
_CHECKPOINT = "global_step_"  # of verl's folders; the number of training steps follows


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
    return _named(folder / _TRACKER) or 0


def go_back(state: RunState) -> None:
    """Make verl go on from the last checkpoint whose update is logged.

    verl writes a step's checkpoint first and its log second. So the log is missing if verl was
    killed between the two, or if the update was not finite. The step is then done again, from the
    checkpoint before: verl keeps two.
    """
    tracker = state.checkpoints / _TRACKER
    if not tracker.exists():
        return
    named = _named(tracker)
    good = _last_logged(state, named)
    if good == named:
        return
    if named is None:
        why = f"{tracker.name} is empty: verl was killed while it wrote the file"
    else:
        why = f"the update before the checkpoint of step {named} was not logged, or was not finite"
    start = f"the checkpoint of step {good}" if good else "the start"
    say(f"{state.path}: {why}. Going on from {start}")
    if good:
        artifacts.write_text(tracker, str(good))
    else:
        tracker.unlink()


def _last_logged(state: RunState, last: int | None) -> int:
    """Steps done in the last checkpoint, `last` or earlier, whose update is logged; 0 for none."""
    folders = state.checkpoints.glob(f"{_CHECKPOINT}*/actor")  # verl leaves the outer ones behind
    steps = [int(path.parent.name.removeprefix(_CHECKPOINT)) for path in folders]
    logged = [step for step in steps if state.numbers("update", step - 1).exists()]
    return max((step for step in logged if last is None or step <= last), default=0)


def _named(tracker: Path) -> int | None:
    """The number in verl's tracker file; None if the file is absent, or empty after a kill."""
    found = tracker.read_text(encoding="utf-8").strip() if tracker.exists() else ""
    return int(found) if found.isdecimal() else None
