"""Translates a run into the settings of verl 0.5.0, as Hydra takes them.

These are pure functions: the settings of `config/paper.yaml` can be read and tested on a machine
without a GPU or verl. A value that verl cannot take is an error. It is never replaced by another.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from dpg.errors import DpgError
from dpg.generators import backward_passes
from dpg.generators.engine import least_tokens

if TYPE_CHECKING:  # verl's environment has no need of pydantic
    from dpg.config import RunConfig

_NO_CLIP = 1.0e9  # verl needs a number; at infinity it would multiply it by an advantage of zero
_LOSS_MEANS = {"tokens": "token-mean", "responses": "seq-mean-token-mean"}
_ACTOR, _ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"


class Paths(NamedTuple):
    """The files of a run that verl is told of.

    Attributes:
        model: the generator to start from, a Hugging Face directory.
        prompts, validation: what `dpg.generators.verl.prompts.PromptDataset` reads.
        checkpoints: folder of verl's checkpoints.
    """

    model: Path
    prompts: Path
    validation: Path
    checkpoints: Path


def settings(
    run: RunConfig, paths: Paths, *, gpus: int, nodes: int = 1, validate_first: bool = True
) -> dict[str, Any]:
    """verl's settings by dotted key; a leading "+" adds a key that its own files do not have.

    Args:
        run: the resolved configuration.
        paths: the run's files.
        gpus: on each machine; 0 trains and samples on the CPU, for tests.
        nodes: machines.
        validate_first: whether to validate before the first training step of this start.

    Raises:
        DpgError: a value that verl 0.5.0 cannot be given.
    """
    _check(run, max(gpus, 1) * nodes)
    return {
        **_data(run, paths),
        **_model(paths, gpus),
        **_actor(run, gpus, max(gpus, 1) * nodes),
        **_rollout(run, gpus, max(gpus, 1) * nodes),
        **_trainer(run, paths, gpus, nodes, validate_first),
    }


def overrides(values: Mapping[str, Any]) -> list[str]:
    """The settings in the form of Hydra's command line."""
    return [f"{key}={_text(value)}" for key, value in values.items()]


def _data(run: RunConfig, paths: Paths) -> dict[str, Any]:
    return {
        "data.custom_cls.path": "pkg://dpg.generators.verl.prompts",
        "data.custom_cls.name": "PromptDataset",
        "data.train_files": str(paths.prompts),
        "data.val_files": str(paths.validation),
        "data.train_batch_size": run.prompts_per_step,
        "data.max_prompt_length": run.generator.prompt_tokens,
        "data.max_response_length": run.generator.response_tokens,
        "data.truncation": "right",
        # The file's order is the order of use, so that it is a function of the seed alone.
        "data.shuffle": False,
        "data.validation_shuffle": False,
        "data.dataloader_num_workers": 0,
    }


def _model(paths: Paths, gpus: int) -> dict[str, Any]:
    values = {
        "actor_rollout_ref.model.path": str(paths.model),
        "actor_rollout_ref.model.enable_gradient_checkpointing": gpus > 0,
    }
    if not gpus:  # verl asks for flash-attention otherwise
        values["+actor_rollout_ref.model.override_config._attn_implementation"] = "sdpa"
    return values


def _actor(run: RunConfig, gpus: int, devices: int) -> dict[str, Any]:
    generator, optimizer = run.generator, run.generator.optimizer
    dual_clip = _NO_CLIP if generator.dual_clip is None else generator.dual_clip
    values = {
        f"{_ACTOR}.strategy": "fsdp" if gpus else "fsdp2",
        "critic.strategy": "fsdp" if gpus else "fsdp2",  # there is no critic, yet verl looks
        f"{_ACTOR}.optim.lr": generator.learning_rate,
        f"+{_ACTOR}.optim.betas": [optimizer.b1, optimizer.b2],
        f"{_ACTOR}.optim.weight_decay": optimizer.weight_decay,
        f"{_ACTOR}.optim.lr_warmup_steps": 0,
        f"{_ACTOR}.optim.warmup_style": "constant",
        f"{_ACTOR}.grad_clip": optimizer.clip_norm or _NO_CLIP,
        f"{_ACTOR}.ppo_mini_batch_size": generator.mini_batch_prompts,
        f"{_ACTOR}.ppo_micro_batch_size_per_gpu": _microbatch(run, devices),
        f"{_ACTOR}.ppo_epochs": generator.epochs,
        f"{_ACTOR}.shuffle": False,
        f"{_ACTOR}.clip_ratio": generator.clip,
        f"{_ACTOR}.clip_ratio_low": generator.clip,
        f"{_ACTOR}.clip_ratio_high": generator.clip,
        f"{_ACTOR}.clip_ratio_c": dual_clip,
        f"{_ACTOR}.loss_agg_mode": _LOSS_MEANS[generator.loss_mean],
        f"{_ACTOR}.entropy_coeff": 0,
        f"{_ACTOR}.use_kl_loss": False,
        f"{_ACTOR}.use_torch_compile": gpus > 0,
        # With `hf_model` each checkpoint has the weights as safetensors, too: what we read.
        f"{_ACTOR}.checkpoint.save_contents": ["model", "optimizer", "extra", "hf_model"],
        f"{_ACTOR}.checkpoint.load_contents": ["model", "optimizer", "extra"],
    }
    if not gpus:
        for part in ("param_dtype", "reduce_dtype", "buffer_dtype"):
            values[f"+{_ACTOR}.fsdp_config.mixed_precision.{part}"] = "fp32"
    return values


def _rollout(run: RunConfig, gpus: int, devices: int) -> dict[str, Any]:
    temperature = run.validation.temperature
    return {
        f"{_ROLLOUT}.name": "vllm" if gpus else "hf",
        f"{_ROLLOUT}.mode": "sync",
        f"{_ROLLOUT}.n": run.generator.group_size,
        f"{_ROLLOUT}.temperature": run.generator.temperature,
        f"{_ROLLOUT}.top_p": 1.0,
        f"{_ROLLOUT}.top_k": -1 if gpus else 0,
        f"{_ROLLOUT}.do_sample": True,
        f"+{_ROLLOUT}.min_tokens": least_tokens(run.generator),
        f"+{_ROLLOUT}.seed": run.seed,
        f"{_ROLLOUT}.tensor_model_parallel_size": 1,
        f"{_ROLLOUT}.log_prob_micro_batch_size_per_gpu": _microbatch(run, devices),
        f"{_ROLLOUT}.val_kwargs.n": 1,
        f"{_ROLLOUT}.val_kwargs.do_sample": temperature > 0,
        f"{_ROLLOUT}.val_kwargs.temperature": temperature,
        f"{_ROLLOUT}.val_kwargs.top_p": 1.0,
        f"{_ROLLOUT}.val_kwargs.top_k": -1,
    }


def _trainer(
    run: RunConfig, paths: Paths, gpus: int, nodes: int, validate_first: bool
) -> dict[str, Any]:
    return {
        "algorithm.adv_estimator": "grpo",
        # The reward manager's advantages are normalised, with the epsilon that is set.
        "algorithm.norm_adv_by_std_in_grpo": False,
        "algorithm.use_kl_in_reward": False,
        "reward_model.enable": False,
        "reward_model.reward_manager": "dpg",
        "reward_model.launch_reward_fn_async": False,
        "trainer.project_name": "dpg",
        "trainer.experiment_name": f"{run.scale}/{run.path}",
        "trainer.logger": ["console"],
        "trainer.nnodes": nodes,
        "trainer.n_gpus_per_node": max(gpus, 1),
        "trainer.device": "cuda" if gpus else "cpu",
        "trainer.balance_batch": False,  # mini-batches are those of the JAX engine
        "trainer.total_epochs": 1,
        "trainer.total_training_steps": run.generator.grpo_steps,
        "trainer.val_before_train": validate_first,
        "trainer.test_freq": run.validation.every,
        "trainer.save_freq": run.checkpoint_every,
        "trainer.default_local_dir": str(paths.checkpoints),
        "trainer.max_actor_ckpt_to_keep": 2,
        "trainer.resume_mode": "auto",
    }


def _microbatch(run: RunConfig, devices: int) -> int:
    """Rollouts at a time on one device."""
    share = run.generator.mini_batch_prompts * run.generator.group_size // devices
    return backward_passes.rollouts_at_a_time(run.generator, share)


def _check(run: RunConfig, devices: int) -> None:
    generator = run.generator
    if generator.schedule != "constant":
        raise DpgError(
            f"generator.schedule '{generator.schedule}': verl 0.5.0 has 'constant' only; the jax "
            "engine has both"
        )
    if not math.isclose(generator.optimizer.eps, 1e-8):
        raise DpgError(
            f"generator.optimizer.eps {generator.optimizer.eps:g}: verl 0.5.0 always uses "
            "1e-8; write that"
        )
    size = generator.mini_batch_prompts * generator.group_size
    sizes = {
        f"a mini-batch of {size} rollouts (generator.mini_batch_prompts x group_size)": size,
        f"a step of {run.rollouts_per_step} rollouts": run.rollouts_per_step,
    }
    for what, count in sizes.items():
        if count % devices:
            raise DpgError(f"{what} does not divide over {devices} GPUs")
    _check_loss_mean(run, size, backward_passes.check(generator, size // devices, "verl 0.5.0"))


def _check_loss_mean(run: RunConfig, size: int, microbatch: int) -> None:
    """verl averages over the tokens of a device's microbatch, never of a mini-batch in parts."""
    generator = run.generator
    if generator.loss_mean == "tokens" and generator.loss_rollouts is None and microbatch < size:
        raise DpgError(
            f"generator.loss_mean 'tokens' over a mini-batch of {size} rollouts: verl 0.5.0 "
            f"averages over the tokens of what a device takes at a time, {microbatch} rollouts "
            "here; write that as generator.loss_rollouts, or loss_mean: responses"
        )


def _text(value: Any) -> str:
    """A value in the grammar of Hydra's overrides."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, list):
        return f"[{','.join(_text(item) for item in value)}]"
    escaped = str(value).replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"
