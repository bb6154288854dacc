"""What scores a generator's rollouts, whichever engine trains it: target, examples and reward."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from dpg import artifacts, rewards, targets
from dpg.config import RunConfig
from dpg.errors import DpgError
from dpg.generators.engine import RunInputs
from dpg.models import Tokenizer, load
from dpg.rewards import Reward
from dpg.rewards.examples import ExampleMaker
from dpg.targets import Target


class Scorer(NamedTuple):
    """A run's target, how rollouts become its examples, and the reward.

    Attributes:
        target: trained and scored at every validation.
        examples: rollouts to training examples.
        reward: what scores training rollouts.
    """

    target: Target
    examples: ExampleMaker
    reward: Reward


def build_scorer(run: RunConfig, tokenizer: Tokenizer, inputs: RunInputs) -> Scorer:
    """Load the target model and make the run's reward.

    Args:
        run: the resolved configuration.
        tokenizer: the generator's.
        inputs: what the run reads; of it the target, the passages and the reward model.

    Raises:
        DpgError: a model without a tokenizer, examples longer than its context, or what building
            the target and the reward says.
    """
    model, params, own = load_model(inputs.target, run.learner.implementation)
    responses = run.generator.response_tokens
    length = run.learner.example_tokens(responses, adds_start=own.add_bos)
    if length > model.config.context:
        raise DpgError(
            f"{inputs.target}: generator.response_tokens = {responses:,} make "
            f"examples of {length:,} tokens, the target model has {model.config.context:,} "
            "positions: lower the one, or use a target model with a longer context"
        )
    benchmark = None if inputs.passages is None else artifacts.read_table(inputs.passages)
    goal = targets.build(run, model, params, own, benchmark)
    examples = ExampleMaker(tokenizer, own, length)
    reward = rewards.build(run, goal, examples, benchmark, inputs.reward_model)
    return Scorer(goal, examples, reward)


def load_model(
    directory: str | Path, implementation: str | None = None
) -> tuple[Any, Any, Tokenizer]:
    """A model, its parameters and its tokenizer, natively or through EasyDeL.

    Raises:
        DpgError: the directory has no tokenizer, or cannot be loaded.
    """
    model: Any  # a `LanguageModel`, or EasyDeL's with the same methods
    if implementation == "easydel":
        from dpg.models import easydel

        model, params, tokenizer = easydel.load(directory)
    else:
        model, params, tokenizer = load(directory)
    if tokenizer is None:
        raise DpgError(f"{directory}: a model without tokenizer.json; a run needs its tokenizer")
    return model, params, tokenizer
