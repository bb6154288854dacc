"""The metagradient in PyTorch, in the ways that its users have: autograd, torchopt, bergson."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch

from bench.adam import B1, B2, EPS, EPS_ROOT, WEIGHT_DECAY
from bench.metagradient import turns
from bench.metagradient.models import RATE
from bench.metagradient.task import Task
from bench.metagradient.torch_training import (
    Params,
    losses,
    metric,
    network_and_tokens,
    torchopt_adam,
    train,
)

Method = Callable[[torch.nn.Module, Params, torch.Tensor], torch.Tensor]
"""(network, initial parameters, tokens [T, B, L]) -> metagradient [T, B]."""


def measure(task: Task, gradient: Path, device: str) -> dict[str, float | int]:
    """Time and memory of one task; its metagradient goes to the file `gradient`."""
    torch.set_float32_matmul_precision("high" if task.precision == "default" else "highest")
    network, tokens = (x.to(device) for x in network_and_tokens(task))
    run = method_of(task.method)
    start = {name: p.detach() for name, p in network.named_parameters()}

    def plain() -> None:
        train(network, start, tokens)
        if device == "cuda":
            torch.cuda.synchronize()

    found = turns.compare(plain, lambda: run(network, start, tokens).cpu(), task.repeats, gradient)
    on_device = {"device_bytes": torch.cuda.max_memory_allocated()} if device == "cuda" else {}
    return found | on_device


def method_of(name: str) -> Method:
    """A method's function. bergson is imported only when needed, since it takes memory."""
    if name == "bergson":
        from bench.metagradient.bergson_method import magic

        return magic
    return {"torch": unrolled, "torchopt": unrolled_torchopt}[name]


def unrolled(network: torch.nn.Module, start: Params, tokens: torch.Tensor) -> torch.Tensor:
    """All steps on one tape. AdamW is written out, since PyTorch's own has no eps_root."""
    weights = torch.ones(tokens.shape[:2], requires_grad=True, device=tokens.device)
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
            new[name] = p - RATE * (update + WEIGHT_DECAY * p)
        params = new
    (result,) = torch.autograd.grad(metric(params, start), weights)
    return result


def unrolled_torchopt(
    network: torch.nn.Module, start: Params, tokens: torch.Tensor
) -> torch.Tensor:
    """The same with torchopt's functional AdamW."""
    import torchopt

    weights = torch.ones(tokens.shape[:2], requires_grad=True, device=tokens.device)
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
