"""The generator in JAX: samples rollouts and takes GRPO updates on one machine.

On several devices (`generator.devices`) the parameters and the optimizer's moments lie in parts;
each device samples, and takes the gradient of, its own share of the rollouts.

A `JaxGenerator` knows neither rewards nor metrics. Both of its methods are one compiled program
each, found again at every step: shapes are those of the run's settings, and change only where
`generator.prompt_multiple` lets prompts be shorter, to one of a few lengths.

Rollouts may be sampled in half precision. The policy stays float32: its update compares the
log-probabilities of before and after, so those of before are then computed anew in float32, as
engines do that sample with another program than they train with.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpg.config import GeneratorSettings
from dpg.errors import DpgError
from dpg.generators import memory
from dpg.generators.grpo import PolicyLoss, policy_loss
from dpg.learner import devices
from dpg.learner.footprint import program_bytes
from dpg.models import LanguageModel, decode, prefix
from dpg.models.decode import Rollouts, generate
from dpg.models.layers import target_nll, wide
from dpg.models.model import head

# A response that is empty, or a single token that nothing precedes, leaves the target model nothing
# to predict. One in some thousands would be, and would end the run.
MIN_TOKENS = 2


class UpdateLog(NamedTuple):
    """What an update leaves for the log: means over its mini-batches."""

    loss: float
    clip_fraction: float
    approximate_kl: float
    gradient_norm: float


class SampledUpdateLog(NamedTuple):
    """An `UpdateLog` where the rollouts were sampled in half precision.

    Attributes:
        sampling_gap: mean over tokens of the size of the difference between the log-probability
            that a token was sampled with and the float32 policy's.
    """

    loss: float
    clip_fraction: float
    approximate_kl: float
    gradient_norm: float
    sampling_gap: float


class JaxGenerator:
    """A policy in training.

    Args:
        model: the architecture.
        params: its parameters; float32.
        settings: sizes and hyperparameters.
        eos_id: the token that ends a response; None to always write full length.

    Attributes:
        params, state: the parameters and the optimizer's state, replaced at every update.
        settings: as given, an `update_microbatch` of "auto" replaced by the number chosen.

    Raises:
        DeviceMemoryError: a portion is "auto", and the device holds not even the smallest.
    """

    def __init__(
        self, model: LanguageModel, params: Any, settings: GeneratorSettings, eos_id: int | None
    ):
        self.model, self.eos_id = model, eos_id
        self.optimizer = _optimizer(settings)
        self.params = _in_parts(settings, params)
        self.state = _in_parts(settings, self.optimizer.init(self.params))
        if settings.update_microbatch == "auto":
            chosen = _chosen_microbatch(model, settings, self.optimizer, params, self.state)
            settings = settings.model_copy(update={"update_microbatch": chosen})
        self.settings = settings
        self._rollout_batches: dict[tuple[int, ...], int | None] = {}
        self._update = functools.partial(_update, model, settings, self.optimizer)

    def rollout(
        self,
        prompts: np.ndarray,
        mask: np.ndarray,
        key: jax.Array,
        temperature: float,
        group_size: int = 1,
    ) -> Rollouts:
        """`group_size` responses a prompt, N = U * group_size rows; a prompt's stand together.

        Prompts int32 [U, P] are padded on the left, mask is bool [U, P].
        """
        prompts, mask = self._shortened(prompts, mask)
        params = _to_half(self.params) if _is_half(self.settings) else self.params
        options = {}
        if self.settings.devices is not None:
            mesh = devices.mesh_of(self.settings.devices)
            params = devices.together(mesh, params)
            options = {"place": functools.partial(devices.shares, mesh)}
        rollouts = generate(
            self.model,
            params,
            prompts,
            mask,
            key,
            response_tokens=self.settings.response_tokens,
            temperature=temperature,
            eos_id=self.eos_id,
            min_tokens=MIN_TOKENS,
            group_size=group_size,
            batch_size=self._rollout_batch(*prompts.shape, group_size),
            **options,
        )
        return jax.tree.map(np.asarray, rollouts)

    def _shortened(self, prompts: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Without the padding that no prompt needs, down to one of a few lengths."""
        multiple, P = self.settings.prompt_multiple, prompts.shape[1]
        if multiple is None:
            return prompts, mask
        longest = int(mask.sum(1).max())
        length = min(-(-longest // multiple) * multiple, P)
        return prompts[:, P - length :], mask[:, P - length :]

    def _rollout_batch(self, prompts: int, length: int, group_size: int) -> int | None:
        """Rows sampled at a time, chosen once for each shape where the settings say "auto"."""
        if self.settings.rollout_batch != "auto":
            return self.settings.rollout_batch
        key = prompts, length, group_size
        if key not in self._rollout_batches:
            count = self.settings.devices or 1
            share = -(-prompts // count)
            self._rollout_batches[key] = (
                group_size
                * count
                * _chosen_prompts(self.model, self.settings, self.params, share, length, group_size)
            )
        return self._rollout_batches[key]

    def update(
        self,
        prompts: np.ndarray,
        mask: np.ndarray,
        rollouts: Rollouts,
        advantages: np.ndarray,
        names: str = "",
        rate: float = 1.0,
    ) -> UpdateLog | SampledUpdateLog:
        """Move the policy by the GRPO objective, mini-batch by mini-batch.

        Args:
            prompts, mask: [U, P], as they were sampled from.
            rollouts: N rows, U times the responses to each prompt.
            advantages: [N].
            names: said in the error, such as "step 3".
            rate: share of the settings' learning rate.

        Raises:
            DpgError: the loss or the gradient is not finite; the generator stays as it was.
        """
        prompts, mask = self._shortened(prompts, mask)
        batch = _Batch(
            prompts, mask, rollouts.tokens, rollouts.mask, rollouts.logprobs,
            advantages.astype(np.float32),
        )  # fmt: skip
        size = self.settings.mini_batch_prompts * self.settings.group_size
        batch = _cut(batch, len(rollouts.tokens) // size)
        params, state, log = self._update(self.params, self.state, batch, np.float32(rate))
        log = type(log)(*(float(x) for x in log))
        if not np.isfinite([log.loss, log.gradient_norm]).all():
            raise DpgError(
                f"{names}: the generator's update is not finite (loss {log.loss}, gradient norm "
                f"{log.gradient_norm}); lower generator.learning_rate"
            )
        self.params, self.state = params, state
        return log

    def arrays(self) -> dict[str, np.ndarray]:
        """Parameters and optimizer state by name, for a checkpoint."""
        return {name: np.asarray(leaf) for name, leaf in _named(self._tree())}

    def restore(self, arrays: dict[str, np.ndarray]) -> None:
        """Take up what `arrays` gave.

        Raises:
            DpgError: a missing array or another shape; names it.
        """
        leaves = []
        for name, leaf in _named(self._tree()):
            if name not in arrays or arrays[name].shape != leaf.shape:
                found = arrays[name].shape if name in arrays else "nothing"
                raise DpgError(
                    f"checkpoint: array {name} should be {leaf.shape}, found {found}: it is of "
                    "another model; delete the run's `progress` folder to start anew"
                )
            leaves.append(jnp.asarray(arrays[name], leaf.dtype))
        tree = jax.tree.unflatten(jax.tree.structure(self._tree()), leaves)
        self.params, self.state = _in_parts(self.settings, tree)

    def _tree(self) -> tuple[Any, Any]:
        return self.params, self.state


class _Batch(NamedTuple):
    """N rollouts and the U prompts that they answer, N / U to each; cut, with a leading axis."""

    prompts: Any  # int32 [U, P]
    prompt_mask: Any  # bool [U, P]
    tokens: Any  # int32 [N, R]
    mask: Any  # bool [N, R]
    old_logprobs: Any  # float32 [N, R]
    advantages: Any  # float32 [N]


def _cut(batch: _Batch, pieces: int) -> _Batch:
    """The batch in so many equal pieces [pieces, ...], each with the prompts of its rollouts."""
    if len(batch.prompts) % pieces:  # a piece ends amid a group: every rollout its own prompt
        group = len(batch.tokens) // len(batch.prompts)
        repeated = (x.repeat(group, axis=0) for x in batch[:2])
        batch = _Batch(*repeated, *batch[2:])
    return jax.tree.map(lambda x: x.reshape(pieces, -1, *x.shape[1:]), batch)


@functools.lru_cache(maxsize=16)  # compiled programs are found again by the optimizer's identity
def _optimizer(settings: GeneratorSettings) -> optax.GradientTransformation:
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


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _update(
    model: LanguageModel,
    settings: GeneratorSettings,
    optimizer: optax.GradientTransformation,
    params: Any,
    state: Any,
    batches: _Batch,
    rate: jax.Array,
) -> tuple[Any, Any, UpdateLog]:
    """All epochs over all mini-batches [n, size, ...] in one program."""
    gap = None
    if _is_half(settings):
        batches, gap = _rescored(model, settings, params, batches)

    def mini_batch(carry, batch):
        params, state = carry
        gradient, loss = _gradient(model, settings, params, batch)
        updates, state = optimizer.update(gradient, state, params)
        # An update of AdamW, its weight decay too, is proportional to the learning rate.
        updates = jax.tree.map(lambda update: rate * update, updates)
        log = UpdateLog(*loss, optax.tree.norm(gradient))
        return _in_parts(settings, (optax.apply_updates(params, updates), state)), log

    def epoch(carry, _):
        return jax.lax.scan(mini_batch, carry, batches)

    (params, state), log = jax.lax.scan(epoch, (params, state), length=settings.epochs)
    log = jax.tree.map(jnp.mean, log)
    return params, state, log if gap is None else SampledUpdateLog(*log, gap)


def _rescored(
    model: LanguageModel, settings: GeneratorSettings, params: Any, batches: _Batch
) -> tuple[_Batch, jax.Array]:
    """The mini-batches with the float32 policy's own log-probabilities, and how far off they were.

    Scored a microbatch at a time, as the gradient is taken.
    """
    size = batches.tokens.shape[1]

    def mini_batch(batch: _Batch) -> jax.Array:
        parts = _cut(batch, size // _microbatch(settings, size))
        score = functools.partial(_logprobs, model, settings, params)
        return jax.lax.map(score, parts).reshape(batch.tokens.shape)

    logprobs = jnp.where(batches.mask, jax.lax.map(mini_batch, batches), 0)
    gap = jnp.abs(logprobs - batches.old_logprobs).sum() / batches.mask.sum()
    return batches._replace(old_logprobs=logprobs), gap


def _microbatch(settings: GeneratorSettings, size: int) -> int:
    """Rollouts at a time in a mini-batch of `size`."""
    micro = settings.update_microbatch
    if micro is None or micro >= size:
        return size
    if size % micro:
        raise DpgError(
            f"generator.update_microbatch = {micro} does not divide a mini-batch of {size} rollouts"
        )
    return micro


def _gradient(
    model: LanguageModel, settings: GeneratorSettings, params: Any, batch: _Batch
) -> tuple[Any, PolicyLoss]:
    """The gradient of one mini-batch's loss, in microbatches that add up to the same numbers."""
    tokens = batch.mask.sum()
    if settings.remat:
        model = replace(model, remat=True)

    def loss(params, part):
        logprobs = _logprobs(model, settings, params, part)
        value = policy_loss(
            logprobs,
            part.old_logprobs,
            part.advantages,
            part.mask,
            clip=settings.clip,
            dual_clip=settings.dual_clip,
            tokens=tokens,
        )
        return value.loss, value

    size = len(batch.tokens)
    micro = _microbatch(settings, size)
    if micro == size:
        return jax.grad(loss, has_aux=True)(params, batch)
    parts = _cut(batch, size // micro)

    def add(total, part):
        return jax.tree.map(jnp.add, total, jax.grad(loss, has_aux=True)(params, part)), None

    zero = jax.tree.map(jnp.zeros_like, params), PolicyLoss(*jnp.zeros(3))
    return jax.lax.scan(add, zero, parts)[0]


def _logprobs(
    model: LanguageModel, settings: GeneratorSettings, params: Any, part: _Batch
) -> jax.Array:
    """`response_logprobs` of a part of a batch, on as many devices as the settings ask for."""

    def function(params: Any, given: tuple) -> jax.Array:
        return response_logprobs(model, params, *given, settings.temperature)

    given = part.prompts, part.prompt_mask, part.tokens
    if settings.devices is None:
        return function(params, given)
    return devices.divided(devices.mesh_of(settings.devices), function, params, given)


def _in_parts(settings: GeneratorSettings, tree: Any) -> Any:
    if settings.devices is None:
        return tree
    return devices.in_parts(devices.mesh_of(settings.devices), tree)


def response_logprobs(
    model: LanguageModel, params: Any, prompts, prompt_mask, tokens, temperature: float
) -> jax.Array:
    """Log-probabilities of the responses: float32 [N, R] from tokens int32 [N, R].

    Prompts [U, P] are read once for the N / U responses to each, and the head is applied to the
    responses alone. What stands after a response's end is of no meaning.
    """
    before = prefix.read(model, params, prompts, prompt_mask)
    hidden = prefix.response_hidden(model, params, before, tokens)
    return -target_nll(wide(head(params, hidden)) / temperature, tokens)


def _is_half(settings: GeneratorSettings) -> bool:
    return settings.rollout_dtype == "bfloat16"


@jax.jit
def _to_half(params: Any) -> Any:
    return jax.tree.map(lambda x: x.astype(jnp.bfloat16), params)


def _chosen_microbatch(
    model: LanguageModel,
    settings: GeneratorSettings,
    optimizer: optax.GradientTransformation,
    params: Any,
    state: Any,
) -> int:
    """The most rollouts of a mini-batch at a time whose update fits the device."""
    size = settings.mini_batch_prompts * settings.group_size

    def bytes_of(micro: int, **changes: Any) -> int:
        changed = settings.model_copy(update={"update_microbatch": micro, **changes})
        shapes = _shapes((params, state, _batch_shapes(changed)))
        rate = jax.ShapeDtypeStruct((), np.float32)
        lowered = _update.lower(model, changed, optimizer, *shapes, rate)
        return program_bytes(lowered.compile())

    # Whole groups first: a piece that ends amid a group reads its prompt once a rollout.
    sizes = [n for n in range(1, size + 1) if size % n == 0 and n % settings.group_size == 0]
    P, R = settings.prompt_tokens, settings.response_tokens
    return memory.largest(
        sizes,
        bytes_of,
        memory.device_bytes(),
        what=f"an update with {sizes[0]} rollouts at a time of {P:,} + {R:,} tokens",
        instead=_smaller(settings, lambda **changes: bytes_of(sizes[0], **changes)),
    )


def _chosen_prompts(
    model: LanguageModel,
    settings: GeneratorSettings,
    params: Any,
    prompts: int,
    length: int,
    group_size: int,
) -> int:
    """The most prompts at a time whose responses can be sampled on the device."""

    def bytes_of(count: int, **changes: Any) -> int:
        changed = settings.model_copy(update=changes)
        half = _is_half(changed)
        shapes = jax.eval_shape(_to_half, params) if half else _shapes(params)
        program = decode.compiled(
            model,
            shapes,
            prompts=count,
            prompt_tokens=min(length, changed.prompt_tokens),
            response_tokens=changed.response_tokens,
            group_size=group_size,
        )
        return program_bytes(program)

    sizes = [2**k for k in range(prompts.bit_length()) if 2**k < prompts] + [prompts]
    # The policy in float32 and its optimizer's two moments stay on the device meanwhile.
    resident = 3 * sum(x.nbytes for x in jax.tree.leaves(params)) // (settings.devices or 1)
    return memory.largest(
        sizes,
        bytes_of,
        max(memory.device_bytes() - resident, 0),
        what=f"sampling {group_size} responses of {settings.response_tokens:,} tokens to a prompt "
        f"of {length:,}, beside the policy's {memory.in_words(resident)},",
        instead=_shorter_prompts(settings, lambda **changes: bytes_of(1, **changes)),
    )


def _smaller(settings: GeneratorSettings, bytes_of: Any) -> Iterator[tuple[str, Any]]:
    """Settings whose update needs less memory, those that cost least first."""
    if not settings.remat:
        yield "generator.remat: true", lambda: bytes_of(remat=True)
    for name, need in _shorter_prompts(settings, functools.partial(bytes_of, remat=True)):
        yield f"generator.remat: true and {name}", need


def _shorter_prompts(settings: GeneratorSettings, bytes_of: Any) -> Iterator[tuple[str, Any]]:
    for part in (2, 4, 8):
        if tokens := settings.prompt_tokens // part:
            change = {"prompt_tokens": tokens}
            yield f"generator.prompt_tokens: {tokens}", functools.partial(bytes_of, **change)


def _batch_shapes(settings: GeneratorSettings) -> _Batch:
    """One mini-batch of the settings' full size, its leading axis included."""
    U, P, R = settings.mini_batch_prompts, settings.prompt_tokens, settings.response_tokens
    N = U * settings.group_size
    tokens, mask = jax.ShapeDtypeStruct((1, N, R), np.int32), jax.ShapeDtypeStruct((1, N, R), bool)
    return _Batch(
        prompts=jax.ShapeDtypeStruct((1, U, P), np.int32),
        prompt_mask=jax.ShapeDtypeStruct((1, U, P), bool),
        tokens=tokens,
        mask=mask,
        old_logprobs=jax.ShapeDtypeStruct((1, N, R), np.float32),
        advantages=jax.ShapeDtypeStruct((1, N), np.float32),
    )


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def _named(tree: Any) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]
