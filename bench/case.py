"""A run with random weights: its generator, target and reward, and the parts of its step."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import pandas as pd

from bench import products, stand_ins
from bench.products import Product
from bench.timing import Work
from dpg import rewards, targets
from dpg.config import RunConfig
from dpg.generators import sampling
from dpg.generators.advantages import group_advantages
from dpg.generators.jax.policy import JaxGenerator
from dpg.models import LanguageModel
from dpg.models.decode import Rollouts
from dpg.rewards.protocol import Reward, RolloutBatch


class Case:
    """A run with random weights.

    Args:
        run: the resolved configuration.
        model: the generator's model.
        learner: the target's model.
        passage_tokens: tokens of a benchmark passage if the metric does not limit them.

    Attributes:
        tokenizer: a stand-in for that of both models.
    """

    def __init__(
        self, run: RunConfig, model: LanguageModel, learner: LanguageModel, passage_tokens: int = 64
    ):
        self.run, self.model, self.learner = run, model, learner
        self.passage_tokens = passage_tokens
        vocabulary = min(self.model.config.vocab_size, self.learner.config.vocab_size)
        self.tokenizer = stand_ins.tokenizer(vocabulary)

    def examples(self, batch: RolloutBatch) -> dict[str, np.ndarray]:
        """Rollouts as the target's examples, begin-of-text first: `tokens` and `mask` [N, L]."""
        length = self.run.generator.response_tokens + 1
        return stand_ins.as_examples(self.tokenizer, length, batch)

    def batches(self) -> dict[str, np.ndarray]:
        """A step's rollouts as the target's batches [T, B, L]."""
        T = self.run.learner.steps
        examples = self.examples(self.batch())
        return {name: x.reshape(T, -1, *x.shape[1:]) for name, x in examples.items()}

    @functools.cached_property
    def passages(self) -> pd.DataFrame | None:
        """The benchmark's passages, if the metric reads them; else None."""
        return stand_ins.passages(self.run, self.tokenizer.vocab_size, self.passage_tokens)

    @functools.cached_property
    def target(self) -> targets.Target:
        """The target; settings that are "auto" get their numbers here."""
        params = self.learner.init(jax.random.key(1))
        return targets.build(self.run, self.learner, params, self.tokenizer, self.passages)

    @functools.cached_property
    def weights(self) -> Any:
        """The shapes of the generator's parameters."""
        return jax.eval_shape(self.model.init, jax.random.key(0))

    def products(self, part: str) -> list[Product]:
        """The matrix products that a part cannot avoid."""
        if part == "reward":
            return products.of_reward(self.run, self.target)
        settings = self.run.generator.model_copy(update={"prompt_tokens": self.mean_tokens})
        run = self.run.model_copy(update={"generator": settings})
        return products.of_generator(run, self.model)[part]

    def generator(self) -> JaxGenerator:
        """The policy, made as in a run."""
        params, settings = self.model.init(jax.random.key(0)), self.run.generator
        lengths = self.prompts()[1].sum(1)
        return JaxGenerator(self.model, params, settings, self.tokenizer.eos_ids, lengths)

    def prompts(self) -> tuple[np.ndarray, np.ndarray]:
        """A step's prompts, padded on the left.

        Where prompts are padded to more than one length, they are a quarter to three quarters of P
        long, as real articles are; otherwise all have P tokens.

        Returns:
            int32 [U, P], and the mask bool [U, P].
        """
        U, P = self.run.prompts_per_step, self.run.generator.prompt_tokens
        rng = np.random.default_rng(0)
        ids = rng.integers(2, self.tokenizer.vocab_size, (U, P)).astype(np.int32)
        if self.run.generator.prompt_multiple is None:
            return ids, np.ones_like(ids, bool)
        lengths = rng.integers(P // 4, 3 * P // 4 + 1, U)
        lengths[0] = 3 * P // 4
        return ids, np.arange(P) >= P - lengths[:, None]

    @property
    def mean_tokens(self) -> int:
        """Tokens of these prompts on average, padding left out."""
        return math.ceil(self.prompts()[1].sum(1).mean())

    def rollouts(self) -> Rollouts:
        """Random rollouts of a step, in the form that sampling returns."""
        shape = self.run.rollouts_per_step, self.run.generator.response_tokens
        ids = np.random.default_rng(2).integers(2, self.tokenizer.vocab_size, shape)
        logprobs = np.full(shape, -math.log(self.model.config.vocab_size), np.float32)
        arrays: tuple[Any, ...] = ids.astype(np.int32), np.ones(shape, bool), logprobs
        return Rollouts(*arrays)

    def batch(self) -> RolloutBatch:
        """The same rollouts in the form that the reward takes."""
        rollouts, G = self.rollouts(), self.run.generator.group_size
        tokens, mask = np.asarray(rollouts.tokens), np.asarray(rollouts.mask)
        return RolloutBatch(tokens, mask, np.arange(len(tokens)) // G, 0)

    def scorer(self) -> Reward:
        """The run's reward."""
        examples: Any = self.examples
        return rewards.build(self.run, self.target, examples, self.passages, None)


def rollout(case: Case) -> Work:
    """A function that samples a step's rollouts."""
    settings, (prompts, mask) = case.run.generator, case.prompts()
    generator, key = case.generator(), sampling.key(case.run.seed, "rollouts", 0)
    return lambda: generator.rollout(prompts, mask, key, settings.temperature, settings.group_size)


def reward(case: Case) -> Work:
    """A function that scores a step's rollouts."""
    scorer, batch = case.scorer(), case.batch()
    return lambda: scorer(batch).values


def update(case: Case) -> Work:
    """A function that does a step's update with random advantages."""
    prompts, mask = case.prompts()
    generator, rollouts = case.generator(), case.rollouts()
    drawn = np.random.default_rng(3).normal(size=case.run.rollouts_per_step)
    advantages = group_advantages(drawn, case.batch().groups)

    def function() -> Any:
        generator.update(prompts, mask, rollouts, advantages)
        return generator.params

    return function


PARTS: dict[str, Callable[[Case], Work]] = {
    "rollout": rollout, "reward": reward, "update": update
}  # fmt: skip
"""The parts of a GRPO step."""
