"""Documents as the fixed blocks that continued pre-training reads.

Documents are put one after the other, begin-of-text before each where the target's tokenizer has
it and end-of-text after each, and the row of tokens is cut into blocks; no token is padding. Replay
and generated text are cut apart, so a block is of one kind.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np

from dpg.config import CptSettings
from dpg.errors import DpgError
from dpg.evaluation.corpora import read_corpus
from dpg.models import Tokenizer


def documents(
    corpus: str | Path, target: Tokenizer, writer: Tokenizer | None = None
) -> Iterable[list[int]]:
    """A corpus's texts as token ids of the target, special tokens included.

    Args:
        corpus: the corpus's folder.
        target: tokenizer of the target model.
        writer: tokenizer of whoever wrote the corpus. Where it has the same ids the tokens are
            passed on as they were written, as the learner does in the generator's training;
            otherwise, and where it is None, the text is tokenised anew.
    """
    as_written = writer is not None and writer.same_ids(target)
    start = [target.bos_id] if target.add_bos else []
    end = [] if target.eos_id is None else [target.eos_id]
    for text, ids in read_corpus(corpus):
        own = ids if as_written else target.encode(text)
        if own[-1:] == end:
            own = own[:-1]
        if own:
            yield [*start, *own, *end]


def pack(rows: Iterable[list[int]], context: int, blocks: int, name: str) -> np.ndarray:
    """The first `blocks` blocks of the documents put in a row: int32 [blocks, context].

    Raises:
        DpgError: the documents have fewer tokens; says how many.
    """
    wanted, parts, found = blocks * context, [], 0
    for row in rows:
        if found >= wanted:
            break
        parts.append(np.array(row, np.int32))
        found += len(row)
    if found < wanted:
        raise DpgError(
            f"{name} has {found:,} tokens for the target's tokenizer, but training takes "
            f"{wanted:,} from it: raise downstream.corpus.tokens or lower downstream.cpt.tokens"
        )
    stream = np.concatenate(parts) if parts else np.zeros(0, np.int32)
    return stream[:wanted].reshape(blocks, context)


def mixture(
    settings: CptSettings,
    *,
    corpus: str | Path | None,
    replay: str | Path,
    target: Tokenizer,
    writer: Tokenizer | None,
    seed: int,
) -> np.ndarray:
    """The blocks of one continued pre-training, shuffled: int32 [cpt.tokens // context, context].

    Args:
        settings: Table 11.
        corpus: what a generator wrote; None trains on replay text alone.
        replay: the replay corpus; `settings.replay_ratio` of the blocks are of it.
        target: the target's tokenizer.
        writer: the generator's.
        seed: of the order.

    Raises:
        DpgError: a corpus with too little text, or a damaged one.
    """
    total = settings.tokens // settings.context
    if total < 1:
        raise DpgError(
            f"cpt.tokens = {settings.tokens} are fewer than one block of cpt.context = "
            f"{settings.context}"
        )
    again = total if corpus is None else round(settings.replay_ratio * total)
    parts = [pack(documents(replay, target), settings.context, again, str(replay))]
    if corpus is not None:
        rows = documents(corpus, target, writer)
        parts.append(pack(rows, settings.context, total - again, str(corpus)))
    blocks = np.concatenate(parts)
    return blocks[np.random.default_rng([seed, 0xC97]).permutation(total)]
