"""The generator in JAX: samples rollouts and takes GRPO updates on one machine.

A `JaxGenerator` knows neither rewards nor metrics. Both of its methods are one compiled program
each, found again at every step: shapes are those of the run's settings and never change.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpg.config import GeneratorSettings
from dpg.errors import DpgError
from dpg.generators.grpo import PolicyLoss, policy_loss
from dpg.models import LanguageModel, prefix
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


class JaxGenerator:
    """A policy in training.

    Args:
        model: the architecture.
        params: its parameters; float32.
        settings: sizes and hyperparameters.
        eos_id: the token that ends a response; None to always write full length.

    Attributes:
        params, state: the parameters and the optimizer's state, replaced at every update.
    """

    def __init__(
        self, model: LanguageModel, params: Any, settings: GeneratorSettings, eos_id: int | None
    ):
        self.model, self.settings, self.eos_id = model, settings, eos_id
        self.optimizer = _optimizer(settings)
        self.params = params
        self.state = self.optimizer.init(params)
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
        rollouts = generate(
            self.model,
            self.params,
            prompts,
            mask,
            key,
            response_tokens=self.settings.response_tokens,
            temperature=temperature,
            eos_id=self.eos_id,
            min_tokens=MIN_TOKENS,
            group_size=group_size,
            batch_size=self.settings.rollout_batch,
        )
        return jax.tree.map(np.asarray, rollouts)

    def update(
        self,
        prompts: np.ndarray,
        mask: np.ndarray,
        rollouts: Rollouts,
        advantages: np.ndarray,
        names: str = "",
        rate: float = 1.0,
    ) -> UpdateLog:
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
        batch = _Batch(
            prompts, mask, rollouts.tokens, rollouts.mask, rollouts.logprobs,
            advantages.astype(np.float32),
        )  # fmt: skip
        size = self.settings.mini_batch_prompts * self.settings.group_size
        batch = _cut(batch, len(rollouts.tokens) // size)
        params, state, log = self._update(self.params, self.state, batch, np.float32(rate))
        log = UpdateLog(*(float(x) for x in log))
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
        self.params, self.state = jax.tree.unflatten(jax.tree.structure(self._tree()), leaves)

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

    def mini_batch(carry, batch):
        params, state = carry
        gradient, loss = _gradient(model, settings, params, batch)
        updates, state = optimizer.update(gradient, state, params)
        # An update of AdamW, its weight decay too, is proportional to the learning rate.
        updates = jax.tree.map(lambda update: rate * update, updates)
        log = UpdateLog(*loss, optax.tree.norm(gradient))
        return (optax.apply_updates(params, updates), state), log

    def epoch(carry, _):
        return jax.lax.scan(mini_batch, carry, batches)

    (params, state), log = jax.lax.scan(epoch, (params, state), length=settings.epochs)
    return params, state, jax.tree.map(jnp.mean, log)


def _gradient(
    model: LanguageModel, settings: GeneratorSettings, params: Any, batch: _Batch
) -> tuple[Any, PolicyLoss]:
    """The gradient of one mini-batch's loss, in microbatches that add up to the same numbers."""
    tokens = batch.mask.sum()

    def loss(params, part):
        logprobs = response_logprobs(
            model, params, part.prompts, part.prompt_mask, part.tokens, settings.temperature
        )
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

    size, micro = len(batch.tokens), settings.update_microbatch
    if micro is None or micro >= size:
        return jax.grad(loss, has_aux=True)(params, batch)
    if size % micro:
        raise DpgError(
            f"generator.update_microbatch = {micro} does not divide a mini-batch of {size} rollouts"
        )
    parts = _cut(batch, size // micro)

    def add(total, part):
        return jax.tree.map(jnp.add, total, jax.grad(loss, has_aux=True)(params, part)), None

    zero = jax.tree.map(jnp.zeros_like, params), PolicyLoss(*jnp.zeros(3))
    return jax.lax.scan(add, zero, parts)[0]


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


def _named(tree: Any) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]
