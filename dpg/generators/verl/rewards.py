"""verl's reward manager: it takes the rollouts of a step and returns their advantages.

verl would normalise rewards within the groups that its `uid` names, in float32 and with an epsilon
of its own. It is therefore given our own advantages, of float64 and with `generator.advantage_eps`,
and told to normalise nothing (`algorithm.norm_adv_by_std_in_grpo`, see `overrides`). With them it
is given the groups that they are of: it takes away a group's mean, which is zero.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dpg import artifacts
from dpg.generators.advantages import group_advantages
from dpg.generators.verl.run import Run
from dpg.generators.workers import record_failure, step_record
from dpg.rewards.client import RewardClient
from dpg.rewards.protocol import RolloutBatch


class Done:
    """How many training steps this process knows to be done; a validation is named after it."""

    steps: int | None = None


class RewardManager:
    """verl's reward manager: a step's rollouts in, the advantages of all of them out.

    An exception ends the run: verl would print the first one, ask again, and go on with whatever
    the second call gave, so that the second call raises the first one's exception.

    Args:
        tokenizer, num_examine, compute_score, reward_fn_key: what verl passes; not used.
    """

    def __init__(
        self,
        tokenizer: Any = None,
        num_examine: int = 0,
        compute_score: Any = None,
        reward_fn_key: str = "",
    ):
        self.run = Run.read()
        self.client = RewardClient(self.run.connection)
        self.failure: Exception | None = None

    def __call__(self, data: Any, return_dict: bool = False) -> Any:
        """A float tensor [N, R] with the advantage at each response's last token, and the groups.

        Raises:
            DpgError: what the reward or its server said; names the step.
        """
        if self.failure is not None:
            raise self.failure
        try:
            advantages, groups = self._answer(data)
        except Exception as error:
            self.failure = error
            record_failure(self.run.files, error)
            raise
        tensor = at_last_token(data.batch["responses"], response_mask(data), advantages)
        if not return_dict:
            return tensor
        return {"reward_tensor": tensor, "reward_extra_info": {"uid": [str(g) for g in groups]}}

    def _answer(self, data: Any) -> tuple[np.ndarray, np.ndarray]:
        validation = bool(data.meta_info.get("validate", False))
        places = data.non_tensor_batch["place"].astype(np.int64)
        order = np.argsort(places, kind="stable")  # verl may have put rows elsewhere
        if validation:
            step = self.run.checkpoint() if Done.steps is None else Done.steps
            groups = places[order]
        else:
            step = int(places.min()) // self.run.prompts_per_step
            groups = places[order] - step * self.run.prompts_per_step
        batch = rollouts(data, order, groups, step, self.run.eos_ids)
        if validation:
            found = self._validation(batch)
        else:
            found = self._training(batch)
            Done.steps = step + 1
        back = np.argsort(order)
        return found[0][back], found[1][back]

    def _training(self, batch: RolloutBatch) -> tuple[np.ndarray, np.ndarray]:
        rewards = self.client(batch)
        advantages = group_advantages(rewards.values, rewards.groups, self.run.advantage_eps)
        record = step_record(rewards, advantages, batch)
        artifacts.write_json(self.run.files.numbers("reward", batch.step), record)
        return advantages, rewards.groups

    def _validation(self, batch: RolloutBatch) -> tuple[np.ndarray, np.ndarray]:
        rewards = self.client.validate(batch)
        path = self.run.files.numbers("validation", batch.step)
        artifacts.write_json(path, rewards.log)
        return rewards.values, rewards.groups


def rollouts(
    data: Any, order: np.ndarray, groups: np.ndarray, step: int, eos_ids: list[int]
) -> RolloutBatch:
    """verl's batch as ours: rows in `order`, the end-of-text no part of a response."""
    tokens = data.batch["responses"].numpy()[order].astype(np.int32)
    mask = response_mask(data).numpy()[order].astype(bool)
    mask &= ~np.isin(tokens, eos_ids)
    return RolloutBatch(tokens, mask, groups, step)


def response_mask(data: Any) -> Any:
    """The responses' part of verl's attention mask, [N, R]; the end-of-text is in it."""
    return data.batch["attention_mask"][:, -data.batch["responses"].shape[1] :]


def at_last_token(responses: Any, mask: Any, values: np.ndarray) -> Any:
    """A float32 tensor [N, R] that is zero but for each row's value at its last token."""
    import torch

    tensor = torch.zeros(responses.shape, dtype=torch.float32)
    last = mask.sum(-1).long() - 1
    tensor[torch.arange(len(last)), last] = torch.from_numpy(values).float()
    return tensor
