"""Training of the downstream validation, in PyTorch by Hugging Face's Trainer (Tables 11 and 12).

Continued pre-training reads rollouts and blocks of replay text, fine-tuning reads the benchmark's
passages. One function, `fit`, does both. On a GPU it trains in bfloat16 with float32 weights, on a
CPU in float32. A training that was killed goes on from its last checkpoint and ends with the same
weights. A finished training is not done again.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dpg import artifacts
from dpg.config import TrainingSettings
from dpg.digests import of_rows, of_weights
from dpg.errors import DpgError
from dpg.progress import Progress
from dpg.state import beside, open_state, remove

if TYPE_CHECKING:
    import transformers

Rows = Sequence[Sequence[int]] | np.ndarray
"""Rows of token ids: sequences of any lengths, or an integer array [rows, tokens]."""

RECORD = "training.json"
"""File in a trained model's directory: what it was trained on, and its losses."""


def fit(
    base: str | Path,
    rows: Rows,
    settings: TrainingSettings,
    *,
    learning_rate: float,
    epochs: int,
    seed: int,
    step: str,
    out: str | Path,
) -> dict[str, Any]:
    """Train a causal language model on rows of token ids and write it with its tokenizer.

    The loss of a step is the mean over the step's tokens without padding. A row's first token is
    not predicted.

    Args:
        base: a Hugging Face directory.
        rows: token ids, at most `settings.context` per row; shorter rows are padded.
        settings: AdamW, schedule, batch.
        learning_rate: the highest learning rate of the schedule.
        epochs: passes over the rows, each in a different order.
        seed: of the order.
        step: the workflow's step that this training is part of.
        out: the trained model's directory; checkpoints are beside it until the training is done.

    Returns:
        The record: `steps`, `tokens` (trained on, all epochs), `losses` (one per step), and what
        the training depends on.

    Raises:
        DpgError: there are no rows, a row is too short or too long, the directory has no model or
            no tokenizer, or a loss is not finite.
    """
    base, out = Path(base), Path(out)
    _check(base, rows, settings)
    inputs = inputs_of(base, rows, settings, learning_rate=learning_rate, epochs=epochs, seed=seed)
    if (out / RECORD).exists():
        record = artifacts.read_json(out / RECORD)
        if record["inputs"] == inputs:
            return record
    with open_state(beside(out), step, inputs) as state:
        record = _run(base, rows, settings, inputs, state, out)
        remove(state)
    return record


def inputs_of(
    base: str | Path,
    rows: Rows,
    settings: TrainingSettings,
    *,
    learning_rate: float,
    epochs: int,
    seed: int,
) -> dict[str, Any]:
    """What the trained weights depend on: trainings with equal inputs give equal weights."""
    wanted = set(TrainingSettings.model_fields) - {"checkpoint_every", "microbatch"}
    return {
        "base": of_weights(base),
        "rows": of_rows(rows),
        "settings": settings.model_dump(mode="json", include=wanted),
        "learning_rate": learning_rate,
        "epochs": epochs,
        "seed": seed,
    }


def _arguments(
    settings: TrainingSettings, inputs: Mapping[str, Any], rows: int, state: Path
) -> transformers.TrainingArguments:
    """The Trainer's arguments; a step's batch size does not depend on the number of devices.

    Args:
        settings: AdamW, schedule, batch.
        inputs: the result of `inputs_of`.
        rows: number of rows.
        state: folder of the checkpoints.

    Raises:
        DpgError: the batch size is not a multiple of what all devices take at a time.
    """
    import torch
    import transformers

    gpu = torch.cuda.is_available()
    epochs, seed = inputs["epochs"], inputs["seed"]
    arguments = transformers.TrainingArguments(
        output_dir=str(state),
        per_device_train_batch_size=settings.microbatch,
        learning_rate=inputs["learning_rate"],
        num_train_epochs=epochs,
        adam_beta1=settings.b1,
        adam_beta2=settings.b2,
        adam_epsilon=settings.eps,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
        lr_scheduler_type=settings.schedule,
        warmup_steps=_warmup(settings, rows, epochs),
        optim="adamw_torch",
        bf16=gpu,
        use_cpu=not gpu,
        seed=seed,
        data_seed=seed,
        save_strategy="steps",
        save_steps=settings.checkpoint_every,
        save_total_limit=2,
        logging_steps=1,
        logging_nan_inf_filter=False,  # it would hide a loss that is not finite
        report_to="none",
        disable_tqdm=True,
        dataloader_pin_memory=gpu,
        remove_unused_columns=False,
    )
    share = settings.microbatch * max(1, arguments.n_gpu) * arguments.world_size
    if settings.batch_size % share:
        raise DpgError(
            f"batch_size {settings.batch_size} does not divide into {share} sequences at a time "
            f"(microbatch {settings.microbatch} on each device): lower the microbatch"
        )
    arguments.gradient_accumulation_steps = settings.batch_size // share
    return arguments


def _run(
    base: Path,
    rows: Rows,
    settings: TrainingSettings,
    inputs: dict[str, Any],
    state: Path,
    out: Path,
) -> dict[str, Any]:
    import torch
    import transformers

    transformers.utils.logging.disable_progress_bar()
    model = _load(base)
    arguments = _arguments(settings, inputs, len(rows), state)
    epochs = inputs["epochs"]
    steps = _steps(settings, len(rows), epochs)
    with Progress(f"training {out.parent.name}/{out.name}", steps) as bar:
        trainer = transformers.Trainer(
            model=model,
            args=arguments,
            train_dataset=[{"input_ids": list(map(int, row))} for row in rows],
            data_collator=_collate,
            callbacks=[_watch(bar, str(out))],
        )
        trainer.remove_callback(transformers.PrinterCallback)
        with artifacts.naming_fault(state / "checkpoint"):
            trainer.train(resume_from_checkpoint=_last_checkpoint(state))
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    record = {
        "steps": trainer.state.global_step,
        "tokens": epochs * sum(len(row) for row in rows),
        "losses": losses,
        "inputs": inputs,
        "device": str(arguments.device),
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
    }
    with artifacts.atomic_path(out) as partial:
        model.save_pretrained(partial)
        for name in _TOKENIZER_FILES:
            if (base / name).is_file():
                shutil.copy(base / name, partial / name)
        artifacts.write_json(partial / RECORD, record)
    return record


_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
)


def _steps(settings: TrainingSettings, rows: int, epochs: int) -> int:
    return epochs * math.ceil(rows / settings.batch_size)


def _warmup(settings: TrainingSettings, rows: int, epochs: int) -> int:
    return math.ceil(settings.warmup * _steps(settings, rows, epochs))


def _load(base: Path) -> Any:
    import safetensors
    import torch
    import transformers

    try:
        return transformers.AutoModelForCausalLM.from_pretrained(
            base, dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
    except (OSError, ValueError, safetensors.SafetensorError) as error:
        raise DpgError(f"{base} cannot be loaded as a causal language model: {error}") from error


def _collate(features: list[dict[str, list[int]]]) -> dict[str, Any]:
    """Pad rows on the right; padding is masked and has no loss, whatever its id is."""
    import torch

    rows = [torch.tensor(feature["input_ids"]) for feature in features]
    pad = torch.nn.utils.rnn.pad_sequence
    return {
        "input_ids": pad(rows, batch_first=True, padding_value=0),
        "attention_mask": pad([torch.ones_like(row) for row in rows], batch_first=True),
        "labels": pad(rows, batch_first=True, padding_value=-100),
    }


def _watch(bar: Progress, name: str) -> Any:
    import transformers

    class Watch(transformers.TrainerCallback):
        """Shows the loss, and stops the training if it is not finite."""

        def on_log(
            self,
            args: transformers.TrainingArguments,
            state: transformers.TrainerState,
            control: transformers.TrainerControl,
            logs: dict[str, float] | None = None,
            **_: Any,
        ) -> None:
            loss = (logs or {}).get("loss")
            if loss is None:
                return
            if not math.isfinite(loss):
                raise DpgError(
                    f"{name}: the loss at step {state.global_step} is {loss}: lower the learning "
                    "rate; the last checkpoint is kept"
                )
            bar(state.global_step, f"loss {loss:.3f}")

    return Watch()


def _last_checkpoint(state: Path) -> str | None:
    """The newest whole checkpoint; half-written checkpoints of a killed process are removed."""
    found = sorted(state.glob("checkpoint-*"), key=lambda path: int(path.name.split("-")[1]))
    whole = [path for path in found if (path / "trainer_state.json").is_file()]  # written last
    for path in set(found) - set(whole):
        shutil.rmtree(path)
    return str(whole[-1]) if whole else None


def _check(base: Path, rows: Rows, settings: TrainingSettings) -> None:
    for name, what in {"config.json": "model", "tokenizer.json": "tokenizer"}.items():
        if not (base / name).is_file():
            raise DpgError(f"{base} has no {name}: training starts from a {what}'s directory")
    if not len(rows):
        raise DpgError(f"{base}: there is nothing to train on: the rows are empty")
    for number, row in enumerate(rows):
        if not 2 <= len(row) <= settings.context:
            raise DpgError(
                f"row {number} has {len(row)} tokens, expected 2 to the context of "
                f"{settings.context}: cut it, or raise the context"
            )
