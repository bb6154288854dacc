"""What runs inside TRL's environment, once per process of the trainer.

Started by `dpg.generators.trl.launch`. Needs what `envs/trl.txt` has, and no JAX.
"""

from __future__ import annotations

import importlib.metadata
import os
import sys
import traceback
from pathlib import Path
from typing import Any

from dpg.errors import DpgError
from dpg.generators.trl.run import Run, checkpoints, fault_of, last_checkpoint
from dpg.generators.trl.trainer import Trainer
from dpg.generators.workers import end_with_parent, record_failure

TESTED = "1.16"
"""The version of TRL whose private functions the trainer overrides."""


def main(path: str) -> None:
    """Train as the run's file says.

    Raises:
        SystemExit: the run failed; the traceback is on standard error.
    """
    run = Run.read(path)
    end_with_parent()
    try:
        check_version(importlib.metadata.version("trl"))
        train(run)
    except Exception as error:
        traceback.print_exc()
        if not run.files.failure.exists():
            record_failure(run.files, error)
        raise SystemExit(1) from error


def check_version(found: str) -> None:
    """Refuse a version of TRL that was not tested.

    Raises:
        DpgError: another version than `TESTED`.
    """
    if found != TESTED and not found.startswith(f"{TESTED}."):
        raise DpgError(
            f"found trl {found}, expected {TESTED}.x: the trainer overrides private functions of "
            "it. `dpg environment trl` makes the environment with the version that was tested"
        )


def train(run: Run) -> None:
    """Train from the last whole checkpoint on, and validate at the end."""
    folder = run.files.checkpoints
    for path in checkpoints(folder).values():
        if fault := fault_of(path):
            print(f"{path} is not used: {fault}", file=sys.stderr)
    updates, last = last_checkpoint(folder)
    if updates >= run.shape.steps * run.shape.updates:
        trainer = build(run, model=last)
    else:
        trainer = build(run)
        trainer.train(resume_from_checkpoint=None if last is None else str(last))
    trainer.validate(run.shape.steps)
    end_of_processes()


def build(run: Run, model: Path | None = None, kind: type[Trainer] = Trainer, **more: Any) -> Any:
    """The trainer of a run.

    Args:
        run: what the engine says.
        model: the weights to start from; by default the run's generator.
        kind: the trainer's class, for tests.
        **more: of it.
    """
    import trl.trainer.grpo_trainer as module
    from trl import GRPOConfig

    if not hasattr(module, "shuffle_sequence_dict"):
        raise DpgError("trl has no shuffle_sequence_dict, expected that of 1.16: see envs/trl.txt")
    # TRL shuffles a step's rollouts before it cuts mini-batches: these would be neither in order
    # nor of whole groups.
    module.shuffle_sequence_dict = lambda batch: batch
    return kind(
        run,
        model=load_model(model or Path(run.model), run),
        args=GRPOConfig(**run.arguments),
        processing_class=load_tokenizer(run),
        **more,
    )


def load_model(folder: Path, run: Run) -> Any:
    """The generator in float32, without dropout and without defaults for sampling of its own.

    TRL samples and scores in train mode: dropout would make the first probability ratios differ
    from 1. What a model's generation_config adds to sampling, such as min_p, would change what is
    sampled and not what it is scored with.
    """
    import torch
    from transformers import AutoModelForCausalLM, GenerationConfig

    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="sdpa", local_files_only=True
    )
    for name, value in model.config.to_dict().items():
        if isinstance(value, float) and name.endswith(("dropout", "pdrop")):
            setattr(model.config, name, 0.0)
    for module in model.modules():
        for name, value in vars(module).items():
            if isinstance(value, float) and "dropout" in name:
                setattr(module, name, 0.0)
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    model.generation_config = GenerationConfig(eos_token_id=run.eos_ids, pad_token_id=run.pad_id)
    return model


def load_tokenizer(run: Run) -> Any:
    """The generator's tokenizer. TRL uses its end-of-text and padding only, not its prompts."""
    from transformers import PreTrainedTokenizerFast

    if not run.eos_ids:
        raise DpgError(
            f"{run.model}: its tokenizer has no end of text, expected one: TRL needs it. Name an "
            "eos_token in tokenizer_config.json, or take the jax engine"
        )
    tokenizer = PreTrainedTokenizerFast(tokenizer_file=str(Path(run.model) / "tokenizer.json"))
    tokenizer.eos_token = tokenizer.convert_ids_to_tokens(run.eos_ids[0])
    tokenizer.pad_token = tokenizer.convert_ids_to_tokens(run.pad_id)
    return tokenizer


def end_of_processes() -> None:
    """If there are several processes, wait for the others, then end this one at once.

    PyTorch's gloo group can lock up while its objects are freed: it joins a thread that waits for
    the interpreter's lock, and holds that lock itself. Everything is written by now, so this
    process ends without freeing anything.
    """
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.barrier()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(0)


if __name__ == "__main__":
    main(sys.argv[1])
