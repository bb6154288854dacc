"""What verl 0.5.0 needs without a GPU: functions of PyTorch's CPU device, corrected rollouts."""

from __future__ import annotations

import functools
import os
import zlib
from typing import Any

from dpg.generators.engine import MIN_TOKENS


def lend_cpu() -> None:
    """Give PyTorch's CPU device the functions of an accelerator that verl 0.5.0 calls."""
    import torch
    import torch.distributed

    lacking: dict[str, Any] = {
        "memory_allocated": lambda *_: 0,
        "memory_reserved": lambda *_: 0,
        "max_memory_allocated": lambda *_: 0,
        "max_memory_reserved": lambda *_: 0,
        "mem_get_info": lambda *_: (0, 0),
        "empty_cache": lambda: None,
        "get_device_name": lambda *_: "cpu",
        "get_rng_state": torch.get_rng_state,
        "set_rng_state": torch.set_rng_state,
        "manual_seed": torch.manual_seed,
    }
    for name, function in lacking.items():
        if not hasattr(torch.cpu, name):
            setattr(torch.cpu, name, function)
    import verl.utils.device

    verl.utils.device.get_nccl_backend = lambda: "gloo"
    start = torch.distributed.init_process_group

    @functools.wraps(start)
    def start_with_gloo(backend: str | None = None, **more: Any) -> Any:
        # verl names a backend for "cpu" and one for the device, which PyTorch takes only once.
        return start("gloo" if backend == "cpu:gloo,cpu:gloo" else backend, **more)

    setattr(torch.distributed, "init_process_group", start_with_gloo)  # noqa: B010


def set_up_hf_rollout(seed: int) -> None:
    """Correct verl's rollout with transformers, and make it repeatable.

    It would sample every prompt n times, though the trainer has repeated the prompts; it has no
    shortest length; its random numbers would depend on all that was drawn before; and it hands
    `generate` the prompt's positions, the last of which transformers 4.55 then takes for every
    token that it samples: text of another policy than the one that is trained, and worse.
    """
    from omegaconf import OmegaConf, open_dict
    from verl.workers.rollout import hf_rollout

    plain = hf_rollout.HFRollout
    if getattr(plain, "set_up_by_dpg", False):
        return
    began, sample = plain.__init__, plain.generate_sequences
    settings = hf_rollout.GenerationConfig

    def begin(self: Any, module: Any, config: Any) -> None:
        config = OmegaConf.create(OmegaConf.to_container(config, resolve=True))
        with open_dict(config):
            config.n = 1
        least = config.get("min_tokens", MIN_TOKENS)
        hf_rollout.GenerationConfig = functools.partial(settings, min_new_tokens=least)
        began(self, module, config)
        # Sharded layers are put together by all processes at once: none may end before the others.
        module._is_fsdp_managed_module = True
        # Without positions transformers counts them from the attention mask, sampled tokens too.
        sampled = module.generate
        module.generate = lambda *, position_ids=None, **given: sampled(**given)

    def generate(self: Any, prompts: Any) -> Any:
        import torch

        info = prompts.meta_info
        if info.get("pad_token_id") is None:  # a model without one; what it pads is masked
            end = info["eos_token_id"]
            info["pad_token_id"] = end[0] if isinstance(end, list) else end
        torch.manual_seed(rollout_seed(seed, info))
        return sample(self, prompts)

    plain.__init__, plain.generate_sequences, plain.set_up_by_dpg = begin, generate, True


def rollout_seed(seed: int, info: dict[str, Any]) -> int:
    """The seed of one call for rollouts: of the run's, the purpose and, in training, the step.

    At every validation it is the same: what changes between two of them is the generator.
    """
    validation = info.get("validate", False)
    purpose = "validation" if validation else f"rollouts {info['global_steps']}"
    return zlib.crc32(f"{seed} {purpose} {os.environ.get('RANK', 0)}".encode())
