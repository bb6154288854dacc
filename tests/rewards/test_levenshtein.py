"""Minus the mean edit distance over token ids, against the textbook's recurrence."""

import time

import numpy as np
import pytest

from dpg.rewards.levenshtein import LevenshteinReward
from dpg.rewards.protocol import RewardError, RolloutBatch


def edits(a, b):
    """Wagner and Fischer's table, one cell after the other."""
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    table[:, 0], table[0] = range(len(a) + 1), range(len(b) + 1)
    for i, x in enumerate(a, 1):
        for j, y in enumerate(b, 1):
            exchange = table[i - 1, j - 1] + (x != y)
            table[i, j] = min(exchange, table[i - 1, j] + 1, table[i, j - 1] + 1)
    return table[-1, -1]


def batch_of(lines, groups=None):
    width = max(map(len, lines))
    tokens = np.zeros((len(lines), width), np.int32)
    mask = np.zeros((len(lines), width), bool)
    for row, line in enumerate(lines):
        tokens[row, : len(line)], mask[row, : len(line)] = line, True
    return RolloutBatch(tokens, mask, np.arange(len(lines)) if groups is None else groups, 3)


@pytest.mark.parametrize("vocabulary", [3, 300, 1_200_000])
def test_equals_a_plain_dynamic_program(vocabulary):
    random = np.random.default_rng(vocabulary)
    # few distinct ids, so that sequences of a large vocabulary agree somewhere
    ids = random.integers(0, vocabulary, 6)
    rollouts = [random.choice(ids, n).tolist() for n in random.integers(1, 80, 9)]
    passages = [random.choice(ids, n).tolist() for n in random.integers(1, 140, 7)]
    groups = np.repeat([0, 1, 2], 3)
    scored = LevenshteinReward(passages)(batch_of(rollouts, groups))
    expected = [-np.mean([edits(a, b) for b in passages]) for a in rollouts]
    np.testing.assert_allclose(scored.values, expected, rtol=1e-15)
    assert scored.values.dtype == np.float64
    assert scored.groups is groups
    assert scored.log == {}


def test_padding_is_no_token_and_threads_change_nothing():
    passages = [[5, 6, 7], [5, 0, 0]]
    lines = [[5], [5, 6, 7, 8]]
    alone = [LevenshteinReward(passages)(batch_of([line])).values[0] for line in lines]
    assert alone == [-2.0, -2.0]
    np.testing.assert_array_equal(
        LevenshteinReward(passages, workers=2)(batch_of(lines)).values, alone
    )


@pytest.mark.slow
def test_the_papers_size_in_ten_seconds_of_one_core():
    random = np.random.default_rng(0)

    def text(length):  # frequent and rare tokens, as in a language
        return random.zipf(1.3, length) % 128_256

    reward = LevenshteinReward([text(n).tolist() for n in random.integers(60, 160, 2319)])
    tokens = np.stack([text(128) for _ in range(1024)]).astype(np.int32)
    batch = RolloutBatch(tokens, np.ones(tokens.shape, bool), np.arange(1024) // 4, 0)
    start = time.process_time()
    values = reward(batch).values
    assert time.process_time() - start < 10
    assert values.shape == (1024,)
    some = np.mean([edits(tokens[7], passage) for passage in reward.passages[:5]])
    assert -np.mean(values) == pytest.approx(some, rel=0.2)  # sane, exactness is tested above


def test_nothing_to_compare_with_is_refused():
    with pytest.raises(RewardError, match="no benchmark passages"):
        LevenshteinReward([])
    with pytest.raises(RewardError, match=r"passages \[1\] \(of 2\) have no token"):
        LevenshteinReward([[1], []])
