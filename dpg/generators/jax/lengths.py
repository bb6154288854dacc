"""The lengths that prompts are padded to, where the settings let them be shorter than the longest.

Every length is a program to compile, and every place of padding is computed for nothing. So a run
has at most three lengths, chosen once from all its prompts. Sampling sorts a batch's prompts by
length and reads them in pieces, the update sorts those of a mini-batch. Each piece or microbatch is
padded to the shortest length that holds it.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import numpy as np

from dpg.config import GeneratorSettings

MOST = 3
"""Lengths of a run at most."""


def lengths_of(settings: GeneratorSettings, tokens: Sequence[int] | np.ndarray) -> tuple[int, ...]:
    """The padded lengths of a run, ascending; the last holds every prompt.

    Args:
        settings: `prompt_multiple` is the step between lengths; None pads all to `prompt_tokens`.
        tokens: int [N], the length of each prompt of the run; none stands for unknown prompts.
    """
    size, multiple = settings.prompt_tokens, settings.prompt_multiple
    if multiple is None or len(tokens) == 0:
        return (size,)
    rounded = np.minimum(-(-np.asarray(tokens) // multiple) * multiple, size)
    return shortest(rounded, MOST)


def shortest(lengths: np.ndarray, most: int) -> tuple[int, ...]:
    """At most `most` of the lengths [N] such that padding each up to one of them adds least."""
    values, counts = np.unique(lengths, return_counts=True)
    below = np.concatenate([[0], np.cumsum(counts)])  # how many are shorter than each value

    @functools.cache
    def best(last: int, left: int) -> tuple[int, tuple[int, ...]]:
        """Padded tokens and lengths of all up to value `last`, with `left` lengths at most."""
        value = int(values[last])
        options: list[tuple[int, tuple[int, ...]]] = [(int(below[last + 1]) * value, (value,))]
        if left > 1:
            for earlier in range(last):
                tokens, chosen = best(earlier, left - 1)
                own = int(below[last + 1] - below[earlier + 1]) * value
                options.append((tokens + own, (*chosen, value)))
        return min(options, key=lambda option: (option[0], len(option[1])))

    return best(len(values) - 1, most)[1]
