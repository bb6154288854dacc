"""Rollouts as the target model's training examples."""

from __future__ import annotations

import numpy as np

from dpg.models import Tokenizer
from dpg.rewards.protocol import RewardError, RolloutBatch


class ExampleMaker:
    """Turns rollouts into ``{"tokens": int32 [N, L], "mask": bool [N, L]}`` for the target model.

    If generator and target share a tokenizer, the token ids are used as they are. If not, the text
    is tokenised again. An example starts with the target's begin-of-text token if its tokenizer
    adds one, and is cut to the length. The prompt is not part of an example (section 3.1).

    Args:
        generator: the generator's tokenizer.
        target: the target model's tokenizer.
        length: L, the tokens that an example is padded or cut to; begin-of-text counts.
    """

    def __init__(self, generator: Tokenizer, target: Tokenizer, length: int):
        self.generator, self.target, self.length = generator, target, length
        self.same = generator.same_ids(target)

    def __call__(self, batch: RolloutBatch) -> dict[str, np.ndarray]:
        """Make the training examples of a batch.

        Raises:
            RewardError: an example with no token to predict, or with a token that the generator's
                tokenizer does not know; names the step and the rollouts.
        """
        if self.same:
            check_tokens(batch, self.generator)
            lines = [row[own].tolist() for row, own in zip(batch.tokens, batch.mask, strict=True)]
        else:
            lines = [self.target.encode(text) for text in self.texts(batch)]
        start = [self.target.bos_id] if self.target.add_bos else []
        tokens = np.full((len(lines), self.length), self.target.pad_id, np.int32)
        mask = np.zeros(tokens.shape, bool)
        for row, line in enumerate(lines):
            line = (start + line)[: self.length]
            tokens[row, : len(line)] = line
            mask[row, : len(line)] = True
        short = np.flatnonzero(mask.sum(1) < 2)
        if short.size:
            raise RewardError(
                f"step {batch.step}: rollouts {short[:8].tolist()} leave the target model no token "
                "to predict: they are empty, or a single token that nothing precedes"
            )
        return {"tokens": tokens, "mask": mask}

    def texts(self, batch: RolloutBatch) -> list[str]:
        """The rollouts as text, [N], without special tokens.

        Raises:
            RewardError: a token that the generator's tokenizer does not know.
        """
        check_tokens(batch, self.generator)
        rows = zip(batch.tokens, batch.mask, strict=True)
        return self.generator.decode_batch([row[own].tolist() for row, own in rows])


def check_tokens(batch: RolloutBatch, tokenizer: Tokenizer) -> None:
    """Raise a RewardError if a response has a token that the generator's tokenizer does not know.

    Models pad their vocabulary, so a model can emit such a token. JAX does not fail on an embedding
    index beyond the end: the reward would silently be wrong.
    """
    wrong = batch.mask & ((batch.tokens < 0) | (batch.tokens >= tokenizer.vocab_size))
    rows = np.flatnonzero(wrong.any(1))
    if rows.size:
        row = int(rows[0])
        token = int(batch.tokens[row][wrong[row]][0])
        raise RewardError(
            f"step {batch.step}: rollouts {rows[:8].tolist()} have tokens that the tokenizer does "
            f"not know, such as {token}; expected 0 to {tokenizer.vocab_size - 1}: do the rollouts "
            "come from another generator?"
        )
