"""Rank 0 asks the reward server for all ranks: once per GRPO step and once per validation.

Raw rewards never pass through TRL, which would round them to float32: metagradients are of the
order of 1e-9. The advantages of the whole step are computed here in float64, as in every engine,
and TRL is given those.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from dpg import artifacts
from dpg.errors import DpgError
from dpg.generators.advantages import group_advantages
from dpg.generators.trl.order import Response, as_batch, sorted_by_place
from dpg.generators.trl.run import Run
from dpg.generators.workers import record_failure, step_record
from dpg.rewards.client import RewardClient
from dpg.rewards.protocol import RewardError, RolloutBatch

Gather = Callable[[list[Any]], list[Any]]
"""Of each rank's list, the list of all ranks' items, in the order of the ranks, on every rank."""

Broadcast = Callable[[Any], Any]
"""Rank 0's value, on every rank."""


class Scorer:
    """The reward server, as rank 0 asks it; places are numbers of prompts over all steps."""

    def __init__(self, run: Run, client: RewardClient | None = None):
        self.run = run
        self.client = RewardClient(run.connection) if client is None else client

    def advantages(self, places: np.ndarray, responses: Sequence[Response]) -> np.ndarray:
        """Advantages of a training step: float64 [N], in the order of the arguments.

        Raises:
            DpgError: what the reward or its server said; names the step.
        """
        order, back = sorted_by_place(places)
        step = int(places.min()) // self.run.shape.prompts
        batch = self._batch(places[order] - step * self.run.shape.prompts, responses, order, step)
        rewards = self.client(batch)
        advantages = group_advantages(rewards.values, rewards.groups, self.run.advantage_eps)
        record = step_record(rewards, advantages, batch)
        artifacts.write_json(self.run.files.numbers("reward", step), record)
        return advantages[back]

    def validate(self, places: np.ndarray, responses: Sequence[Response], step: int) -> None:
        """Have the target trained on the answers to the validation prompts; keep its score."""
        order, _ = sorted_by_place(places)
        found = self.client.validate(self._batch(places[order], responses, order, step))
        artifacts.write_json(self.run.files.numbers("validation", step), found.log)

    def _batch(
        self, groups: np.ndarray, responses: Sequence[Response], order: np.ndarray, step: int
    ) -> RolloutBatch:
        return as_batch(
            [responses[row] for row in order],
            groups,
            step,
            length=self.run.arguments["max_completion_length"],
            eos_ids=self.run.eos_ids,
            pad_id=self.run.pad_id,
        )


def on_first(
    run: Run, rank: int, broadcast: Broadcast, act: Callable[[], np.ndarray | None]
) -> np.ndarray | None:
    """Call `act` on rank 0, and return its result, or raise its error, on every rank.

    If rank 0 raised alone, the others would end with words about a broken connection.
    """
    answer: dict[str, Any] | None = None
    if rank == 0:
        try:
            answer = {"value": act()}
        except Exception as error:
            record_failure(run.files, error)
            broadcast({"kind": type(error).__name__, "message": str(error)})
            raise
    answer = broadcast(answer)
    if "message" in answer:
        kind = RewardError if answer["kind"] == RewardError.__name__ else DpgError
        raise kind(answer["message"])
    return answer["value"]
