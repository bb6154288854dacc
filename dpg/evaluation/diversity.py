"""How varied a set of texts is: the bigram entropy of the paper's Figure 4, bottom."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from itertools import pairwise

from dpg.errors import DpgError


def bigram_entropy(sequences: Iterable[Sequence[Hashable]]) -> float:
    """Return the Shannon entropy, in bits, of the pooled bigrams of all sequences.

    Let n(a, b) be the number of times that b directly follows a within a sequence, counted over all
    sequences, N the sum of all n, and p(a, b) = n(a, b) / N. Then

        H = - sum over (a, b) of p(a, b) log2 p(a, b)

    No bigram spans two sequences. H is 0 if all bigrams are the same, and log2 N if no bigram
    occurs twice, so only sets of about the same size can be compared. The paper names the measure
    but gives no formula. This is the joint entropy of a bigram, neither conditional nor normalised.

    Args:
        sequences: token ids (or words, or any hashable items), one sequence per text.

    Raises:
        DpgError: no sequence has two items, so there is no bigram.
    """
    counts = Counter(pair for sequence in sequences for pair in pairwise(sequence))
    total = counts.total()
    if not total:
        raise DpgError("bigram entropy needs a sequence of two items or more; every one is shorter")
    return sum(n / total * math.log2(total / n) for n in counts.values())
