"""The rows that continued pre-training reads: one per rollout, and blocks of replay text.

A rollout is one example, as in the generator's training. Begin-of-text comes before it if the
target's tokenizer adds one, end-of-text after it if the generator wrote one. Most rollouts end
because they reach the longest length. An end-of-text there would teach the target that every text
ends after that number of tokens. Replay documents are concatenated, with begin-of-text before and
end-of-text after each, and cut into blocks, as in the pre-training of the target.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from dpg.config import CptSettings
from dpg.errors import DpgError
from dpg.evaluation.corpora import read_corpus
from dpg.models import Tokenizer


def examples(
    corpus: str | Path, target: Tokenizer, writer: Tokenizer, context: int
) -> Iterable[list[int]]:
    """A generator's texts as rows of the target's token ids, 2 to `context` ids per row.

    Args:
        corpus: the corpus's folder.
        target: tokenizer of the target model.
        writer: tokenizer of the generator. If it has the same ids, the tokens are used as they were
            written, as in the generator's training; otherwise the text is tokenised again.
        context: longest row, in tokens; longer rows are cut.
    """
    same = writer.same_ids(target)
    start, end = _edges(target)
    for text, ids in read_corpus(corpus):
        if same:
            own = ids
        else:
            ended = bool(ids) and ids[-1] in writer.eos_ids
            own = target.encode(text) + (end if ended else [])
        row = [*start, *own][:context]
        if len(row) > 1:
            yield row


def blocks(corpus: str | Path, target: Tokenizer, context: int) -> Iterable[list[int]]:
    """A corpus of whole documents as blocks of exactly `context` of the target's token ids.

    What is left at the end of the corpus and does not fill a block is dropped.
    """
    start, end = _edges(target)
    left: list[int] = []
    for text, _ in read_corpus(corpus):
        left += [*start, *target.encode(text), *end]
        while len(left) >= context:
            yield left[:context]
            left = left[context:]


def _edges(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """The ids before and after a whole document."""
    return start_of(tokenizer), [] if tokenizer.eos_id is None else [tokenizer.eos_id]


def start_of(tokenizer: Tokenizer) -> list[int]:
    """The ids before a text: begin-of-text if the tokenizer adds one, else none."""
    if tokenizer.bos_id is None or not tokenizer.add_bos:
        return []
    return [tokenizer.bos_id]


def take(rows: Iterable[list[int]], tokens: int, name: str) -> list[list[int]]:
    """The first rows that have at least `tokens` tokens together; the last row is not cut.

    Raises:
        DpgError: all rows together have fewer tokens; says how many.
    """
    taken: list[list[int]] = []
    found = 0
    for row in rows:
        if found >= tokens:
            return taken
        taken.append(row)
        found += len(row)
    if found < tokens:
        raise DpgError(
            f"{name} has {found:,} tokens for the target's tokenizer, but training takes "
            f"{tokens:,} from it: raise downstream.corpus.tokens or lower downstream.cpt.tokens"
        )
    return taken


def mixture(
    settings: CptSettings,
    *,
    corpus: str | Path | None,
    replay: str | Path,
    target: Tokenizer,
    writer: Tokenizer,
    seed: int,
) -> list[list[int]]:
    """The rows of one continued pre-training, shuffled: about `cpt.tokens` tokens together.

    Args:
        settings: Table 11.
        corpus: what a generator wrote; None: all tokens are replay text.
        replay: the replay corpus; it gives the share `settings.replay_ratio` of the tokens.
        target: the target's tokenizer.
        writer: the generator's tokenizer.
        seed: of the order.

    Raises:
        DpgError: a corpus has too little text or is damaged.
    """
    again = settings.tokens if corpus is None else round(settings.replay_ratio * settings.tokens)
    rows = take(blocks(replay, target, settings.context), again, str(replay))
    if corpus is not None:
        written = examples(corpus, target, writer, settings.context)
        rows += take(written, settings.tokens - again, str(corpus))
    order = np.random.default_rng([seed, 0xC97]).permutation(len(rows))
    return [rows[place] for place in order]
