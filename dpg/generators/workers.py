"""What the processes of TRL and verl share: numbers of a step, failures. No JAX, no pydantic."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import traceback

import numpy as np

from dpg import artifacts
from dpg.processes import when_parent_ends
from dpg.rewards.protocol import Rewards, RolloutBatch
from dpg.run_folder import RunState

_END = 30.0  # seconds for this process to end by itself


def record_failure(state: RunState, error: BaseException) -> None:
    """Write down the error that ended the run. The engine reads it."""
    record = {
        "kind": type(error).__name__,
        "message": str(error),
        "traceback": "".join(traceback.format_exception(error)),
    }
    artifacts.write_json(state.failure, record)


def step_record(rewards: Rewards, advantages: np.ndarray, batch: RolloutBatch) -> dict[str, float]:
    """The numbers of a training step that follow from its rewards."""
    return {
        **rewards.log,
        "reward_mean": float(rewards.values.mean()),
        "reward_std": float(rewards.values.std()),
        "informative": float(np.mean(advantages != 0)),
        "response_length": float(batch.mask.sum(1).mean()),
    }


def end_with_parent() -> None:
    """End this process when the one that started it has ended, for whatever reason."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))

    def end() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_END)
        os._exit(143)  # it waits for other processes, which are gone

    when_parent_ends(end)
