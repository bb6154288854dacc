"""What a reward server computes for a run: rewards of training rollouts, and validations."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from dpg.config import RunConfig
from dpg.generators.engine import RunInputs
from dpg.generators.prompts import prompts_of
from dpg.generators.scorer import build_scorer
from dpg.generators.validation import assess, keep
from dpg.models import Tokenizer
from dpg.rewards import exchange, server
from dpg.rewards.protocol import RewardError, Rewards, RolloutBatch
from dpg.run_folder import RunState


def serve_run(
    run: RunConfig,
    inputs: RunInputs,
    *,
    connection: str | Path,
    state: RunState | None = None,
    host: str = "127.0.0.1",
    port: int = 0,
    with_parent: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> None:
    """Serve the rewards of one run until the process is told to stop.

    Args:
        run: the resolved configuration.
        inputs: what the run reads; of the generator only its tokenizer.
        connection: the file in which clients find the server.
        state: where each validation's rollouts and image are kept; None keeps none.
        host, port, with_parent, say: as for `dpg.rewards.server.serve`.

    Raises:
        DpgError: whatever loading the models and the tables says, or a port that is taken.
    """
    tokenizer = Tokenizer.load(inputs.generator)
    scorer = build_scorer(run, tokenizer, inputs)
    prompts = prompts_of(run, inputs.articles, tokenizer, "validation")
    if not scorer.examples.same:
        say("generator and target have different tokenizers: rollouts are tokenised anew from text")

    def validation(batch: RolloutBatch) -> Rewards:
        batch = in_order(batch, len(prompts.articles))
        outcome = assess(run, batch, tokenizer, prompts, scorer)
        if state is not None:
            keep(state, batch.step, outcome)
        values = np.full(len(batch), outcome.record["metric"])
        return Rewards(values, batch.groups, outcome.record)

    server.serve(
        {"train": scorer.reward, "validation": validation},
        connection,
        body_limit=body_limit(run),
        host=host,
        port=port,
        with_parent=with_parent,
        say=say,
    )


def body_limit(run: RunConfig) -> int:
    """Bytes of the largest call of a run: that of a training step or of a validation."""
    most = max(run.rollouts_per_step, run.validation_prompts)
    return exchange.body_bytes(most, run.generator.response_tokens)


def in_order(batch: RolloutBatch, count: int) -> RolloutBatch:
    """A validation's rollouts in the order of their prompts, which `groups` names.

    Raises:
        RewardError: not one response to each of `count` prompts.
    """
    order = np.argsort(batch.groups, kind="stable")
    if not np.array_equal(batch.groups[order], np.arange(count)):
        raise RewardError(
            f"step {batch.step}: found {len(batch)} responses to {len(np.unique(batch.groups))} "
            f"prompts, expected one to each of the {count} validation prompts"
        )
    return RolloutBatch(batch.tokens[order], batch.mask[order], batch.groups[order], batch.step)
