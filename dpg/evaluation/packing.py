"""What continued pre-training reads: rollouts one by one, replay text in blocks.

A rollout is an example of its own, as in the generator's training: begin-of-text before it where
the target's tokenizer adds one, end-of-text after it where the generator wrote one. Most rollouts
end because they are long enough; an end-of-text put there would teach the target that every text
ends after that number of tokens. Replay documents are put one after the other, begin-of-text before
and end-of-text after each, and cut into blocks, as in the pre-training of the target.
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
    """A generator's texts as rows of the target's token ids, 2 to `context` of them.

    Args:
        corpus: the corpus's folder.
        target: tokenizer of the target model.
        writer: the generator's. Where it has the same ids the tokens are passed on as they were
            written, as in the generator's training; otherwise the text is tokenised anew.
        context: where a row is cut.
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
    """A corpus of whole documents as blocks of `context` of the target's token ids."""
    start, end = _edges(target)
    left: list[int] = []
    for text, _ in read_corpus(corpus):
        left += [*start, *target.encode(text), *end]
        while len(left) >= context:
            yield left[:context]
            left = left[context:]


def _edges(tokenizer: Tokenizer) -> tuple[list[int], list[int]]:
    """What stands before and after a whole document."""
    return start_of(tokenizer), [] if tokenizer.eos_id is None else [tokenizer.eos_id]


def start_of(tokenizer: Tokenizer) -> list[int]:
    """The ids before a text: begin-of-text where the tokenizer adds one, else none."""
    if tokenizer.bos_id is None or not tokenizer.add_bos:
        return []
    return [tokenizer.bos_id]


def take(rows: Iterable[list[int]], tokens: int, name: str) -> list[list[int]]:
    """The first rows that have `tokens` tokens together, the last of them whole.

    Raises:
        DpgError: the rows have fewer tokens; says how many.
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
        corpus: what a generator wrote; None trains on replay text alone.
        replay: the replay corpus; `settings.replay_ratio` of the tokens are of it.
        target: the target's tokenizer.
        writer: the generator's.
        seed: of the order.

    Raises:
        DpgError: a corpus with too little text, or a damaged one.
    """
    again = settings.tokens if corpus is None else round(settings.replay_ratio * settings.tokens)
    rows = take(blocks(replay, target, settings.context), again, str(replay))
    if corpus is not None:
        written = examples(corpus, target, writer, settings.context)
        rows += take(written, settings.tokens - again, str(corpus))
    order = np.random.default_rng([seed, 0xC97]).permutation(len(rows))
    return [rows[place] for place in order]
