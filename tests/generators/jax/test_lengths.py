"""At most three lengths to pad prompts to: those that add least."""

import itertools

import numpy as np
import pytest

from dpg.generators.jax.lengths import MOST, lengths_of, shortest
from tests.generators.jax.test_policy import SETTINGS


def padded(lengths, chosen):
    return sum(min(c for c in chosen if c >= length) for length in lengths)


@pytest.mark.parametrize("seed", range(5))
def test_no_other_choice_adds_less(seed):
    lengths = np.random.default_rng(seed).integers(1, 9, 30)
    best = min(
        padded(lengths, (*others, lengths.max()))
        for count in range(MOST)
        for others in itertools.combinations(range(1, lengths.max()), count)
    )
    chosen = shortest(lengths, MOST)
    assert len(chosen) <= MOST
    assert list(chosen) == sorted(set(chosen))
    assert padded(lengths, chosen) == best


def test_lengths_are_multiples_and_hold_every_prompt():
    settings = SETTINGS.model_copy(update={"prompt_tokens": 640, "prompt_multiple": 128})
    tokens = [100, 120, 180, 184, 190, 230, 300, 519]
    assert lengths_of(settings, tokens) == (128, 256, 640)


def test_one_length_where_prompts_are_alike_or_unknown():
    settings = SETTINGS.model_copy(update={"prompt_tokens": 640, "prompt_multiple": 128})
    assert lengths_of(settings, [129] * 5) == (256,)
    assert lengths_of(settings, []) == (640,)
    assert lengths_of(SETTINGS, [1, 2]) == (SETTINGS.prompt_tokens,)
    assert lengths_of(settings.model_copy(update={"prompt_multiple": 600}), [1, 639]) == (600, 640)
