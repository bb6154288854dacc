"""Validation: the target is trained for the longest T on one response to each unseen prompt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from dpg import artifacts
from dpg.config import RunConfig, StringMetric
from dpg.errors import DpgError
from dpg.generators.prompts import Prompts
from dpg.generators.scorer import Scorer
from dpg.models import Tokenizer
from dpg.rewards.diverged import naming_rollouts
from dpg.rewards.protocol import RolloutBatch, in_order
from dpg.run_folder import RunFolder, RunState


class Outcome(NamedTuple):
    """The result of one validation.

    Attributes:
        record: named numbers for the metrics' log.
        rollouts: a table with step, row, article, prompt, response, tokens.
        image: [h, w] int8, the decoded pattern, or None.
    """

    record: dict[str, float]
    rollouts: pd.DataFrame
    image: np.ndarray | None


def is_due(run: RunConfig, step: int) -> bool:
    """Whether a validation comes after this many training steps."""
    return step % run.validation.every == 0 or step == run.generator.grpo_steps


def due_steps(run: RunConfig) -> list[int]:
    """The numbers of training steps after which a validation comes, in order."""
    return [step for step in range(run.generator.grpo_steps + 1) if is_due(run, step)]


def assess(
    run: RunConfig,
    batch: RolloutBatch,
    tokenizer: Tokenizer,
    prompts: Prompts,
    scorer: Scorer,
) -> Outcome:
    """Train the target model on the responses to the validation prompts, one each, and score it.

    Args:
        run: the resolved configuration.
        batch: one response per prompt, in the prompts' order.
        tokenizer: the generator's.
        prompts: what they answer; never trained on.
        scorer: the target to train and score, and how rollouts become its examples.

    Raises:
        RewardError: a loss that is not finite; names the step and the responses.
    """
    data = scorer.examples(batch)
    order = in_order(len(batch), run.learner.order_seed).reshape(run.validation_steps, -1)
    with naming_rollouts(batch.step, order):
        result = scorer.target.train({name: array[order] for name, array in data.items()})
    record = scorer.target.score(result.params)
    texts = scorer.examples.texts(batch)
    if isinstance(run.metric, StringMetric):
        wanted = run.metric.text
        shares = np.array([longest_shared(wanted, text) for text in texts])
        record["exact"] = float(np.mean(shares == 1.0))
        record["soft"] = float(np.mean(shares))
    record["response_length"] = float(batch.mask.sum(1).mean())
    table = _kept_rollouts(batch, texts, tokenizer, prompts, run.validation.kept)
    return Outcome(record, table, scorer.target.image(result.params))


def _kept_rollouts(
    batch: RolloutBatch, texts: list[str], tokenizer: Tokenizer, prompts: Prompts, kept: int
) -> pd.DataFrame:
    """The first `kept` rollouts as the table that the study reads."""
    rows = range(kept)
    return pd.DataFrame(
        {
            "step": np.full(kept, batch.step),
            "row": list(rows),
            "article": prompts.articles[:kept],
            "prompt": tokenizer.decode_batch(
                [prompts.tokens[i][prompts.mask[i]].tolist() for i in rows]
            ),
            "response": texts[:kept],
            "tokens": [batch.tokens[i][batch.mask[i]].tolist() for i in rows],
        }
    )


def keep(state: RunState, step: int, outcome: Outcome) -> None:
    """Write a validation's rollouts and image; written again by a resumed run, to the same."""
    artifacts.write_table(state.validation(step), outcome.rollouts)
    if outcome.image is not None:
        artifacts.write_json(state.image(step), outcome.image.tolist())


def gather(
    state: RunState, folder: RunFolder, pattern: np.ndarray | None, due: Iterable[int] = ()
) -> None:
    """Put what `keep` wrote together as the run's rollouts and, of a pattern, its images.

    Args:
        state: has the validations so far.
        folder: where they go.
        pattern: of a pattern metric, or None.
        due: the steps of the validations that must be there (`due_steps`); an unfinished run has
            only some of them.

    Raises:
        DpgError: a validation that was due is missing; names its file.
    """
    for step in due:
        _require(state, state.validation(step))
        if pattern is not None:
            _require(state, state.image(step))
    tables = [artifacts.read_table(path) for path in state.validations().values()]
    artifacts.write_table(folder.rollouts, pd.concat(tables, ignore_index=True))
    if pattern is not None:
        images = {str(step): artifacts.read_json(path) for step, path in state.images().items()}
        artifacts.write_json(folder.pattern, {"pattern": pattern.tolist(), "images": images})


def _require(state: RunState, path: Path) -> None:
    if not path.exists():
        raise DpgError(
            f"{path} is missing; expected the outcome of every validation of the run. The state is "
            f"damaged: delete {state.path} and run the step again, which trains from the start"
        )


def without_end(tokens: np.ndarray, mask: np.ndarray, eos_ids: Sequence[int]) -> np.ndarray:
    """The mask of a response's own tokens, its end-of-text left out: bool [N, R]."""
    return mask & ~np.isin(tokens, eos_ids)


def longest_shared(text: str, rollout: str) -> float:
    """The longest stretch of `text` that occurs in the rollout, as a fraction of `text`.

    "Soft" of Figure 5; 1.0 is its "Exact".
    """
    best = 0
    for start in range(len(text)):
        while start + best < len(text) and text[start : start + best + 1] in rollout:
            best += 1
    return best / len(text)
