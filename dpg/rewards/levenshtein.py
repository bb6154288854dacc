"""The Levenshtein baseline: a rollout's edit distance to the benchmark's passages (section 4.4)."""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Sequence

import numpy as np

from dpg.rewards.protocol import RewardError, Rewards, RolloutBatch
from dpg.rewards.texts import check_passages


class LevenshteinReward:
    """Minus the mean Levenshtein distance of a rollout to the benchmark's train passages.

    An edit is the insertion, deletion or substitution of one token. Rollouts and passages both have
    the token ids of the generator's tokenizer. The distance is not divided by a length.

    Args:
        passages: token ids of each train passage in the target language.
        workers: threads; -1 uses all cores. The numbers do not depend on it.

    Raises:
        RewardError: no passages, an empty one, or rapidfuzz is missing.
    """

    def __init__(self, passages: Sequence[Sequence[int]], *, workers: int = 1):
        check_passages(passages, "token")
        try:
            from rapidfuzz.distance import Levenshtein
            from rapidfuzz.process import cdist
        except ImportError as error:
            raise RewardError(
                f"the Levenshtein reward needs rapidfuzz ({error}): "
                "pip install 'dataset-policy-gradients[rewards]'"
            ) from error
        self._distances, self._scorer = cdist, Levenshtein.distance
        self.passages = [_ids(passage) for passage in passages]
        self.workers = workers

    def __call__(self, batch: RolloutBatch) -> Rewards:
        """Score a batch. It needs 4 bytes of memory per pair of rollout and passage."""
        rows = zip(batch.tokens, batch.mask, strict=True)
        distances = self._distances(
            [_ids(row[own].tolist()) for row, own in rows],
            self.passages,
            scorer=self._scorer,
            dtype=np.int32,
            workers=self.workers,
        )
        return Rewards(-distances.mean(1, dtype=np.float64), batch.groups)


def _ids(tokens: Iterable[int]) -> array:
    # Machine integers, which rapidfuzz compares directly; it would hash the items of a list.
    return array("I", tokens)
