"""Sampling from a language model: prefill and cached decoding in one compiled program."""

import math
import operator
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpg.errors import DpgError
from dpg.models.layers import (
    Array,
    attention,
    causal,
    heads_first,
    positions_of,
    through_layers,
    wide,
)
from dpg.models.model import LanguageModel, head


class Rollouts(NamedTuple):
    """What a generator wrote, N rows of R response tokens (the prompts are not repeated).

    Attributes:
        tokens: int32 [N, R]; the end-of-text id after a row's end (0 where there is none).
        mask: bool [N, R], true up to and including the end of text.
        logprobs: float32 [N, R], log-probability of each token under the distribution that it was
            sampled from, zero where the mask is false. For greedy decoding, whose distribution
            would say nothing, those at temperature 1.
    """

    tokens: Array
    mask: Array
    logprobs: Array


def generate(
    model: LanguageModel,
    params: dict,
    prompts: Array,
    prompt_mask: Array,
    key: Array,
    *,
    response_tokens: int,
    temperature: float,
    eos_id: int | None,
    min_tokens: int = 0,
    batch_size: int | None = None,
) -> Rollouts:
    """Sample one response a row.

    Row i's sample depends on `key` and i alone: a row may be drawn in a batch of any size. Equal
    shapes share one compiled program; the temperature and the end-of-text id are arguments of it.

    Args:
        model: the generator.
        params: its parameters.
        prompts: int32 [N, P], padded on the LEFT.
        prompt_mask: bool [N, P], true on the prompt's own tokens.
        key: a key of `jax.random`.
        response_tokens: R, the most tokens a response may have.
        temperature: the logits are divided by it; 0 takes the most probable token.
        eos_id: the token that ends a response; None to always write R tokens.
        min_tokens: the end of text is not drawn before a row has so many tokens. The reported
            log-probabilities stay those of the distribution without this rule, which is what
            `token_logprobs` gives for the same tokens.
        batch_size: rows at a time, to bound the memory of the cache; all at once where None.

    Raises:
        DpgError: prompts and responses that do not fit the context, a row without a token or not
            padded on the left (the row is named), a negative temperature, an empty batch.
    """
    prompts, prompt_mask = np.asarray(prompts, np.int32), np.asarray(prompt_mask, bool)
    _check(model, prompts, prompt_mask, response_tokens, temperature, batch_size)
    N = prompts.shape[0]
    batch_size = min(batch_size or N, N)
    rows = np.arange(N, dtype=np.int32)
    parts = []
    for start in range(0, N, batch_size):
        chosen = rows[start : start + batch_size]
        # The last batch is filled up with copies of its first row, so that it needs no program of
        # its own; `real` lets the copies end at once.
        index = np.resize(chosen, batch_size) if len(chosen) < batch_size else chosen
        part = _generate(
            model,
            response_tokens,
            temperature == 0,
            params,
            prompts[index],
            prompt_mask[index],
            key,
            index,
            np.arange(batch_size) < len(chosen),
            np.float32(temperature or 1.0),
            np.int32(-1 if eos_id is None else eos_id),
            np.int32(min_tokens),
        )
        parts.append(jax.tree.map(operator.itemgetter(slice(len(chosen))), part))
    return parts[0] if len(parts) == 1 else jax.tree.map(lambda *x: jnp.concatenate(x), *parts)


def _check(
    model: LanguageModel,
    prompts: np.ndarray,
    mask: np.ndarray,
    response_tokens: int,
    temperature: float,
    batch_size: int | None,
) -> None:
    if prompts.ndim != 2 or prompts.shape != mask.shape or not prompts.size:
        raise DpgError(
            f"prompts {prompts.shape} and prompt_mask {mask.shape} must both be [rows, tokens], "
            "and not empty"
        )
    context = model.config.context
    if response_tokens < 1 or prompts.shape[1] + response_tokens > context:
        raise DpgError(
            f"{prompts.shape[1]} prompt tokens and {response_tokens} response tokens do not fit "
            f"the model's context of {context}; a response has at least one token"
        )
    if temperature < 0 or not math.isfinite(temperature):
        raise DpgError(f"temperature is {temperature}; it must be 0 (greedy) or above")
    if batch_size is not None and batch_size < 1:
        raise DpgError(f"batch_size is {batch_size}; it must be 1 or more")
    wrong = ~mask[:, -1] | (np.diff(mask.astype(np.int8), axis=1) < 0).any(1)
    if wrong.any():
        raise DpgError(
            f"prompt {int(np.flatnonzero(wrong)[0])} is empty or not padded on the left: its mask "
            "must be false on a first stretch and true up to the end"
        )


@partial(jax.jit, static_argnums=(0, 1, 2))
def _generate(
    model: LanguageModel,
    R: int,
    greedy: bool,
    params: dict,
    prompts: Array,
    prompt_mask: Array,
    key: Array,
    rows: Array,
    real: Array,
    temperature: Array,
    eos: Array,
    min_tokens: Array,
) -> Rollouts:
    """`generate` for one batch; `rows` are the rows' numbers, `real` false on rows to ignore."""
    config, family = model.config, model.family
    B, P = prompts.shape
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)
    lengths = prompt_mask.sum(-1, dtype=jnp.int32)
    layers = _unstack(params["layers"])

    def choose(hidden: Array, step: Array) -> tuple[Array, Array]:
        logits = wide(head(params, hidden)) / temperature
        forbidden = jnp.where(step < min_tokens, eos, -1)
        if greedy:
            allowed = jnp.where(jnp.arange(logits.shape[-1]) == forbidden, -jnp.inf, logits)
            token = jnp.argmax(allowed, axis=-1).astype(jnp.int32)
            return token, _chosen(logits, token) - jax.nn.logsumexp(logits, axis=-1)
        numbers = jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, step), (2,)))(keys)
        return sample(logits, numbers, forbidden)

    hidden, cache = _prefill(model, params, prompts, prompt_mask, R)
    token, logprob = choose(hidden, jnp.int32(0))
    rollouts = Rollouts(
        jnp.full((R, B), jnp.maximum(eos, 0), jnp.int32).at[0].set(token),
        jnp.zeros((R, B), bool).at[0].set(real),
        jnp.zeros((R, B), logprob.dtype).at[0].set(logprob),
    )
    own = jnp.pad(prompt_mask, ((0, 0), (0, R)))

    def unfinished(carry: Any) -> Array:
        step, _, running, _, _ = carry
        return (step < R) & running.any()

    def write(carry: Any) -> Any:
        step, token, running, rollouts, cache = carry
        slot = P + step - 1  # of the token written last, whose keys and values are still to come
        allowed = own | ((jnp.arange(P + R) >= P) & (jnp.arange(P + R) <= slot))
        positions = (lengths + step - 1)[:, None]
        rotary = family.rotary(config, positions)
        x = family.embed(config, params, token[:, None], positions)
        new_cache = []
        for layer, (keys_before, values_before) in zip(layers, cache, strict=True):

            def attend(q, k, v, before=(keys_before, values_before)):
                now = tuple(
                    jax.lax.dynamic_update_slice(b, n, (0, 0, slot, 0))
                    for b, n in zip(before, heads_first(k, v), strict=True)
                )
                return _attention_of_one(q, *now, allowed), now

            x, now = family.block(config, layer, x, rotary, attend)
            new_cache.append(now)
        x = family.final_norm(config, params, x)[:, 0]
        token, logprob = choose(x, step)
        token = jnp.where(running, token, jnp.maximum(eos, 0))
        rollouts = Rollouts(
            rollouts.tokens.at[step].set(token),
            rollouts.mask.at[step].set(running),
            rollouts.logprobs.at[step].set(jnp.where(running, logprob, 0)),
        )
        return step + 1, token, running & (token != eos), rollouts, tuple(new_cache)

    start = (jnp.int32(1), token, real & (token != eos), rollouts, cache)
    _, _, _, rollouts, _ = jax.lax.while_loop(unfinished, write, start)
    return Rollouts(*(x.T for x in rollouts))


def _prefill(
    model: LanguageModel, params: dict, prompts: Array, mask: Array, R: int
) -> tuple[Array, tuple[tuple[Array, Array], ...]]:
    """Read the prompts: the last hidden state [B, D], and each layer's keys and values.

    A cache is [B, K, P + R, d] a layer, the last R positions still empty.
    """
    config, family = model.config, model.family
    positions, allowed = positions_of(mask), causal(prompts.shape[1]) & mask[:, None]
    rotary = family.rotary(config, positions)

    def attend(q: Array, k: Array, v: Array) -> tuple[Array, tuple[Array, Array]]:
        k, v = heads_first(k, v)
        return attention(q, k, v, allowed), (k, v)

    def block(x: Array, layer: dict) -> tuple[Array, tuple[Array, Array]]:
        return family.block(config, layer, x, rotary, attend)

    x = family.embed(config, params, prompts, positions)
    x, cache = through_layers(block, x, params["layers"])
    room = ((0, 0), (0, 0), (0, 0), (0, R), (0, 0))
    keys, values = (jnp.pad(c, room) for c in cache)
    hidden = family.final_norm(config, params, x[:, -1:])[:, 0]
    return hidden, tuple(zip(_unstack(keys), _unstack(values), strict=True))


def _attention_of_one(q: Array, k: Array, v: Array, allowed: Array) -> Array:
    """`dpg.models.layers.attention` of one query a row: q [B, 1, H, d], allowed bool [B, S].

    The same numbers. Both products are laid out such that XLA on CPU takes them as products of
    matrices; as `attention` writes them, that of the values becomes a plain loop, which took a
    third of a rollout.
    """
    B, _, H, d = q.shape
    K = k.shape[1]
    q = q.reshape(B, K, H // K, d) * d**-0.5
    scores = wide(jnp.einsum("bkgd,bksd->bkgs", q, k))
    scores = jnp.where(allowed[:, None, None], scores, np.finfo(scores.dtype).min / 2)
    probabilities = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.einsum("bkgs,bksd->bkgd", probabilities, v).reshape(B, 1, H * d)


def sample(logits: Array, numbers: Array, forbidden: Array | int = -1) -> tuple[Array, Array]:
    """Draw one token a row by inverting the distribution function, in two stages.

    The vocabulary is cut into about sqrt(V) blocks of as many tokens: one uniform number picks
    the block, another the token in it. So a row costs two random numbers and two short running
    sums in place of V Gumbel variables, and rare tokens keep their probability to float32's
    relative precision.

    Args:
        logits: float [B, V], already divided by the temperature.
        numbers: float [B, 2], uniform on [0, 1).
        forbidden: a token that is not drawn; -1 for none.

    Returns:
        tokens int32 [B] and their log-probabilities [B], those of the distribution in which
        nothing is forbidden.
    """
    B, V = logits.shape
    width = math.isqrt(V - 1) + 1
    top = jax.lax.stop_gradient(logits.max(-1, keepdims=True))
    masses = jnp.exp(logits - top)
    drawn = jnp.arange(V) != forbidden
    left_out = jnp.where(drawn, 0, masses).sum(-1)
    masses = jnp.where(drawn, masses, 0)
    masses = jnp.pad(masses, ((0, 0), (0, -V % width))).reshape(B, -1, width)
    sums = masses.sum(-1)
    block = _invert(sums, numbers[:, 0])
    inside = jnp.take_along_axis(masses, block[:, None, None], axis=1)[:, 0]
    token = block * width + _invert(inside, numbers[:, 1])
    logprob = _chosen(logits, token) - top[:, 0] - jnp.log(sums.sum(-1) + left_out)
    return token, logprob


def _invert(masses: Array, number: Array) -> Array:
    """The first index at which the running sum exceeds number times the total: int32 [B].

    An index without mass is never taken, whatever the rounding of the sums.
    """
    sums = jnp.cumsum(masses, axis=-1)
    hit = (sums > number[:, None] * sums[:, -1:]) & (masses > 0)
    return jnp.where(hit.any(-1), hit.argmax(-1), masses.argmax(-1)).astype(jnp.int32)


def _chosen(logits: Array, token: Array) -> Array:
    return jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0]


def _unstack(tree: Any) -> list:
    """A tree of arrays with a leading axis as a list of trees without it."""
    leaves, structure = jax.tree.flatten(tree)
    return [structure.unflatten([leaf[i] for leaf in leaves]) for i in range(leaves[0].shape[0])]
