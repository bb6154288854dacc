"""The same training in PyTorch: the model, its loss, plain training and the metric."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.func import functional_call

from bench.adam import B1, B2, EPS, EPS_ROOT, WEIGHT_DECAY
from bench.metagradient.models import RATE, ROW, language_model, problem_of
from bench.metagradient.task import Task
from dpg.metrics import sixseven
from dpg.models import save

Params = dict[str, torch.Tensor]
"""Parameters by name, as PyTorch names GPT-2's."""


def network_and_tokens(task: Task) -> tuple[torch.nn.Module, torch.Tensor]:
    """The model and weights of the JAX methods, and their tokens int64 [T, B, L]."""
    model, problem = language_model(task.model, task.length), problem_of(task)
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / "model", model, problem.params)
        network = transformers.AutoModelForCausalLM.from_pretrained(
            Path(folder) / "model", attn_implementation="eager"
        )
    return network.eval(), torch.tensor(problem.batches["tokens"], dtype=torch.long)


def losses(network: torch.nn.Module, params: Params, batch: torch.Tensor) -> torch.Tensor:
    """The loss of each example: [B]."""
    logits = functional_call(network, params, (batch,), {"use_cache": False}).logits
    return per_example(logits, batch)


def per_example(logits: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
    """The mean cross-entropy of each example: [B] of logits [B, L, V] and tokens [B, L]."""
    logits = logits[:, :-1].transpose(1, 2)
    nll = torch.nn.functional.cross_entropy(logits, batch[:, 1:], reduction="none")
    return nll.mean(1)


def train(network: torch.nn.Module, start: Params, tokens: torch.Tensor) -> Params:
    """Plain training with PyTorch's own AdamW."""
    params = {name: p.clone().requires_grad_() for name, p in start.items()}
    adam = torch.optim.AdamW(
        params.values(), lr=RATE, betas=(B1, B2), eps=EPS, weight_decay=WEIGHT_DECAY
    )
    for batch in tokens:
        adam.zero_grad(set_to_none=True)
        losses(network, params, batch).mean().backward()
        adam.step()
    return params


def metric(params: Params, start: Params) -> torch.Tensor:
    """How well the change of the embedding shows the pattern 67 (section 4.1): a scalar."""
    name = "transformer.wte.weight"
    pattern = torch.tensor(np.asarray(sixseven()), dtype=torch.float32, device=params[name].device)
    height, width = pattern.shape
    change = (params[name] - start[name])[ROW : ROW + height, :width]
    return -torch.nn.functional.softplus(-20 * pattern * change).mean()


def torchopt_adam() -> Any:
    """torchopt's functional AdamW, which has eps_root, unlike PyTorch's own."""
    import torchopt

    return torchopt.adamw(
        lr=RATE, betas=(B1, B2), eps=EPS, eps_root=EPS_ROOT, weight_decay=WEIGHT_DECAY
    )
