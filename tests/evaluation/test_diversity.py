"""Bigram entropy in cases that have a closed form."""

import math

import numpy as np
import pytest

from dpg.errors import DpgError
from dpg.evaluation.diversity import bigram_entropy


def test_one_bigram_repeated_has_no_entropy():
    assert bigram_entropy([[7] * 50, [7] * 3]) == 0.0


def test_different_bigrams_have_log2_of_their_number():
    assert bigram_entropy([range(65)]) == pytest.approx(6.0, abs=1e-12)


def test_two_words_in_turn():
    # a b a b a: ab twice, ba twice.
    assert bigram_entropy([["a", "b", "a", "b", "a"]]) == pytest.approx(1.0, abs=1e-12)


def test_unequal_counts():
    # Three times (0, 1), once (2, 3): the binary entropy of a quarter.
    expected = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25))
    assert bigram_entropy([[0, 1], [0, 1], [0, 1], [2, 3]]) == pytest.approx(expected, abs=1e-12)


def test_no_bigram_spans_two_sequences():
    assert bigram_entropy([[0, 1], [2, 3]]) == pytest.approx(1.0, abs=1e-12)  # (1, 2) is none


def test_direction_counts():
    assert bigram_entropy([[0, 1], [1, 0]]) == pytest.approx(1.0, abs=1e-12)


def test_arrays_and_short_sequences_are_taken():
    sequences = [np.array([3, 4, 3]), np.array([5]), np.array([], dtype=int)]
    assert bigram_entropy(sequences) == pytest.approx(1.0, abs=1e-12)


def test_uniform_tokens_reach_twice_the_entropy_of_one():
    tokens = np.random.default_rng(0).integers(0, 8, size=200_000)
    assert bigram_entropy([tokens]) == pytest.approx(6.0, abs=1e-3)


@pytest.mark.parametrize("sequences", [[], [[]], [[1], [2]]])
def test_no_bigram_is_an_error(sequences):
    with pytest.raises(DpgError, match="two items"):
        bigram_entropy(sequences)
