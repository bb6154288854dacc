"""The metagradient in PyTorch, as its users take it today: autograd through unrolled training."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax_methods
import numpy as np
import torch
import transformers
from torch.func import functional_call

from dpg.learner.optimizers import ADAM
from dpg.metrics import sixseven
from dpg.models import save

RATE = jax_methods.RATE
B1, B2, EPS, EPS_ROOT, DECAY = (
    ADAM[name] for name in ("b1", "b2", "eps", "eps_root", "weight_decay")
)


def measure(task: Any, gradient: Path) -> dict:
    """Time and memory of one task; its metagradient goes to the file `gradient`."""
    network, tokens = problem(task)
    run = method(task.method)
    start = {name: p.detach() for name, p in network.named_parameters()}
    taken = jax_methods.in_turns(
        lambda: train(network, start, tokens),
        lambda: run(network, start, tokens),
        task.repeats,
        gradient,
    )
    return taken | {"temporary_bytes": taken["resident_bytes"]}


def method(name: str) -> Callable:
    """The function of a method; its library is imported here, so that no measurement holds it."""
    if name == "bergson":
        from bergson_method import magic

        return magic
    return {"torch": unrolled, "torchopt": unrolled_torchopt}[name]


def problem(task: Any) -> tuple[torch.nn.Module, torch.Tensor]:
    """The same model, weights and tokens as the JAX methods have."""
    model = jax_methods.language_model(task.model, task.length)
    _, _, params, batches, _ = jax_methods.problem(task)
    with tempfile.TemporaryDirectory() as folder:
        save(Path(folder) / "model", model, params)
        network = transformers.AutoModelForCausalLM.from_pretrained(
            Path(folder) / "model", attn_implementation="eager"
        )
    return network.eval(), torch.tensor(batches["tokens"], dtype=torch.long)


def losses(network: torch.nn.Module, params: dict, batch: torch.Tensor) -> torch.Tensor:
    logits = functional_call(network, params, (batch,), {"use_cache": False}).logits
    return per_example(logits, batch)


def per_example(logits: torch.Tensor, batch: torch.Tensor) -> torch.Tensor:
    logits = logits[:, :-1].transpose(1, 2)
    nll = torch.nn.functional.cross_entropy(logits, batch[:, 1:], reduction="none")
    return nll.mean(1)


def train(network: torch.nn.Module, start: dict, tokens: torch.Tensor) -> dict:
    """Plain training with PyTorch's own AdamW."""
    params = {name: p.clone().requires_grad_() for name, p in start.items()}
    adam = torch.optim.AdamW(params.values(), lr=RATE, betas=(B1, B2), eps=EPS, weight_decay=DECAY)
    for batch in tokens:
        adam.zero_grad(set_to_none=True)
        losses(network, params, batch).mean().backward()
        adam.step()
    return params


def metric(params: dict, start: dict) -> torch.Tensor:
    pattern = torch.tensor(np.asarray(sixseven()), dtype=torch.float32)
    height, width = pattern.shape
    name = "transformer.wte.weight"
    change = (params[name] - start[name])[300 : 300 + height, :width]
    return -torch.nn.functional.softplus(-20 * pattern * change).mean()


def unrolled(network: torch.nn.Module, start: dict, tokens: torch.Tensor) -> torch.Tensor:
    """Every step on one tape; AdamW written out, since PyTorch's own has no eps_root."""
    weights = torch.ones(tokens.shape[:2], requires_grad=True)
    params = {name: p.clone().requires_grad_() for name, p in start.items()}
    first = {name: torch.zeros_like(p) for name, p in params.items()}
    second = dict(first)
    for t, batch in enumerate(tokens, start=1):
        loss = (weights[t - 1] * losses(network, params, batch)).mean()
        gradients = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        new = {}
        for (name, p), g in zip(params.items(), gradients, strict=True):
            first[name] = B1 * first[name] + (1 - B1) * g
            second[name] = B2 * second[name] + (1 - B2) * g * g
            corrected = first[name] / (1 - B1**t), second[name] / (1 - B2**t)
            update = corrected[0] / ((corrected[1] + EPS_ROOT).sqrt() + EPS)
            new[name] = p - RATE * (update + DECAY * p)
        params = new
    (result,) = torch.autograd.grad(metric(params, start), weights)
    return result


def torchopt_adam() -> Any:
    import torchopt

    return torchopt.adamw(lr=RATE, betas=(B1, B2), eps=EPS, eps_root=EPS_ROOT, weight_decay=DECAY)


def unrolled_torchopt(network: torch.nn.Module, start: dict, tokens: torch.Tensor) -> torch.Tensor:
    """The same with torchopt's functional AdamW."""
    import torchopt

    weights = torch.ones(tokens.shape[:2], requires_grad=True)
    params = {name: p.clone().requires_grad_() for name, p in start.items()}
    adam = torchopt_adam()
    state = adam.init(params)
    for t, batch in enumerate(tokens):
        loss = (weights[t] * losses(network, params, batch)).mean()
        found = torch.autograd.grad(loss, list(params.values()), create_graph=True)
        gradients = dict(zip(params, found, strict=True))
        updates, state = adam.update(gradients, state, params=params, inplace=False)
        params = torchopt.apply_updates(params, updates, inplace=False)
    (result,) = torch.autograd.grad(metric(params, start), weights)
    return result
