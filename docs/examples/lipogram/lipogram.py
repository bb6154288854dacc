"""Data that makes a model avoid a letter: a metric of one's own, and a reward of one's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd

from dpg.models import Tokenizer, load
from dpg.rewards import RewardError, Rewards, RolloutBatch


def metric(model: str, articles: str, letter: str = "e", contexts: int = 64, length: int = 32):
    """Phi = minus the mean probability, over positions of held-out text, of a token with `letter`.

    Args:
        model: folder of the target model; its architecture and tokenizer are used.
        articles: the study's table of articles; validation articles are the held-out text.
        letter: what to avoid.
        contexts, length: how many articles, and the tokens read of each.
    """
    language_model, _, tokenizer = load(model)
    table = pd.read_parquet(articles)
    texts = table[table.split == "validation"].text
    ids = [tokenizer.encode(text)[:length] for text in texts]
    tokens = jnp.asarray([row for row in ids if len(row) == length][:contexts])
    holds = jnp.asarray(with_letter(tokenizer, letter), jnp.float32)

    def phi(params, initial):
        probabilities = jax.nn.softmax(language_model.logits(params, tokens))
        return -jnp.mean(probabilities @ holds)

    return phi


class DirectReward:
    """Minus the share of a rollout's own tokens that hold the letter: no target model at all."""

    def __init__(self, run, target, examples, letter: str = "e"):
        self.holds = with_letter(examples.generator, letter)

    def __call__(self, batch: RolloutBatch) -> Rewards:
        """One number per rollout."""
        share = (self.holds[batch.tokens] * batch.mask).sum(1) / batch.mask.sum(1)
        if not np.isfinite(share).all():
            raise RewardError(f"step {batch.step}: a share that is not finite")
        return Rewards(-share.astype(np.float64), batch.groups, {"letter": float(share.mean())})


def with_letter(tokenizer: Tokenizer, letter: str) -> np.ndarray:
    """Which tokens of the vocabulary hold the letter: bool [V]."""
    tokens = (tokenizer.decode([i]) for i in range(tokenizer.vocab_size))
    return np.array([letter in token.lower() for token in tokens])
