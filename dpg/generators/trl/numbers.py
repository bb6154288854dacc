"""The numbers of an update, as every engine logs them: means over mini-batches, over all ranks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from dpg.generators.trl.run import Shape


class MiniBatches:
    """Adds up the backward passes of each mini-batch of a GRPO step, on this process."""

    def __init__(self, shape: Shape):
        self._shape = shape
        self._parts: list[Any] = []  # of the mini-batch under way, [5] each
        self._sums: list[Any] = []  # of the step's mini-batches so far, [5] each
        self._norms: list[float] = []

    @property
    def are_complete(self) -> bool:
        """Whether all mini-batches of the step are there."""
        return len(self._sums) == self._shape.updates

    def add(
        self, loss: Any, logprobs: Any, old: Any, advantages: Any, mask: Any, *, clip: float
    ) -> None:
        """One backward pass.

        Args:
            loss: scalar, such that the mean over processes of the sum over a mini-batch's backward
                passes is the mini-batch's loss.
            logprobs, old: [B, R] of the policy in training, and of the one that sampled.
            advantages: [B].
            mask: [B, R], of the responses' tokens, their end among them.
            clip: as in `dpg.generators.jax.grpo.policy_loss`.
        """
        import torch

        own = mask.bool()
        difference = torch.where(own, logprobs.double() - old.double(), 0.0)
        ratio, sign = difference.exp(), advantages[:, None]
        clipped = ((ratio < 1 - clip) & (sign < 0)) | ((ratio > 1 + clip) & (sign > 0))
        values = (
            loss.double(),
            (clipped & own).sum().double(),
            -difference.sum(),
            torch.where(own, old.double(), 0.0).sum(),
            own.sum().double(),
        )
        self._parts.append(torch.stack(values))

    def end_mini_batch(self, norm: float) -> None:
        """All backward passes of a mini-batch are done; `norm` is its gradient's."""
        import torch

        if self.are_complete:
            self._sums, self._norms = [], []
        self._sums.append(torch.stack(self._parts).sum(0))
        self._norms.append(norm)
        self._parts = []

    def last_loss(self) -> float:
        """The loss of the last mini-batch, as far as this process knows it."""
        return float(self._sums[-1][0])

    def record(self, over_ranks: Callable[[Any], Any]) -> dict[str, float]:
        """The step's numbers; `over_ranks` adds a tensor up over all processes."""
        import torch

        sums = over_ranks(torch.stack(self._sums))
        loss, clipped, kl, logprob, tokens = sums.unbind(1)
        first = self._shape.mini_batches  # later epochs have the same old log-probabilities
        return {
            "loss": float(loss.mean()) / self._shape.processes,
            "clip_fraction": float((clipped / tokens).mean()),
            "approximate_kl": float((kl / tokens).mean()),
            "gradient_norm": sum(self._norms) / len(self._norms),
            "logprob": float(logprob[:first].sum() / tokens[:first].sum()),
        }
