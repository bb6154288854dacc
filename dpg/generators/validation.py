"""Validation on unseen prompts: one response each, the target trained on them for the longest T."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from dpg import artifacts
from dpg.config import RunConfig, StringMetric
from dpg.generators import sampling
from dpg.generators.jax_engine import JaxGenerator
from dpg.generators.target import Target
from dpg.models import Tokenizer
from dpg.rewards.examples import ExampleMaker
from dpg.rewards.protocol import RolloutBatch


class Prompts(NamedTuple):
    """Encoded prompts.

    Attributes:
        tokens: int32 [N, P], padded on the left.
        mask: bool [N, P].
        articles: [N] str, ids of the articles.
    """

    tokens: np.ndarray
    mask: np.ndarray
    articles: list[str]

    def take(self, index: np.ndarray) -> Prompts:
        """The prompts at these places."""
        return Prompts(self.tokens[index], self.mask[index], [self.articles[i] for i in index])


class Outcome(NamedTuple):
    """What one validation leaves.

    Attributes:
        record: named numbers for the metrics' log.
        rollouts: a table with step, row, article, prompt, response, tokens.
        image: [h, w] int8, the decoded pattern, or None.
    """

    record: dict[str, float]
    rollouts: pd.DataFrame
    image: np.ndarray | None


def validate(
    run: RunConfig,
    step: int,
    generator: JaxGenerator,
    tokenizer: Tokenizer,
    prompts: Prompts,
    examples: ExampleMaker,
    target: Target,
) -> Outcome:
    """Sample, train the target model, score it.

    Args:
        run: the configuration; ``run.validation_prompts`` prompts are answered.
        step: GRPO steps done so far.
        generator, tokenizer: the policy.
        prompts: prompts that are never trained on.
        examples: rollouts to training examples.
        target: what is trained and scored.
    """
    # The same key at every validation: what changes between two of them is the generator.
    rollouts = generator.rollout(
        prompts.tokens,
        prompts.mask,
        sampling.key(run.seed, "validation"),
        run.validation.temperature,
    )
    own = without_end(rollouts.tokens, rollouts.mask, tokenizer.eos_id)
    batch = RolloutBatch(rollouts.tokens, own, np.arange(len(own)), step)
    return assess(run, batch, tokenizer, prompts, examples, target)


def assess(
    run: RunConfig,
    batch: RolloutBatch,
    tokenizer: Tokenizer,
    prompts: Prompts,
    examples: ExampleMaker,
    target: Target,
) -> Outcome:
    """Train the target model on the responses to the validation prompts, one each, and score it.

    Args:
        run: the configuration.
        batch: one response a prompt, in the prompts' order.
        tokenizer: the generator's.
        prompts: what they answer.
        examples: rollouts to training examples.
        target: what is trained and scored.
    """
    data = examples(batch)
    steps = run.validation_steps
    result = target.train({k: v.reshape(steps, -1, *v.shape[1:]) for k, v in data.items()})
    record = target.score(result.params)
    texts = examples.texts(batch)
    if isinstance(run.metric, StringMetric):
        shares = np.array([longest_shared(run.metric.text, text) for text in texts])
        record["exact"] = float(np.mean(shares == 1.0))
        record["soft"] = float(np.mean(shares))
    record["response_length"] = float(batch.mask.sum(1).mean())
    kept = range(run.validation.kept)
    table = pd.DataFrame(
        {
            "step": np.full(len(kept), batch.step),
            "row": list(kept),
            "article": prompts.articles[: len(kept)],
            "prompt": tokenizer.decode_batch(
                [prompts.tokens[i][prompts.mask[i]].tolist() for i in kept]
            ),
            "response": texts[: len(kept)],
            "tokens": [batch.tokens[i][batch.mask[i]].tolist() for i in kept],
        }
    )
    return Outcome(record, table, target.image(result.params))


def keep(folder: str | Path, step: int, outcome: Outcome) -> None:
    """Write a validation's rollouts and image; written again by a resumed run, to the same."""
    folder = Path(folder)
    artifacts.write_table(folder / f"validation-{step:06d}.parquet", outcome.rollouts)
    if outcome.image is not None:
        artifacts.write_json(folder / f"image-{step:06d}.json", outcome.image.tolist())


def gather(folder: str | Path, out: str | Path, pattern: np.ndarray | None) -> None:
    """Put what `keep` wrote there together: validation.parquet and, of a pattern, pattern.json."""
    folder, out = Path(folder), Path(out)
    tables = [artifacts.read_table(path) for path in sorted(folder.glob("validation-*.parquet"))]
    artifacts.write_table(out / "validation.parquet", pd.concat(tables, ignore_index=True))
    if pattern is not None:
        images = {
            str(int(path.stem.removeprefix("image-"))): artifacts.read_json(path)
            for path in sorted(folder.glob("image-*.json"))
        }
        shown = {"pattern": pattern.tolist(), "images": images}
        artifacts.write_json(out / "pattern.json", shown)


def without_end(tokens: np.ndarray, mask: np.ndarray, eos_id: int | None) -> np.ndarray:
    """The mask of a response's own tokens, its end-of-text left out: bool [N, R]."""
    return mask if eos_id is None else mask & (tokens != eos_id)


def longest_shared(text: str, rollout: str) -> float:
    """The longest stretch of `text` that occurs in the rollout, as a fraction of `text`.

    "Soft" of Figure 5; 1.0 is its "Exact".
    """
    best = 0
    for start in range(len(text)):
        while start + best < len(text) and text[start : start + best + 1] in rollout:
            best += 1
    return best / len(text)
