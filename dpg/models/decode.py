"""Sampling from a language model: prefill and cached decoding in one compiled program."""

import math
import operator
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpg.errors import DpgError
from dpg.models import prefix
from dpg.models.layers import Array, wide
from dpg.models.model import LanguageModel, head

Place = Callable[[Any], Any]


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
    group_size: int = 1,
    batch_size: int | None = None,
    place: Place = lambda arrays: arrays,
) -> Rollouts:
    """Sample `group_size` responses a prompt; those of a prompt stand together.

    A prompt is read once, and its keys and values are kept once, for all its responses. Row i's
    sample depends on `key` and i alone: a row may be drawn in a batch of any size. Equal shapes
    share one compiled program; the temperature and the end-of-text id are arguments of it.

    Args:
        model: the generator.
        params: its parameters.
        prompts: int32 [U, P], padded on the LEFT; N = U * group_size.
        prompt_mask: bool [U, P], true on the prompt's own tokens.
        key: a key of `jax.random`.
        response_tokens: R, the most tokens a response may have.
        temperature: the logits are divided by it; 0 takes the most probable token.
        eos_id: the token that ends a response; None to always write R tokens.
        min_tokens: the end of text is not drawn before a row has so many tokens. The reported
            log-probabilities stay those of the distribution without this rule, which is what
            `token_logprobs` gives for the same tokens.
        group_size: G, the responses to each prompt.
        batch_size: rows at a time, to bound the memory of the cache; all at once where None. It
            is rounded to whole prompts: down, but to no less than one.
        place: puts a tree of arrays, one row a prompt or a response, where its rows are to be
            computed, such as on several devices that hold the parameters.

    Raises:
        DpgError: prompts and responses that do not fit the context, a row without a token or not
            padded on the left (the row is named), a negative temperature, an empty batch.
    """
    prompts, prompt_mask = np.asarray(prompts, np.int32), np.asarray(prompt_mask, bool)
    _check(model, prompts, prompt_mask, response_tokens, temperature, group_size, batch_size)
    U, G = len(prompts), group_size
    size = U if batch_size is None else min(max(batch_size // G, 1), U)
    parts = []
    for start in range(0, U, size):
        # The last batch is filled up with prompts from its front, so that it needs no program of
        # its own; `real` lets their rows end at once.
        index = np.resize(np.arange(start, min(start + size, U), dtype=np.int32), size)
        real = np.repeat(np.arange(start, start + size) < U, G)
        rows = (index[:, None] * G + np.arange(G, dtype=np.int32)).ravel()
        asked, asked_mask, rows, live = place((prompts[index], prompt_mask[index], rows, real))
        part = _generate(
            model,
            response_tokens,
            temperature == 0,
            params,
            asked,
            asked_mask,
            key,
            rows,
            live,
            np.float32(temperature or 1.0),
            np.int32(-1 if eos_id is None else eos_id),
            np.int32(min_tokens),
        )
        parts.append(part if real.all() else jax.tree.map(operator.itemgetter(real), part))
    return parts[0] if len(parts) == 1 else jax.tree.map(lambda *x: jnp.concatenate(x), *parts)


def compiled(
    model: LanguageModel,
    params: dict,
    *,
    prompts: int,
    prompt_tokens: int,
    response_tokens: int,
    group_size: int,
) -> jax.stages.Compiled:
    """The program of `generate` for so many prompts at a time, to ask it what memory it needs.

    Args:
        model: the generator.
        params: its parameters, or their shapes.
        prompts, prompt_tokens, response_tokens, group_size: U, P, R and G.
    """
    U, P, N = prompts, prompt_tokens, prompts * group_size
    shape = jax.ShapeDtypeStruct
    number = shape((), jnp.int32)
    return _generate.lower(
        model, response_tokens, False, params, shape((U, P), jnp.int32), shape((U, P), bool),
        jax.eval_shape(jax.random.key, 0), shape((N,), jnp.int32), shape((N,), bool),
        shape((), jnp.float32), number, number,
    ).compile()  # fmt: skip


def _check(
    model: LanguageModel,
    prompts: np.ndarray,
    mask: np.ndarray,
    response_tokens: int,
    temperature: float,
    group_size: int,
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
    if group_size < 1:
        raise DpgError(f"group_size is {group_size}; a prompt has at least one response")
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
    """`generate` for one batch; `rows` [B] are its rows' numbers, `real` false on rows to ignore.

    A layer's cache is [U, K * G, R, d], the responses' own keys or values, beside the prompts'
    [U, K, P, d], which the G responses of a prompt read together; with one response a prompt both
    are one cache, [U, K, P + R, d].
    """
    config, family = model.config, model.family
    B, (U, P) = len(rows), prompts.shape
    G = B // U
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)

    def choose(hidden: Array, step: Array) -> tuple[Array, Array]:
        logits = _logits(params, hidden)
        forbidden = jnp.where(step < min_tokens, eos, -1)
        if greedy:
            allowed = jnp.where(jnp.arange(logits.shape[-1]) == forbidden, -jnp.inf, logits)
            token = jnp.argmax(allowed, axis=-1).astype(jnp.int32)
            return token, _chosen(logits, token) - jax.nn.logsumexp(logits, axis=-1)
        numbers = jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, step), (2,)))(keys)
        return sample(logits, numbers, temperature, forbidden)

    before = prefix.read(model, params, prompts, prompt_mask)
    layers, prompt = _unstack(params["layers"]), _unstack((before.keys, before.values))
    lengths = jnp.repeat(before.lengths, G)
    token, logprob = choose(jnp.repeat(before.hidden, G, axis=0), jnp.int32(0))
    rollouts = Rollouts(
        jnp.full((R, B), jnp.maximum(eos, 0), jnp.int32).at[0].set(token),
        jnp.zeros((R, B), bool).at[0].set(real),
        jnp.zeros((R, B), logprob.dtype).at[0].set(logprob),
    )
    if G > 1:
        _, K, _, d = prompt[0][0].shape
        own = jnp.zeros((U, K * G, R, d), before.keys.dtype)
        cache, first = tuple((own, own) for _ in layers), 0
    else:
        room = ((0, 0), (0, 0), (0, R), (0, 0))
        cache = tuple(tuple(jnp.pad(x, room) for x in pair) for pair in prompt)
        prompt, first = [None] * len(layers), P

    def unfinished(carry: Any) -> Array:
        step, _, running, _, _ = carry
        return (step < R) & running.any()

    def write(carry: Any) -> Any:
        step, token, running, rollouts, cache = carry
        # Of the token written last, whose keys and values are still to come.
        slot, positions = first + step - 1, (lengths + step - 1)[:, None]
        written = jnp.broadcast_to(jnp.arange(R) < step, (U, R))
        allowed = jnp.concatenate([prompt_mask, written], axis=-1)
        rotary = family.rotary(config, positions)
        x = family.embed(config, params, token[:, None], positions)
        new_cache = []
        for layer, shared, own in zip(layers, prompt, cache, strict=True):

            def attend(q, k, v, shared=shared, own=own):
                now = tuple(
                    jax.lax.dynamic_update_slice_in_dim(cached, _by_prompt(new, U), slot, 2)
                    for cached, new in zip(own, (k, v), strict=True)
                )
                return _attend_to_cache(q, *now, allowed, shared), now

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


def _logits(params: dict, hidden: Array) -> Array:
    """Logits [B, V] in float32 at least: half-precision products are added up and kept in it.

    Rounded to bfloat16, logits of 20 would be multiples of an eighth.
    """
    if hidden.dtype.itemsize > 2:
        return wide(head(params, hidden))
    matrix, spec = (
        (params["lm_head"], "bd,dv->bv") if "lm_head" in params else (params["embed"], "bd,vd->bv")
    )
    return jnp.einsum(spec, hidden, matrix, preferred_element_type=jnp.float32)


def _by_prompt(x: Array, U: int) -> Array:
    """One token's keys or values [U * G, 1, K, d] as the caches have them, [U, K * G, 1, d]."""
    *_, K, d = x.shape
    return x.reshape(U, -1, K, d).swapaxes(1, 2).reshape(U, -1, 1, d)


def _attend_to_cache(
    q: Array, k: Array, v: Array, allowed: Array, shared: tuple[Array, Array] | None
) -> Array:
    """Softmax attention of one token a row to what precedes it.

    The products are written as XLA on CPU takes them for products of matrices; contracted as in
    `dpg.models.layers.attention`, that with the values becomes a plain loop, which took a third of
    a rollout.

    Args:
        q: [B, 1, H, d]; B = U * G.
        k, v: [U, K * G, S, d], a row's own.
        allowed: bool [U, P + S], or [U, S] where nothing is shared.
        shared: keys and values [U, K, P, d] that stand before those of all G rows, or None.

    Returns:
        [B, 1, H * d].
    """
    B, _, H, d = q.shape
    U, KG, S, _ = k.shape
    G = B // U
    K = KG // G
    q = q.reshape(U, G, K, H // K, d).swapaxes(1, 2) * d**-0.5
    together, q = q.reshape(U, K, -1, d), q.reshape(U, KG, -1, d)
    scores = jnp.einsum("uxhd,uxsd->uxhs", q, k)
    if shared is not None:
        first = jnp.einsum("ukhd,ukpd->ukhp", together, shared[0])
        scores = jnp.concatenate([first.reshape(*q.shape[:-1], -1), scores], axis=-1)
    scores = wide(scores)
    scores = jnp.where(allowed[:, None, None], scores, np.finfo(scores.dtype).min / 2)
    probabilities = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out = jnp.einsum("uxhs,uxsd->uxhd", probabilities[..., -S:], v)
    if shared is not None:
        first = probabilities[..., :-S].reshape(*together.shape[:-1], -1)
        out += jnp.einsum("ukhp,ukpd->ukhd", first, shared[1]).reshape(out.shape)
    return out.reshape(U, K, G, -1).swapaxes(1, 2).reshape(B, 1, H * d)


def sample(
    logits: Array,
    numbers: Array,
    temperature: Array | float = 1.0,
    forbidden: Array | int = -1,
) -> tuple[Array, Array]:
    """Draw one token a row by inverting the distribution function, in two stages.

    The vocabulary is cut into about sqrt(V) blocks of as many tokens: one uniform number picks
    the block, another the token in it. So a row costs two random numbers and two short running
    sums in place of V Gumbel variables, and rare tokens keep their probability to float32's
    relative precision.

    Args:
        logits: float [B, V].
        numbers: float [B, 2], uniform on [0, 1).
        temperature: the logits are divided by it.
        forbidden: a token that is not drawn; -1 for none.

    Returns:
        tokens int32 [B] and their log-probabilities [B], those of the distribution in which
        nothing is forbidden.
    """
    B, V = logits.shape
    width = _block_width(V)
    top = logits.max(-1, keepdims=True)
    # The softmax's numerators, in one pass over the logits; zero on what may not be drawn.
    masses = jnp.where(jnp.arange(V) != forbidden, jnp.exp((logits - top) / temperature), 0)
    masses = jnp.pad(masses, ((0, 0), (0, -V % width))).reshape(B, -1, width)
    sums = masses.sum(-1)
    block, total = _invert(sums, numbers[:, 0])
    inside = jnp.take_along_axis(masses, block[:, None, None], axis=1)[:, 0]
    token = block * width + _invert(inside, numbers[:, 1])[0]
    left_out = jnp.exp((logits[:, jnp.maximum(forbidden, 0)] - top[:, 0]) / temperature)
    total += jnp.where(forbidden >= 0, left_out, 0)
    return token, (_chosen(logits, token) - top[:, 0]) / temperature - jnp.log(total)


def _block_width(V: int) -> int:
    """Tokens a block: the least divisor of V from sqrt(V) to twice that, or sqrt(V) rounded up."""
    root = math.isqrt(V - 1) + 1
    return next((width for width in range(root, 2 * root) if V % width == 0), root)


def _invert(masses: Array, number: Array) -> tuple[Array, Array]:
    """The first index at which the running sum exceeds number times the total, and the total.

    int32 [B] and float [B]. An index without mass is never taken, whatever the rounding.
    """
    sums = jnp.cumsum(masses, axis=-1)
    hit = (sums > number[:, None] * sums[:, -1:]) & (masses > 0)
    index = jnp.where(hit.any(-1), hit.argmax(-1), masses.argmax(-1)).astype(jnp.int32)
    return index, sums[:, -1]


def _chosen(logits: Array, token: Array) -> Array:
    return jnp.take_along_axis(logits, token[:, None], axis=-1)[:, 0]


def _unstack(tree: Any) -> list:
    """A tree of arrays with a leading axis as a list of trees without it."""
    leaves, structure = jax.tree.flatten(tree)
    return [structure.unflatten([leaf[i] for leaf in leaves]) for i in range(leaves[0].shape[0])]
