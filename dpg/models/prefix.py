"""Read each prompt once for all its responses.

GRPO samples G responses per prompt, and the paper's prompts are eight times as long as its
responses (Tables 7 to 13). The prompt's keys and values do not depend on the response, so they are
computed once per prompt, both in sampling and in the update. The gradients of all responses flow
back through them.

Shapes: U prompts of P tokens, G responses per prompt, N = U * G rows of R tokens. The G rows of a
prompt are adjacent.
"""

from typing import NamedTuple

import jax.numpy as jnp

from dpg.models.layers import (
    Array,
    attention,
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


def read(model: LanguageModel, params: dict, prompts: Array, mask: Array) -> Prefix:
    """Read prompts int32 [U, P], padded on the LEFT; mask bool [U, P], true on their own tokens."""
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
    U, P = prefix.mask.shape
    G = N // U
    first = jnp.repeat(prefix.hidden, G, axis=0)[:, None]
    if R == 1:
        return first
    tokens = tokens[:, :-1]  # the last token predicts nothing
    positions = jnp.repeat(prefix.lengths, G)[:, None] + jnp.arange(R - 1, dtype=jnp.int32)
    rotary = family.rotary(config, positions)
    own = jnp.repeat(prefix.mask, G, axis=0)[:, None]
    allowed = jnp.concatenate(
        [jnp.broadcast_to(own, (N, R - 1, P)), jnp.broadcast_to(causal(R - 1), (N, R - 1, R - 1))],
        axis=-1,
    )

    def block(x: Array, of_layer: tuple[dict, Array, Array]) -> tuple[Array, None]:
        layer, *before = of_layer

        def attend(q: Array, k: Array, v: Array) -> tuple[Array, None]:
            k, v = (
                jnp.concatenate([jnp.repeat(b, G, axis=0), now], axis=2)
                for b, now in zip(before, heads_first(k, v), strict=True)
            )
            return attention(q, k, v, allowed), None

        return family.block(config, layer, x, rotary, attend)

    x = family.embed(config, params, tokens, positions)
    layers = (params["layers"], prefix.keys, prefix.values)
    x, _ = through_layers(block, x, layers, model.remat)
    return jnp.concatenate([first, family.final_norm(config, params, x)], axis=1)
