"""The update of a policy: GRPO's loss over all epochs and mini-batches, as one compiled program."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import replace
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import optax

from dpg.config import GeneratorSettings
from dpg.errors import DpgError
from dpg.generators.jax.grpo import PolicyLoss, policy_loss, token_weights
from dpg.learner import devices
from dpg.models import LanguageModel, prefix
from dpg.models.layers import target_nll, wide
from dpg.models.model import head

Result = TypeVar("Result")

Number = float | jax.Array
"""A float32 scalar inside the compiled program, a number for the log."""


class UpdateLog(NamedTuple):
    """What an update leaves for the log: means over its mini-batches."""

    loss: Number
    clip_fraction: Number
    approximate_kl: Number
    gradient_norm: Number


class SampledUpdateLog(NamedTuple):
    """An `UpdateLog` where the rollouts were sampled in half precision.

    Attributes:
        sampling_gap: mean over tokens of the size of the difference between the log-probability
            that a token was sampled with and the float32 policy's.
    """

    loss: Number
    clip_fraction: Number
    approximate_kl: Number
    gradient_norm: Number
    sampling_gap: Number


class Batch(NamedTuple):
    """N rollouts and the U prompts that they answer, N / U to each; cut, with a leading axis."""

    prompts: Any  # int32 [U, P]
    prompt_mask: Any  # bool [U, P]
    tokens: Any  # int32 [N, R]
    mask: Any  # bool [N, R]
    old_logprobs: Any  # float32 [N, R]
    advantages: Any  # float32 [N]
    weights: Any = None  # float32 [N] of each token's loss, where tokens do not weigh alike


def by_length(batch: Batch) -> tuple[Batch, jax.Array]:
    """A batch with its prompts by their length, and where each of its N rollouts was before [N]."""
    group = len(batch.tokens) // len(batch.prompts)
    order = jnp.argsort(batch.prompt_mask.sum(1))  # stable
    rows = (order[:, None] * group + jnp.arange(group)).reshape(-1)
    prompts = {"prompts": batch.prompts, "prompt_mask": batch.prompt_mask}
    answers = {k: v for k, v in batch._asdict().items() if k not in prompts and v is not None}
    sort = {k: v[order] for k, v in prompts.items()} | {k: v[rows] for k, v in answers.items()}
    return batch._replace(**sort), rows


def at_length(
    lengths: tuple[int, ...], function: Callable[[Batch], Result], batch: Batch
) -> Result:
    """A function of the batch without the padding that none of its prompts needs.

    Args:
        lengths: what prompts may be padded to, ascending; the last is the batch's own P.
        function: is compiled once for each length.
        batch: N rollouts.
    """

    def shortened(length: int, batch: Batch) -> Result:
        return function(
            batch._replace(
                prompts=batch.prompts[:, -length:], prompt_mask=batch.prompt_mask[:, -length:]
            )
        )

    if len(lengths) == 1:
        return function(batch)
    return prefix.at_length(lengths, batch.prompt_mask, shortened, batch)


def cut(batch: Batch, pieces: int) -> Batch:
    """The batch in `pieces` equal pieces [pieces, ...], each with the prompts of its rollouts."""
    if len(batch.prompts) % pieces:  # a piece cuts a group: every rollout has its own prompt
        group = len(batch.tokens) // len(batch.prompts)
        batch = batch._replace(
            prompts=batch.prompts.repeat(group, axis=0),
            prompt_mask=batch.prompt_mask.repeat(group, axis=0),
        )
    return jax.tree.map(lambda x: x.reshape(pieces, -1, *x.shape[1:]), batch)


@functools.lru_cache(maxsize=16)  # compiled programs are found again by the optimizer's identity
def build_optimizer(settings: GeneratorSettings) -> optax.GradientTransformation:
    """The generator's AdamW, its gradient clipped by its norm where the settings say so."""
    adamw = optax.adamw(
        settings.learning_rate,
        b1=settings.optimizer.b1,
        b2=settings.optimizer.b2,
        eps=settings.optimizer.eps,
        weight_decay=settings.optimizer.weight_decay,
    )
    if settings.optimizer.clip_norm is None:
        return adamw
    return optax.chain(optax.clip_by_global_norm(settings.optimizer.clip_norm), adamw)


@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3))
def update(
    model: LanguageModel,
    settings: GeneratorSettings,
    optimizer: optax.GradientTransformation,
    lengths: tuple[int, ...],
    params: Any,
    state: Any,
    batches: Batch,
    rate: jax.Array,
) -> tuple[Any, Any, UpdateLog | SampledUpdateLog]:
    """All epochs over all mini-batches [n, size, ...] in one program.

    With several `lengths` (`dpg.generators.jax.lengths`) a mini-batch's prompts are sorted by their
    length, and each microbatch is padded to the shortest that holds it. The mini-batches are the
    same; sums inside them are in another order.
    """
    gap = None
    if is_half(settings):
        batches, gap = _rescored(model, settings, lengths, params, batches)

    def mini_batch(carry: tuple[Any, Any], batch: Batch) -> tuple[tuple[Any, Any], UpdateLog]:
        params, state = carry
        gradient, loss = _gradient(model, settings, lengths, params, batch)
        updates, state = optimizer.update(gradient, state, params)
        # An update of AdamW, its weight decay too, is proportional to the learning rate.
        updates = jax.tree.map(lambda update: rate * update, updates)
        log = UpdateLog(
            loss=loss.loss,
            clip_fraction=loss.clip_fraction,
            approximate_kl=loss.approximate_kl,
            gradient_norm=optax.tree.norm(gradient),
        )
        return in_parts(settings, (optax.apply_updates(params, updates), state)), log

    def epoch(carry: tuple[Any, Any], _: None) -> tuple[tuple[Any, Any], UpdateLog]:
        return jax.lax.scan(mini_batch, carry, batches)

    (params, state), log = jax.lax.scan(epoch, (params, state), length=settings.epochs)
    log = jax.tree.map(jnp.mean, log)
    return (
        params,
        state,
        log if gap is None else SampledUpdateLog(**log._asdict(), sampling_gap=gap),
    )


def _rescored(
    model: LanguageModel,
    settings: GeneratorSettings,
    lengths: tuple[int, ...],
    params: Any,
    batches: Batch,
) -> tuple[Batch, jax.Array]:
    """The mini-batches with the float32 policy's own log-probabilities, and how far off they were.

    Scored a microbatch at a time, as the gradient is taken.
    """
    size = batches.tokens.shape[1]

    def mini_batch(batch: Batch) -> jax.Array:
        rows = None
        if len(lengths) > 1:
            batch, rows = by_length(batch)
        parts = cut(batch, size // _microbatch(settings, size))
        score = functools.partial(_logprobs, model, settings, params)
        found = jax.lax.map(functools.partial(at_length, lengths, score), parts)
        found = found.reshape(batch.tokens.shape)
        return found if rows is None else jnp.zeros_like(found).at[rows].set(found)

    logprobs = jnp.where(batches.mask, jax.lax.map(mini_batch, batches), 0)
    gap = jnp.abs(logprobs - batches.old_logprobs).sum() / batches.mask.sum()
    return batches._replace(old_logprobs=logprobs), gap


def _microbatch(settings: GeneratorSettings, size: int) -> int:
    """Rollouts at a time in a mini-batch of `size`."""
    micro = settings.update_microbatch
    assert micro != "auto", "the generator replaces it by the number chosen"
    if micro is None or micro >= size:
        return size
    if size % micro:
        raise DpgError(
            f"generator.update_microbatch = {micro} does not divide a mini-batch of {size} rollouts"
        )
    return micro


def _gradient(
    model: LanguageModel,
    settings: GeneratorSettings,
    lengths: tuple[int, ...],
    params: Any,
    batch: Batch,
) -> tuple[Any, PolicyLoss]:
    """The gradient of one mini-batch's loss, in microbatches that add up to the same numbers."""
    tokens = batch.mask.sum()
    weights = token_weights(batch.mask, settings.loss_mean, settings.loss_rollouts)
    batch = batch._replace(weights=weights)
    if len(lengths) > 1:
        batch, _ = by_length(batch)
    if settings.remat:
        model = replace(model, remat=True)

    def loss(params: Any, part: Batch) -> tuple[jax.Array, PolicyLoss]:
        logprobs = _logprobs(model, settings, params, part)
        value = policy_loss(
            logprobs,
            part.old_logprobs,
            part.advantages,
            part.mask,
            clip=settings.clip,
            dual_clip=settings.dual_clip,
            tokens=tokens,
            weights=part.weights,
        )
        return value.loss, value

    def gradient(part: Batch) -> tuple[Any, PolicyLoss]:
        # The choice of a length is outside: inside, all lengths' intermediates would be kept.
        return at_length(lengths, functools.partial(jax.grad(loss, has_aux=True), params), part)

    size = len(batch.tokens)
    micro = _microbatch(settings, size)
    if micro == size:
        return gradient(batch)
    parts = cut(batch, size // micro)

    def add(total: Any, part: Batch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, total, gradient(part)), None

    zero = jax.tree.map(jnp.zeros_like, params), PolicyLoss(*jnp.zeros(3))
    return jax.lax.scan(add, zero, parts)[0]


def _logprobs(
    model: LanguageModel, settings: GeneratorSettings, params: Any, part: Batch
) -> jax.Array:
    """`response_logprobs` of a part of a batch, on as many devices as the settings ask for."""

    def function(params: Any, given: tuple) -> jax.Array:
        prompts, mask, tokens = given
        return response_logprobs(model, params, prompts, mask, tokens, settings.temperature)

    given = part.prompts, part.prompt_mask, part.tokens
    if settings.devices is None:
        return function(params, given)
    return devices.divided(devices.mesh_of(settings.devices), function, params, given)


def in_parts(settings: GeneratorSettings, tree: Any) -> Any:
    """The tree cut over the settings' devices, or as it is on one."""
    if settings.devices is None:
        return tree
    return devices.in_parts(devices.mesh_of(settings.devices), tree)


def response_logprobs(
    model: LanguageModel,
    params: Any,
    prompts: jax.Array,
    prompt_mask: jax.Array,
    tokens: jax.Array,
    temperature: float,
) -> jax.Array:
    """Log-probabilities of the responses: float32 [N, R] from tokens int32 [N, R].

    Prompts [U, P] are read once for the N / U responses to each, and the head is applied to the
    responses alone. What stands after a response's end is of no meaning.
    """
    before = prefix.read(model, params, prompts, prompt_mask)
    hidden = prefix.response_hidden(model, params, before, tokens)
    return -target_nll(wide(head(params, hidden)) / temperature, tokens)


def is_half(settings: GeneratorSettings) -> bool:
    """Whether rollouts are sampled in half precision."""
    return settings.rollout_dtype == "bfloat16"


@jax.jit
def to_half(params: Any) -> Any:
    """Parameters in bfloat16."""
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)
