"""Run by verl's Python: verl's functions on given tensors, and verl's checks of a configuration."""

import json
import sys

import numpy as np
import safetensors.numpy


def parity(
    source: str, result: str, mode: str = "token-mean", rows: str = "", norm: str = "true"
) -> None:
    """GRPO advantages and the clipped loss with its gradient, by verl's own functions.

    Args:
        mode: verl's `loss_agg_mode`.
        rows: rows per microbatch; verl's actor divides each microbatch's loss by the number of
            microbatches. Empty = all rows.
        norm: verl's `norm_adv_by_std_in_grpo`, as Hydra writes it.
    """
    import torch
    from verl.trainer.ppo import core_algos

    given = {k: torch.from_numpy(v) for k, v in safetensors.numpy.load_file(source).items()}
    mask = given["mask"].float()
    scores = torch.zeros(mask.shape, dtype=torch.float32)
    scores[:, 0] = given["rewards"].float()
    advantages, _ = core_algos.compute_grpo_outcome_advantage(
        token_level_rewards=scores,
        response_mask=mask,
        index=given["groups"].numpy(),
        epsilon=float(given["eps"]),
        norm_adv_by_std_in_grpo=norm == "true",
    )
    logprobs = given["logprobs"].requires_grad_()
    weight = given["advantages"][:, None] * mask
    size = int(rows or len(mask))
    total, parts = 0.0, [slice(at, at + size) for at in range(0, len(mask), size)]
    for part in parts:
        loss, clipped, kl, _ = core_algos.compute_policy_loss(
            old_log_prob=given["old_logprobs"][part],
            log_prob=logprobs[part],
            advantages=weight[part],
            response_mask=mask[part],
            cliprange=0.2,
            cliprange_low=0.2,
            cliprange_high=0.2,
            clip_ratio_c=3.0,
            loss_agg_mode=mode,
        )
        loss = loss / len(parts)
        loss.backward()
        total += loss.item()
    found = {
        "advantages": advantages[:, 0].numpy(),
        "loss": np.array(total),
        "clip_fraction": clipped.numpy(),
        "approximate_kl": kl.detach().numpy(),
        "gradient": logprobs.grad.numpy(),
    }
    # safetensors writes an array's memory, whatever its strides.
    whole = {k: np.ascontiguousarray(np.atleast_1d(v)) for k, v in found.items()}
    safetensors.numpy.save_file(whole, result)


def compose(source: str, result: str) -> None:
    """Compose every run's overrides with Hydra, and check them with verl's own trainer."""
    import hydra
    from omegaconf import OmegaConf
    from verl.trainer.ppo.ray_trainer import RayPPOTrainer

    composed = {}
    with open(source) as file:
        runs = json.load(file)
    with hydra.initialize_config_module("verl.trainer.config", version_base=None):
        for name, overrides in runs.items():
            config = hydra.compose("ppo_trainer", overrides)
            trainer = object.__new__(RayPPOTrainer)
            trainer.config = config
            trainer.use_critic = trainer.use_reference_policy = False
            trainer._validate_config()
            composed[name] = OmegaConf.to_container(config, resolve=True)
    with open(result, "w") as file:
        json.dump(composed, file)


def sample(model: str, source: str, result: str) -> None:
    """The greedy responses of verl's rollout with transformers to left-padded prompts."""
    import torch
    from omegaconf import OmegaConf
    from tensordict import TensorDict
    from transformers import AutoModelForCausalLM
    from verl import DataProto

    from dpg.generators.verl import cpu

    cpu.lend_cpu()
    cpu.set_up_hf_rollout(seed=0)
    from verl.workers.rollout.hf_rollout import HFRollout

    meeting = {"init_method": f"file://{result}.meeting", "rank": 0, "world_size": 1}
    torch.distributed.init_process_group("gloo", **meeting)
    given = {k: torch.from_numpy(v) for k, v in safetensors.numpy.load_file(source).items()}
    prompts, mask = given["prompts"].long(), given["mask"].long()
    batch = {
        "input_ids": prompts,
        "attention_mask": mask,
        "position_ids": (mask.cumsum(-1) - 1).clamp(min=0),
    }
    data = DataProto(
        batch=TensorDict(batch, batch_size=len(prompts)),
        meta_info={"eos_token_id": 0, "pad_token_id": 0, "global_steps": 1},
    )
    settings = {"n": 4, "do_sample": False, "temperature": 1.0}
    settings = OmegaConf.create(settings | {"response_length": int(given["length"])})
    rollout = HFRollout(AutoModelForCausalLM.from_pretrained(model), settings)
    answers = rollout.generate_sequences(data).batch["responses"]
    tokens = np.ascontiguousarray(answers.numpy().astype(np.int32))
    safetensors.numpy.save_file({"tokens": tokens}, result)


if __name__ == "__main__":
    {"parity": parity, "compose": compose, "sample": sample}[sys.argv[1]](*sys.argv[2:])
