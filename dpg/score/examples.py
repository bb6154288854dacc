"""Texts as rows of token ids, with the weight of each token in its text's loss."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from dpg.errors import DpgError
from dpg.models import Tokenizer
from dpg.score.texts import Text

_NAMED = 5  # how many texts an error lists


class Examples(NamedTuple):
    """Texts as arrays.

    Attributes:
        arrays: `tokens` int32 [N, L]; `mask` bool [N, L], false on padding; `weights` float32
            [N, L], 1 / n on each of a text's n predicted tokens, else 0. A text's loss is the mean
            over its predicted tokens.
        cut: bool [N], whether a text was cut to the length.
    """

    arrays: dict[str, np.ndarray]
    cut: np.ndarray

    @property
    def predicted(self) -> np.ndarray:
        """The number of predicted tokens of each text, int64 [N]."""
        return (self.arrays["weights"] > 0).sum(1)


def encode(
    texts: Sequence[Text],
    tokenizer: Tokenizer,
    *,
    length: int,
    what: str,
    end: bool = True,
    cut: bool = False,
) -> Examples:
    """Tokenise texts and pad them to the longest.

    A text starts with the begin-of-text token if the tokenizer adds one, and ends with the
    end-of-text token. A conversation has the special tokens of its chat template instead.

    Args:
        texts: the texts.
        tokenizer: the model's.
        length: the most tokens per text.
        what: the kind of the texts, for errors, such as "training".
        end: put the end-of-text token after each text.
        cut: cut longer texts to `length` instead of refusing them.

    Raises:
        DpgError: texts longer than `length`; a text without a token to predict; a conversation if
            the tokenizer has no chat template. The error names the first such texts.
    """
    rows = [_row(text, tokenizer, end) for text in texts]
    long = [i for i, (ids, _) in enumerate(rows) if len(ids) > length]
    if long and not cut:
        longest = max(len(ids) for ids, _ in rows)
        raise DpgError(
            f"{len(long)} of {len(rows)} {what} texts are longer than {length} tokens (the longest "
            f"has {longest}): {_named(texts, long)}; expected at most {length}: shorten them, "
            "raise --length up to the model's context, or cut them with --cut"
        )
    rows = [(ids[:length], begin) for ids, begin in rows]
    mute = [i for i, (ids, begin) in enumerate(rows) if len(ids) <= begin]
    if mute:
        raise DpgError(
            f"{len(mute)} of {len(rows)} {what} texts have no token to predict within {length} "
            f"tokens: {_named(texts, mute)}; expected at least one: remove them, or raise --length"
        )
    return Examples(_padded(rows, tokenizer.pad_id), np.isin(np.arange(len(rows)), long))


def _row(text: Text, tokenizer: Tokenizer, end: bool) -> tuple[list[int], int]:
    """The token ids of a text, and the position of the first predicted token."""
    if not isinstance(text.prompt, str):
        return _conversation(text, tokenizer)
    start = [tokenizer.bos_id] if tokenizer.add_bos and tokenizer.bos_id is not None else []
    before = start + tokenizer.encode(text.prompt)
    ids = before + tokenizer.encode(text.answer)
    if end and tokenizer.eos_id is not None:
        ids.append(tokenizer.eos_id)
    return ids, max(len(before), 1)  # nothing precedes the first token


def _conversation(text: Text, tokenizer: Tokenizer) -> tuple[list[int], int]:
    assert not isinstance(text.prompt, str)
    said = [*text.prompt, {"role": "assistant", "content": text.answer}]
    try:
        before = tokenizer.render_chat(text.prompt)
        whole = tokenizer.render_chat(said, add_generation_prompt=False)
    except DpgError as error:
        raise DpgError(f"{text.where}: {error}") from None
    if not whole.startswith(before):
        raise DpgError(
            f"{text.where}: the chat template writes the messages before the answer differently "
            "once the answer follows, so the answer's tokens cannot be told apart; expected a "
            'template that only appends the answer: write the row as "prompt" and "completion"'
        )
    first = tokenizer.encode(before)
    return first + tokenizer.encode(whole[len(before) :]), max(len(first), 1)


def _padded(rows: Sequence[tuple[list[int], int]], pad: int) -> dict[str, np.ndarray]:
    shape = len(rows), max(len(ids) for ids, _ in rows)
    tokens, mask = np.full(shape, pad, np.int32), np.zeros(shape, bool)
    weights = np.zeros(shape, np.float32)
    for i, (ids, begin) in enumerate(rows):
        tokens[i, : len(ids)] = ids
        mask[i, : len(ids)] = True
        weights[i, begin : len(ids)] = 1 / (len(ids) - begin)
    return {"tokens": tokens, "mask": mask, "weights": weights}


def _named(texts: Sequence[Text], indices: Sequence[int]) -> str:
    named = "; ".join(texts[i].where for i in indices[:_NAMED])
    more = len(indices) - _NAMED
    return f"{named}; and {more} more" if more > 0 else named
