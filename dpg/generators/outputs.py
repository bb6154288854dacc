"""The files that a generator run leaves. They are the same for every engine."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from typing import Any

from dpg import artifacts
from dpg.config import RunConfig
from dpg.generators.validation import due_steps, gather
from dpg.models import LanguageModel, Tokenizer, save
from dpg.progress import say
from dpg.provenance import RunRecord
from dpg.run_folder import RunFolder
from dpg.state import remove
from dpg.targets.metric import pattern_of


def say_of_earlier_version(folder: RunFolder) -> None:
    """Tell the user about a state of an earlier version of this package. It is not touched."""
    if folder.earlier_state.is_dir():
        say(
            f"{folder.earlier_state}: an unfinished run of an earlier version of dpg. It is not "
            f"used, because this version keeps {folder.state.path.name}/. You can delete it"
        )


def write_outputs(
    run: RunConfig,
    folder: RunFolder,
    *,
    model: LanguageModel,
    params: Any,
    tokenizer: Tokenizer,
    seconds: float,
    inputs: Mapping[str, Any],
    **entries: Any,
) -> None:
    """Write a finished run's outputs, its record last, and clear its state away.

    Args:
        run: the resolved configuration.
        folder: the run's; its state holds the log and what `validation.keep` wrote.
        model, params, tokenizer: the trained generator.
        seconds: of wall time that the run took in all.
        inputs: what it started from (`dpg.generators.started_from`).
        **entries: further entries of the record.

    Raises:
        DpgError: the state lacks a validation that was due; names its file.
    """
    state = folder.state
    gather(state, folder, pattern_of(run.metric), due_steps(run))
    save(folder.generator, model, params, tokenizer)
    for path, ours in ((folder.metrics, state.metrics), (folder.clock, state.clock)):
        if ours.exists():  # only the JAX engine has a clock
            with artifacts.atomic_path(path) as partial:
                shutil.copyfile(ours, partial)
    with RunRecord(
        folder.record,
        run.model_dump(mode="json"),
        run.seed,
        step="generate",
        earlier_seconds=seconds,
        scale=run.scale,
        experiment=run.experiment,
        variant=run.variant,
        inputs=dict(inputs),
        prompts=run.prompts.described(run.prompt_shuffle),
        **entries,
    ):
        pass
    remove(state.path)
