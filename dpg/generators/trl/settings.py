"""Translates a run into the settings of TRL's GRPOTrainer 1.16.0, the arguments of `GRPOConfig`.

These are pure functions: they can be read and tested without a GPU and without TRL. A value that
TRL cannot take is an error. It is never replaced by another value.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpg.errors import DpgError
from dpg.generators import backward_passes
from dpg.generators.engine import least_tokens
from dpg.generators.trl.run import Shape

if TYPE_CHECKING:  # TRL's environment has no need of our configuration
    from dpg.config import RunConfig
    from dpg.config.scale import Requirements

_NO_CLIP = 1.0e9  # transformers computes no gradient norm without a number
_WAIT = 13 * 3600  # seconds for the other ranks, while rank 0 waits for the reward server
_VLLM_MEMORY = 0.3  # share of a GPU for vLLM; the trainer and the reward server have the rest

# TRL's names. The mean over tokens is put right by the trainer (`trainer.token_mean`): TRL's own is
# one over the tokens of a process and a backward pass.
_LOSS_MEANS = {"tokens": "bnpo", "responses": "grpo"}


def processes_of(needs: Requirements) -> int:
    """Processes of the trainer on all machines of a run: one per GPU, or what the scale says."""
    return needs.processes or max(needs.gpus, 1) * needs.nodes


def shape_of(run: RunConfig, processes: int, nodes: int = 1) -> Shape:
    """How the rollouts of a run are divided over processes and backward passes.

    Args:
        run: the resolved configuration.
        processes: of the trainer, on all machines.
        nodes: machines.

    Raises:
        DpgError: they do not divide, or TRL cannot be given a value.
    """
    generator = run.generator
    _check(run)
    if processes % nodes:
        raise DpgError(
            f"needs.processes = {processes} do not divide over needs.nodes = {nodes} machines"
        )
    if generator.mini_batch_prompts % processes:
        raise DpgError(
            f"generator.mini_batch_prompts = {generator.mini_batch_prompts} does not divide over "
            f"{processes} processes (needs.processes, or needs.gpus x needs.nodes): choose a "
            f"multiple of {processes}, so that each process has whole groups of every mini-batch"
        )
    share = generator.mini_batch_prompts * generator.group_size // processes
    microbatch = backward_passes.check(generator, share, "TRL")
    if run.validation_prompts < processes:
        raise DpgError(
            f"a validation of {run.validation_prompts} prompts has none for some of {processes} "
            "processes; lower needs.processes or needs.gpus"
        )
    return Shape(
        steps=generator.grpo_steps,
        prompts=run.prompts_per_step,
        group_size=generator.group_size,
        mini_batch_prompts=generator.mini_batch_prompts,
        epochs=generator.epochs,
        processes=processes,
        microbatch=microbatch,
        nodes=nodes,
    )


def arguments(run: RunConfig, shape: Shape, checkpoints: Path, *, gpus: int) -> dict[str, Any]:
    """The arguments of `GRPOConfig`.

    Args:
        run: the resolved configuration.
        shape: of the run.
        checkpoints: folder of the trainer's checkpoints.
        gpus: on each machine; 0 trains and samples on the CPU, in float32.
    """
    return {
        **_loss(run),
        **_batches(shape),
        **_sampling(run, gpus),
        **_device(gpus),
        "output_dir": str(checkpoints),
        "save_strategy": "steps",
        # A checkpoint amid the updates of a GRPO step would go on with other rollouts.
        "save_steps": run.checkpoint_every * shape.updates,
        "save_total_limit": 2,
        "save_only_model": False,
        "logging_strategy": "steps",
        "logging_steps": shape.updates,
        "logging_nan_inf_filter": False,
        "report_to": "none",
        "disable_tqdm": True,
        "seed": run.seed,
        "ddp_timeout": _WAIT,
        "ddp_find_unused_parameters": False,
    }


def rollout_batch(run: RunConfig) -> int | None:
    """Rollouts that transformers samples at once on a process; None = all of them."""
    wanted = run.generator.rollout_batch
    return wanted if isinstance(wanted, int) else None


def _loss(run: RunConfig) -> dict[str, Any]:
    generator, optimizer = run.generator, run.generator.optimizer
    return {
        "loss_type": _LOSS_MEANS[generator.loss_mean],
        "epsilon": generator.clip,
        "epsilon_high": generator.clip,
        "delta": generator.dual_clip,
        "beta": 0.0,
        "scale_rewards": "none",  # the advantages are ours
        "importance_sampling_level": "token",
        "mask_truncated_completions": False,
        "learning_rate": generator.learning_rate,
        "lr_scheduler_type": "constant",  # ours replaces it
        "max_grad_norm": optimizer.clip_norm or _NO_CLIP,
    }


def _batches(shape: Shape) -> dict[str, Any]:
    return {
        "num_generations": shape.group_size,
        "num_iterations": shape.epochs,
        "per_device_train_batch_size": shape.microbatch,
        "gradient_accumulation_steps": shape.accumulation,
        "steps_per_generation": shape.mini_batches * shape.accumulation,
        "max_steps": shape.steps * shape.updates,
        "shuffle_dataset": False,
        "remove_unused_columns": False,
        "dataloader_num_workers": 0,
    }


def _sampling(run: RunConfig, gpus: int) -> dict[str, Any]:
    generator = run.generator
    values: dict[str, Any] = {
        "max_completion_length": generator.response_tokens,
        "temperature": generator.temperature,
        "top_p": 1.0,
        "top_k": 0,
        "min_p": None,
        "repetition_penalty": 1.0,
        "generation_kwargs": {"min_tokens" if gpus else "min_new_tokens": least_tokens(generator)},
        "use_vllm": gpus > 0,
    }
    if gpus:
        values |= {
            "vllm_mode": "colocate",
            "vllm_tensor_parallel_size": 1,
            "vllm_gpu_memory_utilization": _VLLM_MEMORY,
            "vllm_max_model_length": generator.prompt_tokens + generator.response_tokens,
            "vllm_importance_sampling_correction": False,
        }
    return values


def _device(gpus: int) -> dict[str, Any]:
    return {"use_cpu": not gpus, "bf16": gpus > 0, "gradient_checkpointing": gpus > 0}


def _check(run: RunConfig) -> None:
    generator = run.generator
    if generator.dual_clip is not None and generator.dual_clip <= 1 + generator.clip:
        raise DpgError(
            f"generator.dual_clip = {generator.dual_clip:g}: TRL's two-sided clipping bounds the "
            f"ratio, which is the same only above 1 + generator.clip = {1 + generator.clip:g}; "
            "raise dual_clip, write null, or take the jax engine"
        )
    for key in ("rollout_batch", "update_microbatch"):
        if getattr(generator, key) == "auto":
            raise DpgError(
                f"generator.{key} 'auto': the trl engine does not measure memory; expected a "
                "number of rollouts, or null for all"
            )
    if generator.rollout_dtype == "bfloat16" or generator.devices is not None:
        raise DpgError(
            "generator.rollout_dtype 'bfloat16' and generator.devices are of the jax engine; the "
            "trl engine samples as it trains, on needs.gpus GPUs: write null for both"
        )
