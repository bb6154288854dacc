"""Language-model loss on fixed texts: passages of a benchmark, or one string (section 4.4, 4.5).

    Phi = - 1/N sum_i l_i(theta_T)

with l_i the target model's loss of text i. A higher Phi means more probable texts. A text's loss is
the mean over its tokens, or over the tokens of its last word alone, as in the LAMBADA benchmark.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpg.errors import DpgError

Tree = Any
"""Any tree of arrays: parameters, or a batch."""

Loss = Callable[[Tree, Tree], jax.Array]


def language_metric(
    per_example_loss: Callable, batch: Any, microbatch: int | None = None
) -> jax.tree_util.Partial:
    """The metric (params, initial) -> [] float: minus the mean loss over the batch.

    Args:
        per_example_loss: (params, batch) -> [N] float.
        batch: a tree of arrays [N, ...], such as `text_batch` makes.
        microbatch: texts at a time, to bound memory; the value does not depend on it.

    Raises:
        DpgError: arrays that disagree on N, N = 0, microbatch below 1.
    """
    sizes = {np.shape(x)[0] if np.ndim(x) else None for x in jax.tree.leaves(batch)}
    if len(sizes) != 1 or None in sizes or 0 in sizes:
        shapes = [np.shape(x) for x in jax.tree.leaves(batch)]
        raise DpgError(f"the texts' arrays have shapes {shapes}; expected arrays [N, ...], N >= 1")
    if microbatch is not None and microbatch < 1:
        raise DpgError(f"microbatch = {microbatch}; expected an integer of at least 1")
    return jax.tree_util.Partial(_score, per_example_loss, batch, microbatch)


def _score(
    per_example_loss: Loss, batch: Tree, microbatch: int | None, params: Tree, initial: Tree
) -> jax.Array:
    del initial
    size = jax.tree.leaves(batch)[0].shape[0]
    if microbatch is None or microbatch >= size:
        return -jnp.mean(per_example_loss(params, batch))
    return -_summed(microbatch, jax.tree_util.Partial(per_example_loss), batch, params) / size


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _summed(microbatch: int, per_example_loss: Loss, batch: Tree, params: Tree) -> jax.Array:
    """The sum of a batch's losses, `microbatch` texts at a time."""
    return _over_pieces(lambda p: jnp.sum(per_example_loss(params, p)), batch, microbatch)


def _summed_forward(
    microbatch: int, per_example_loss: Loss, batch: Tree, params: Tree
) -> tuple[jax.Array, Tree]:
    # The gradient is computed together with the value, piece by piece. So only one piece's
    # activations are in memory, and none are computed twice.
    piece = jax.value_and_grad(lambda params, p: jnp.sum(per_example_loss(params, p)))
    return _over_pieces(lambda p: piece(params, p), batch, microbatch)


def _summed_backward(
    microbatch: int, gradient: Tree, cotangent: jax.Array
) -> tuple[None, None, Tree]:
    return None, None, jax.tree.map(lambda g: (cotangent * g).astype(g.dtype), gradient)


_summed.defvjp(_summed_forward, _summed_backward)


def _over_pieces(function: Callable[[Tree], Tree], batch: Tree, microbatch: int) -> Tree:
    """The sum of `function` over pieces of a batch, the last of which may be smaller."""
    size = jax.tree.leaves(batch)[0].shape[0]
    whole = size // microbatch * microbatch
    cut = jax.tree.map(lambda x: x[:whole].reshape(-1, microbatch, *x.shape[1:]), batch)
    first = jax.tree.map(lambda x: x[0], cut)
    zero = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(function, first))
    total, _ = jax.lax.scan(
        lambda total, piece: (jax.tree.map(jnp.add, total, function(piece)), None), zero, cut
    )
    if whole < size:
        rest = function(jax.tree.map(lambda x: x[whole:], batch))
        total = jax.tree.map(jnp.add, total, rest)
    return total


def text_batch(
    encode: Callable[[str], Sequence[int]],
    texts: Sequence[str],
    *,
    length: int | None = None,
    bos_id: int | None = None,
) -> dict[str, np.ndarray]:
    """Texts as a batch for a target model: {"tokens": int32 [N, L], "mask": bool [N, L]}.

    Args:
        encode: text to token ids, without special tokens.
        texts: the passages, or one string in a list.
        length: L; default that of the longest text. A longer text is an error. It is never cut,
            since a passage of LAMBADA is scored on its last word.
        bos_id: put before every text, if given.

    Raises:
        DpgError: no texts, a text of fewer than 2 tokens, or a text longer than `length`. The error
            names the text's index.
    """
    start = [] if bos_id is None else [bos_id]
    return _batch([start + list(encode(text)) for text in texts], length)


def _batch(rows: Sequence[Sequence[int]], length: int | None) -> dict[str, np.ndarray]:
    """Rows of token ids as a batch; arguments and errors are those of `text_batch`."""
    if not rows:
        raise DpgError("no texts given; expected at least one")
    longest = max(map(len, rows))
    if length is None:
        length = longest
    for i, row in enumerate(rows):
        if len(row) < 2:
            raise DpgError(f"text {i} has {len(row)} token(s); a loss needs at least 2")
        if len(row) > length:
            raise DpgError(
                f"text {i} has {len(row)} tokens, more than {length}: raise the length "
                f"(the longest has {longest}) or leave the text out"
            )
    tokens, mask = np.zeros((len(rows), length), np.int32), np.zeros((len(rows), length), bool)
    for i, row in enumerate(rows):
        tokens[i, : len(row)] = row
        mask[i, : len(row)] = True
    return {"tokens": tokens, "mask": mask}


def last_word_batch(
    encode: Callable[[str], Sequence[int]],
    passages: Sequence[tuple[str, str]],
    *,
    context: int | None = None,
    bos_id: int | None = None,
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Passages as a batch, and which of its tokens belong to a passage's last word.

    Args:
        encode: text to token ids, without special tokens.
        passages: pairs: the text before the last word, and the last word with the blank before it.
            The two are tokenised separately.
        context: the most tokens of a passage, begin-of-text included; the rest is cut off. A
            passage may then have no token of its last word left. None cuts nothing.
        bos_id: put before every passage, if given.

    Returns:
        The batch, as `text_batch` makes it, and bool [N, L], True for tokens of a last word.

    Raises:
        DpgError: no passages, a passage of fewer than 2 tokens, or `context` cuts off the last word
            of every passage.
    """
    start = [] if bos_id is None else [bos_id]
    before = [start + list(encode(head)) for head, _ in passages]
    rows = [
        (first + list(encode(word)))[:context]
        for first, (_, word) in zip(before, passages, strict=True)
    ]
    batch = _batch(rows, None)
    places = np.arange(batch["tokens"].shape[1])
    scored = batch["mask"] & (places >= np.array([len(first) for first in before])[:, None])
    if not scored.any():
        raise DpgError(
            f"none of the {len(passages)} passages keeps a token of its last word within {context} "
            "tokens; raise metric.context, or write null"
        )
    return batch, scored


def weighted_tokens(
    batch: dict[str, np.ndarray],
    scored: np.ndarray | None = None,
    *,
    positions: int | None = None,
) -> dict[str, np.ndarray]:
    """A batch with `weights` float32 [N, L], the factor of each token's loss.

    Args:
        batch: as `text_batch` makes it.
        scored: bool [N, L], the tokens that count; None for all tokens. A text's first token never
            counts, since nothing predicts it.
        positions: the sum of a text's losses is divided by this number; None for the number of
            tokens that count (a text without any has a loss of 0).
    """
    counted = batch["mask"] if scored is None else scored.copy()
    counted = counted & (np.arange(counted.shape[1]) > 0)  # nothing precedes the first token
    divisor = np.maximum(counted.sum(1, keepdims=True), 1) if positions is None else positions
    return {**batch, "weights": (counted / divisor).astype(np.float32)}
