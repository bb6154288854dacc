"""The generator in JAX: samples rollouts and takes GRPO updates on one machine.

On several devices (`generator.devices`) the parameters and the optimizer's moments lie in parts;
each device samples, and takes the gradient of, its own share of the rollouts.

A `JaxGenerator` knows neither rewards nor metrics. Both of its methods are one compiled program
each, found again at every step: shapes are those of the run's settings and of its prompts
(`dpg.generators.jax.lengths`).

Rollouts may be sampled in half precision. The policy stays float32: the old log-probabilities are
then recomputed in float32, as in any engine whose sampler and trainer are different programs.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpg.config import GeneratorSettings
from dpg.errors import DpgError
from dpg.generators.engine import least_tokens
from dpg.generators.jax import update as updates
from dpg.generators.jax.lengths import lengths_of
from dpg.generators.jax.portions import chosen_microbatch, chosen_prompts
from dpg.learner import devices
from dpg.learner.ahead import Compile
from dpg.learner.programs import shapes
from dpg.models import LanguageModel
from dpg.models.decode import Ends, Rollouts, compiled, generate, prompts_at_once


class JaxGenerator:
    """A policy in training.

    Args:
        model: the architecture.
        params: its parameters; float32.
        settings: sizes and hyperparameters.
        eos_id: the token that ends a response, or several of them; None to always write full
            length.
        prompts: int [N], tokens of each prompt that it may be given: with
            `settings.prompt_multiple` they decide what prompts are padded to. Empty where that is
            not known: all are padded to `settings.prompt_tokens`.

    Attributes:
        params, state: the parameters and the optimizer's state, replaced at every update.
        lengths: what prompts are padded to, ascending.
        settings: as given, an `update_microbatch` of "auto" replaced by the number chosen.

    Raises:
        DeviceMemoryError: a portion is "auto", and the device holds not even the smallest.
    """

    def __init__(
        self,
        model: LanguageModel,
        params: Any,
        settings: GeneratorSettings,
        eos_id: Ends,
        prompts: Sequence[int] | np.ndarray = (),
    ):
        self.model, self.eos_id = model, eos_id
        self.lengths = lengths_of(settings, prompts)
        self.optimizer = updates.build_optimizer(settings)
        self.params = updates.in_parts(settings, params)
        self.state = updates.in_parts(settings, self.optimizer.init(self.params))
        if settings.update_microbatch == "auto":
            chosen = chosen_microbatch(model, settings, self.optimizer, params, self.state)
            settings = settings.model_copy(update={"update_microbatch": chosen})
        self.settings = settings
        self._rollout_batches: dict[tuple[int, ...], int | None] = {}
        self._update = functools.partial(
            updates.update, model, settings, self.optimizer, self.lengths
        )

    def rollout(
        self,
        prompts: np.ndarray,
        mask: np.ndarray,
        key: jax.Array,
        temperature: float,
        group_size: int = 1,
    ) -> Rollouts:
        """`group_size` responses per prompt, N = U * group_size rows; a prompt's stand together.

        Prompts int32 [U, P] are padded on the left, mask is bool [U, P].
        """
        prompts, mask = self._shortened(prompts, mask)
        params = updates.to_half(self.params) if updates.is_half(self.settings) else self.params
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
            min_tokens=least_tokens(self.settings),
            group_size=group_size,
            batch_size=self._rollout_batch(len(prompts), prompts.shape[1], group_size),
            lengths=self._reading_lengths,
            **options,
        )
        return jax.tree.map(np.asarray, rollouts)

    def rollout_ahead(
        self, mask: np.ndarray, temperature: float, group_size: int
    ) -> Iterator[Compile]:
        """The program of `rollout` for prompts of this mask, to be compiled before it is needed."""
        _, mask = self._shortened(mask, mask)
        batch = self._rollout_batch(len(mask), mask.shape[1], group_size)
        params = shapes(self.params)
        if updates.is_half(self.settings):
            params = jax.eval_shape(updates.to_half, params)
        yield functools.partial(
            compiled,
            self.model,
            params,
            prompts=prompts_at_once(len(mask), group_size, batch),
            prompt_tokens=mask.shape[1],
            response_tokens=self.settings.response_tokens,
            group_size=group_size,
            greedy=temperature == 0,
            eos_id=self.eos_id,
            lengths=self._reading_lengths,
        )

    def update_ahead(self, mask: np.ndarray, rollouts: int) -> Iterator[Compile]:
        """The program of `update` for prompts of this mask, to be compiled before it is needed."""
        _, mask = self._shortened(mask, mask)
        shape = rollouts, self.settings.response_tokens
        numbers = np.zeros(shape, np.float32)
        batch = updates.Batch(
            mask.astype(np.int32), mask, np.zeros(shape, np.int32), np.zeros(shape, bool), numbers,
            numbers[:, 0],
        )  # fmt: skip
        size = self.settings.mini_batch_prompts * self.settings.group_size
        given = shapes((self.params, self.state, updates.cut(batch, rollouts // size)))
        rate = jax.ShapeDtypeStruct((), np.float32)
        options = self.model, self.settings, self.optimizer, self.lengths
        yield lambda: updates.update.lower(*options, *given, rate).compile()

    def _shortened(self, prompts: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Without the padding that no prompt of the run needs."""
        start = max(prompts.shape[1] - self.lengths[-1], 0)
        if mask[:, :start].any():
            raise ValueError(
                f"found a prompt of {int(mask.sum(1).max()):,} tokens, expected at most "
                f"{self.lengths[-1]:,}: give `prompts` the lengths of all prompts"
            )
        return prompts[:, start:], mask[:, start:]

    @property
    def _reading_lengths(self) -> tuple[int, ...]:
        """The lengths that sampling reads prompts at; the longest alone on several devices."""
        return self.lengths if self.settings.devices is None else self.lengths[-1:]

    def _rollout_batch(self, prompts: int, length: int, group_size: int) -> int | None:
        """Rows sampled at a time, chosen once for each shape where the settings say "auto"."""
        if self.settings.rollout_batch != "auto":
            return self.settings.rollout_batch
        key = prompts, length, group_size
        if key not in self._rollout_batches:
            count = self.settings.devices or 1
            chosen = chosen_prompts(
                self.model,
                self.settings,
                self.params,
                -(-prompts // count),
                length,
                group_size,
                self._reading_lengths,
            )
            self._rollout_batches[key] = group_size * count * chosen
        return self._rollout_batches[key]

    def update(
        self,
        prompts: np.ndarray,
        mask: np.ndarray,
        rollouts: Rollouts,
        advantages: np.ndarray,
        names: str = "",
        rate: float = 1.0,
    ) -> updates.UpdateLog | updates.SampledUpdateLog:
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
        batch = updates.Batch(
            prompts, mask, rollouts.tokens, rollouts.mask, rollouts.logprobs,
            advantages.astype(np.float32),
        )  # fmt: skip
        size = self.settings.mini_batch_prompts * self.settings.group_size
        batch = updates.cut(batch, len(rollouts.tokens) // size)
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
                    "another model; move the run's `state` folder away to start anew"
                )
            leaves.append(jnp.asarray(arrays[name], leaf.dtype))
        tree = jax.tree.unflatten(jax.tree.structure(self._tree()), leaves)
        self.params, self.state = updates.in_parts(self.settings, tree)

    def _tree(self) -> tuple[Any, Any]:
        return self.params, self.state


def _named(tree: Any) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]
