"""Read each prompt once for all its responses.

GRPO samples G responses per prompt, and the paper's prompts are eight times as long as its
responses (Tables 7 to 13). The prompt's keys and values do not depend on the response, so they are
computed once per prompt, both in sampling and in the update. The gradients of all responses flow
back through them.

Shapes: U prompts of P tokens, G responses per prompt, N = U * G rows of R tokens. The G rows of a
prompt are adjacent.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from dpg.models.layers import (
    UNROLLED_LAYERS,
    Array,
    attention,
    attention_of_groups,
    by_prompt,
    causal,
    heads_first,
    positions_of,
    through_layers,
)
from dpg.models.model import LanguageModel


class Prefix(NamedTuple):
    """The part of the prompts' computation that later tokens need.

    Attributes:
        hidden: [U, D], the head's input for predicting the first response token.
        keys, values: [layers, U, K, P, d].
        mask: bool [U, P], true on the prompts' own tokens.
        lengths: int32 [U], the number of own tokens, which is the position of the first response
            token.
    """

    hidden: Array
    keys: Array
    values: Array
    mask: Array
    lengths: Array


def read(
    model: LanguageModel,
    params: dict,
    prompts: Array,
    mask: Array,
    lengths: tuple[int, ...] = (),
) -> Prefix:
    """Read prompts int32 [U, P], padded on the LEFT; mask bool [U, P], true on their own tokens.

    With several `lengths`, ascending and at most P, prompts are read in pieces, each padded to the
    shortest length that holds it. Prompts that are sorted by their length then cost little padding.
    """
    U, P = prompts.shape
    pieces = _pieces(U)
    if len(lengths) < 2 or pieces == 1:
        return _read(model, params, prompts, mask)

    def padded(length: int, prompts: Array, mask: Array) -> tuple[Array, Array, Array]:
        found = _read(model, params, prompts[:, P - length :], mask[:, P - length :])
        room = [(0, 0)] * 3 + [(P - length, 0), (0, 0)]
        return found.hidden, jnp.pad(found.keys, room), jnp.pad(found.values, room)

    def piece(given: tuple[Array, Array]) -> tuple[Array, Array, Array]:
        return at_length(lengths, given[1], padded, *given)

    cut = tuple(x.reshape(pieces, -1, P) for x in (prompts, mask))
    hidden, *pairs = jax.lax.map(piece, cut)
    keys, values = (x.swapaxes(0, 1).reshape(x.shape[1], U, *x.shape[3:]) for x in pairs)
    return Prefix(hidden.reshape(U, -1), keys, values, mask, mask.sum(-1, dtype=jnp.int32))


def at_length(
    lengths: tuple[int, ...], mask: Array, function: Callable[..., Any], *given: Any
) -> Any:
    """`function(length, *given)` for the shortest of the lengths that holds every row of a mask.

    Args:
        lengths: ascending; the last holds every row.
        mask: bool [U, P], true on the rows' own tokens.
        function: is compiled once for each length; its results have one shape.
    """
    which = jnp.searchsorted(jnp.array(lengths), mask.sum(1).max())
    return jax.lax.switch(which, [partial(function, length) for length in lengths], *given)


def _pieces(prompts: int) -> int:
    """The number of equal pieces that prompts are read in: at most 8, of at least 4 prompts.

    More pieces need less padding, but products of few prompts leave cores or a GPU idle.
    """
    return max(n for n in range(1, 9) if prompts % n == 0 and (n == 1 or prompts // n >= 4))


def _read(model: LanguageModel, params: dict, prompts: Array, mask: Array) -> Prefix:
    config, family = model.config, model.family
    positions, allowed = positions_of(mask), causal(prompts.shape[1]) & mask[:, None]
    rotary = family.rotary(config, positions)

    def attend(q: Array, k: Array, v: Array) -> tuple[Array, tuple[Array, Array]]:
        k, v = heads_first(k, v)
        return attention(q, k, v, allowed), (k, v)

    def block(x: Array, layer: dict) -> tuple[Array, tuple[Array, Array]]:
        return family.block(config, layer, x, rotary, attend)

    x = family.embed(config, params, prompts, positions)
    x, (keys, values) = through_layers(block, x, params["layers"], model.remat)
    hidden = family.final_norm(config, params, x[:, -1:])[:, 0]
    return Prefix(hidden, keys, values, mask, mask.sum(-1, dtype=jnp.int32))


def response_hidden(model: LanguageModel, params: dict, prefix: Prefix, tokens: Array) -> Array:
    """The head's input for predicting each response token: [N, R, D] from tokens int32 [N, R].

    Rows that end early are padded on the right; the results at padding are meaningless.
    """
    config, family = model.config, model.family
    N, R = tokens.shape
    G = N // len(prefix.mask)
    first = jnp.repeat(prefix.hidden, G, axis=0)[:, None]
    if R == 1:
        return first
    tokens = tokens[:, :-1]  # the last token predicts nothing
    positions = jnp.repeat(prefix.lengths, G)[:, None] + jnp.arange(R - 1, dtype=jnp.int32)
    rotary = family.rotary(config, positions)
    attend_to_both = _response_attention(
        prefix.mask, R - 1, G, deep=config.layers > UNROLLED_LAYERS
    )

    def block(x: Array, of_layer: tuple[dict, Array, Array]) -> tuple[Array, None]:
        layer, *before = of_layer

        def attend(q: Array, k: Array, v: Array) -> tuple[Array, None]:
            return attend_to_both(q, k, v, *before), None

        return family.block(config, layer, x, rotary, attend)

    x = family.embed(config, params, tokens, positions)
    layers = (params["layers"], prefix.keys, prefix.values)
    x, _ = through_layers(block, x, layers, model.remat)
    return jnp.concatenate([first, family.final_norm(config, params, x)], axis=1)


def _response_attention(mask: Array, L: int, G: int, *, deep: bool) -> Callable[..., Array]:
    """The attention of responses [U * G, L] to their prompt and themselves.

    In deep models the prompts' keys and values are read as they lie. In models of few layers they
    are repeated for every response, so that the kept runs of the miniature can be repeated to the
    last bit.

    Args:
        mask: bool [U, P], of the prompts.
        L, G: tokens, and responses per prompt.
        deep: whether the model has more layers than `UNROLLED_LAYERS`.

    Returns:
        A function of q, k, v [U * G, L, heads, d] and the prompts' keys and values [U, K, P, d],
        whose result is [U * G, L, H * d].
    """
    U, P = mask.shape
    if not deep:
        mask = jnp.repeat(mask, G, axis=0)
    N = len(mask)
    allowed = jnp.concatenate(
        [jnp.broadcast_to(mask[:, None], (N, L, P)), jnp.broadcast_to(causal(L), (N, L, L))],
        axis=-1,
    )

    def read_once(q: Array, k: Array, v: Array, keys: Array, values: Array) -> Array:
        k, v = by_prompt(k, U).swapaxes(-1, -2), by_prompt(v, U)
        return attention_of_groups(q, k, v, (keys.swapaxes(-1, -2), values), allowed)

    def repeated(q: Array, k: Array, v: Array, keys: Array, values: Array) -> Array:
        k, v = (
            jnp.concatenate([jnp.repeat(before, G, axis=0), own], axis=2)
            for before, own in zip((keys, values), heads_first(k, v), strict=True)
        )
        return attention(q, k, v, allowed)

    return read_once if deep else repeated
