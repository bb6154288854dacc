"""Sampling from a language model: prefill and cached decoding in one compiled program."""

import math
import operator
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from dpg.errors import DpgError
from dpg.models import prefix
from dpg.models.cache import Cache
from dpg.models.layers import Array, wide
from dpg.models.model import LanguageModel, head
from dpg.models.sampling import any_of, chosen, log_share, none_of, sample

Place = Callable[[Any], Any]

Ends = int | Sequence[int] | None
"""The ids that end a response: one, several, or none at all."""


class Rollouts(NamedTuple):
    """The sampled responses: N rows of R tokens, without the prompts.

    Attributes:
        tokens: int32 [N, R]; after a row's end the first end-of-text id (0 if there is none).
        mask: bool [N, R], true up to and including the end of text.
        logprobs: float32 [N, R], log-probability of each token at the sampling temperature (at
            temperature 1 for greedy decoding), over all ids; 0 where the mask is false.
    """

    tokens: Array
    mask: Array
    logprobs: Array


def generate(
    model: LanguageModel,
    params: dict,
    prompts: Array | np.ndarray,
    prompt_mask: Array | np.ndarray,
    key: Array,
    *,
    response_tokens: int,
    temperature: float,
    eos_id: Ends,
    min_tokens: int = 0,
    group_size: int = 1,
    batch_size: int | None = None,
    lengths: Sequence[int] = (),
    place: Place = lambda arrays: arrays,
) -> Rollouts:
    """Sample `group_size` responses per prompt; the responses of a prompt are adjacent rows.

    A prompt is read once, and its keys and values are kept once, for all its responses. The random
    numbers of row i depend on `key` and i alone, for any batch size. Calls with equal shapes share
    one compiled program; the temperature and the end-of-text ids are arguments of it.

    Ids that the tokenizer does not know (`LanguageModel.known`) are never sampled. The reported
    log-probabilities are still those of the distribution over all ids, as in `token_logprobs`.

    Args:
        model: the generator.
        params: its parameters.
        prompts: int32 [U, P], padded on the LEFT; N = U * group_size.
        prompt_mask: bool [U, P], true on the prompt's own tokens.
        key: a key of `jax.random`.
        response_tokens: R, the most tokens of a response.
        temperature: the logits are divided by it; 0 takes the most probable token.
        eos_id: the token that ends a response, or several of them; None to always write R tokens.
        min_tokens: no end of text is sampled before a row has this number of tokens. The reported
            log-probabilities are still those of the distribution without this rule, as in
            `token_logprobs`.
        group_size: G, the responses per prompt.
        batch_size: rows at a time, to bound the memory of the cache; None for all at once. It is
            rounded down to whole prompts, but to at least one.
        lengths: what prompts may be padded to while they are read, ascending. With several, prompts
            are sorted by their length and read in pieces (`dpg.models.prefix.read`). The results
            differ by rounding.
        place: moves a tree of arrays, with one row per prompt or response, to the devices that
            compute the rows.

    Raises:
        DpgError: prompts and responses that do not fit the context; a row without a token or not
            padded on the left (the error names it); a negative temperature; an empty batch; a
            group or batch size below 1.
    """
    tokens, mask = np.asarray(prompts, np.int32), np.asarray(prompt_mask, bool)
    _check(model, tokens, mask, response_tokens, temperature, group_size, batch_size)
    ends = _ends(eos_id)
    U, G = len(tokens), group_size
    size = prompts_at_once(U, G, batch_size)
    several = _several(lengths, tokens.shape[1])
    order = np.argsort(mask.sum(1), kind="stable") if several else np.arange(U)
    order = order.astype(np.int32)
    parts = []
    for start in range(0, U, size):
        # The last batch is filled with copies of its first prompts, so that it has the shape of the
        # others and shares their program. `real` is False for the copies, so they end at once.
        index = np.resize(order[start : start + size], size)
        real = np.repeat(np.arange(start, start + size) < U, G)
        rows = _rows(index, G)
        asked, asked_mask, rows, live = place((tokens[index], mask[index], rows, real))
        part = _generate(
            model,
            response_tokens,
            temperature == 0,
            several,
            params,
            asked,
            asked_mask,
            key,
            rows,
            live,
            np.float32(temperature or 1.0),
            ends,
            np.int32(min_tokens),
        )
        parts.append(part if real.all() else jax.tree.map(operator.itemgetter(real), part))
    found = parts[0] if len(parts) == 1 else jax.tree.map(lambda *x: jnp.concatenate(x), *parts)
    if not several:
        return found
    return jax.tree.map(operator.itemgetter(_rows(np.argsort(order), G)), found)


def _rows(prompts: np.ndarray, group_size: int) -> np.ndarray:
    """The numbers of the rows that answer these prompts, from the prompts' numbers."""
    return (prompts[:, None] * group_size + np.arange(group_size, dtype=np.int32)).ravel()


def prompts_at_once(prompts: int, group_size: int, batch_size: int | None) -> int:
    """The number of prompts whose responses `generate` samples at a time."""
    return prompts if batch_size is None else min(max(batch_size // group_size, 1), prompts)


def compiled(
    model: LanguageModel,
    params: dict,
    *,
    prompts: int,
    prompt_tokens: int,
    response_tokens: int,
    group_size: int,
    greedy: bool = False,
    eos_id: Ends = None,
    lengths: Sequence[int] = (),
) -> jax.stages.Compiled:
    """The compiled program of `generate` for this number of prompts at a time.

    It tells how much memory it needs. `generate` reuses it for the same shapes and choices.

    Args:
        model: the generator.
        params: its parameters, or their shapes.
        prompts, prompt_tokens, response_tokens, group_size: U, P, R and G.
        greedy: whether the temperature is 0.
        eos_id: as for `generate`; only the number of ids matters.
        lengths: as for `generate`.
    """
    U, P, N = prompts, prompt_tokens, prompts * group_size
    shape = jax.ShapeDtypeStruct
    number = shape((), jnp.int32)
    return _generate.lower(
        model, response_tokens, greedy, _several(lengths, P), params, shape((U, P), jnp.int32),
        shape((U, P), bool), jax.eval_shape(jax.random.key, 0), shape((N,), jnp.int32),
        shape((N,), bool),
        shape((), jnp.float32), shape(_ends(eos_id).shape, jnp.int32), number,
    ).compile()  # fmt: skip


def _several(lengths: Sequence[int], longest: int) -> tuple[int, ...]:
    """The lengths below the longest, and the longest; empty if there are none below."""
    below = tuple(length for length in lengths if length < longest)
    return (*below, longest) if below else ()


def _ends(eos_id: Ends) -> np.ndarray:
    """The ends of a response as an int32 array: [] for one id or none (-1), [E] for several.

    A single id is not an array [1], so that its program does not pay for the general case.
    """
    ids = [eos_id] if isinstance(eos_id, int | np.integer) else list(dict.fromkeys(eos_id or ()))
    if len(ids) > 1:
        return np.array(ids, np.int32)
    return np.array(ids[0] if ids else -1, np.int32)


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


@partial(jax.jit, static_argnums=(0, 1, 2, 3))
def _generate(
    model: LanguageModel,
    R: int,
    greedy: bool,
    lengths: tuple[int, ...],
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
    """`generate` for one batch. `rows` [B] are its row numbers; `real` [B] is False for fillers."""
    config, family = model.config, model.family
    B, U = len(rows), len(prompts)
    G = B // U
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, rows)

    def choose(hidden: Array, step: Array) -> tuple[Array, Array]:
        logits = _logits(params, hidden)
        known = logits[:, : model.known]
        forbidden = jnp.where(step < min_tokens, eos, -1)
        if greedy:
            allowed = jnp.where(any_of(jnp.arange(known.shape[-1]), forbidden), -jnp.inf, known)
            token = jnp.argmax(allowed, axis=-1).astype(jnp.int32)
            return token, chosen(logits, token) - jax.nn.logsumexp(logits, axis=-1)
        numbers = jax.vmap(lambda k: jax.random.uniform(jax.random.fold_in(k, step), (2,)))(keys)
        token, logprob = sample(known, numbers, temperature, forbidden)
        if known.shape != logits.shape:
            logprob += log_share(known, logits, temperature)
        return token, logprob

    before = prefix.read(model, params, prompts, prompt_mask, lengths)
    cache = Cache.after(before, params["layers"], R, G)
    prompt_lengths = jnp.repeat(before.lengths, G)
    token, logprob = choose(jnp.repeat(before.hidden, G, axis=0), jnp.int32(0))
    rollouts = Rollouts(
        jnp.full((R, B), _filler(eos), jnp.int32).at[0].set(token),
        jnp.zeros((R, B), bool).at[0].set(real),
        jnp.zeros((R, B), logprob.dtype).at[0].set(logprob),
    )

    def unfinished(carry: Any) -> Array:
        step, _, running, _, _ = carry
        return (step < R) & running.any()

    def write(carry: Any) -> Any:
        step, token, running, rollouts, own = carry
        # The position of the token written last, whose keys and values are not yet in the cache.
        positions = (prompt_lengths + step - 1)[:, None]
        written = jnp.broadcast_to(jnp.arange(R) < step, (U, R))
        allowed = jnp.concatenate([prompt_mask, written], axis=-1)[:, None]
        rotary = family.rotary(config, positions)
        x = family.embed(config, params, token[:, None], positions)
        block = partial(family.block, config)
        x, own = cache.read_on(block, x, rotary, own, step - 1, allowed)
        x = family.final_norm(config, params, x)[:, 0]
        token, logprob = choose(x, step)
        token = jnp.where(running, token, _filler(eos))
        rollouts = Rollouts(
            rollouts.tokens.at[step].set(token),
            rollouts.mask.at[step].set(running),
            rollouts.logprobs.at[step].set(jnp.where(running, logprob, 0)),
        )
        return step + 1, token, running & none_of(token, eos), rollouts, own

    start = (jnp.int32(1), token, real & none_of(token, eos), rollouts, cache.own)
    _, _, _, rollouts, _ = jax.lax.while_loop(unfinished, write, start)
    return Rollouts(*(x.T for x in rollouts))


def _filler(ends: Array) -> Array:
    """The token after a row's end: the first id that ends a response, or 0."""
    return jnp.maximum(ends[0] if ends.ndim else ends, 0)


def _logits(params: dict, hidden: Array) -> Array:
    """Logits [B, V] in float32 or wider; half-precision products are accumulated in float32.

    In bfloat16, logits near 20 would be rounded to multiples of 1/8.
    """
    if hidden.dtype.itemsize > 2:
        return wide(head(params, hidden))
    matrix, spec = (
        (params["lm_head"], "bd,dv->bv") if "lm_head" in params else (params["embed"], "bd,vd->bv")
    )
    return jnp.einsum(spec, hidden, matrix, preferred_element_type=jnp.float32)
