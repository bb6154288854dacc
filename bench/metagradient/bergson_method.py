"""The metagradient by bergson's MAGIC, which walks back through training from kept states."""

from __future__ import annotations

import copy
import tempfile
from typing import Any

import torch
from bergson.magic import BackwardState, DataStream, Trainer
from datasets import Dataset

from bench.metagradient.torch_training import Params, metric, per_example, torchopt_adam


class Loss(torch.nn.Module):
    """The weighted loss of a batch, as the kind of module that bergson trains.

    The head is written out as a product with the embedding. bergson silently treats a tied head as
    two independent parameters: the shared weights then have two optimizer states and two updates
    per step, and the result belongs to a different training.
    """

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.transformer: Any = copy.deepcopy(network.transformer)

    def forward(
        self, input_ids: torch.Tensor, example_weight: torch.Tensor, **_: Any
    ) -> torch.Tensor:
        """The weighted mean loss of tokens [B, L] with weights [B]: a scalar."""
        hidden = self.transformer(input_ids, use_cache=False).last_hidden_state
        logits = hidden @ self.transformer.wte.weight.T
        return (example_weight * per_example(logits, input_ids)).mean()


def magic(network: torch.nn.Module, start: Params, tokens: torch.Tensor) -> torch.Tensor:
    """bergson's MAGIC, with one step's tape at a time: the metagradient [T, B].

    By default it keeps every sqrt(T)-th state on disk. Its AdamW is torchopt's, which has eps_root.
    Updates are in place, as in bergson's own command.
    """
    rows = Dataset.from_dict({"input_ids": tokens.flatten(0, 1).tolist()})
    stream = DataStream(rows, tokens.shape[1])
    # The trainer removes the module's parameters, so Loss works on a copy.
    trainer, state = Trainer.initialize(Loss(network), torchopt_adam())
    with tempfile.TemporaryDirectory() as folder:
        state = trainer.train(state, stream, inplace=True, save_dir=folder)
        params = {name: p.detach().requires_grad_() for name, p in state.params.items()}
        moments = state.differentiable_tensors()[len(params) :]
        found = torch.autograd.grad(
            metric(params, start), list(params.values()), materialize_grads=True
        )
        end = BackwardState(
            dict(zip(params, found, strict=True)),
            [torch.zeros_like(m) for m in moments],
            torch.zeros_like(stream.weights),
        )
        result = trainer.backward(folder, stream, end, state, inplace=True).weight_grads
    return result.detach().reshape(tokens.shape[:2])
