"""The files that a generator run leaves, by whichever engine it was trained."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from dpg import artifacts
from dpg.config import RunConfig
from dpg.generators.target import pattern_of
from dpg.generators.validation import gather
from dpg.models import LanguageModel, Tokenizer, save


def write_outputs(
    run: RunConfig,
    out: Path,
    progress: Path,
    *,
    model: LanguageModel,
    params: Any,
    tokenizer: Tokenizer,
    seconds: float,
    **entries: Any,
) -> None:
    """Write a finished run's outputs proper, ``run.json`` last, and clear its state away.

    Args:
        run: the resolved configuration.
        out: the run directory.
        progress: the run's state: its log ``metrics.jsonl`` and what `validation.keep` wrote.
        model, params, tokenizer: the trained generator.
        seconds: of wall time that the run took in all.
        **entries: further ones of the record.
    """
    gather(progress, out, pattern_of(run.metric))
    save(out / "generator", model, params, tokenizer)
    with artifacts.atomic_path(out / "metrics.jsonl") as partial:
        shutil.copyfile(progress / "metrics.jsonl", partial)
    with artifacts.RunRecord(
        out / "run.json",
        run.model_dump(mode="json"),
        run.seed,
        earlier_seconds=seconds,
        scale=run.scale,
        experiment=run.experiment,
        variant=run.variant,
        **entries,
    ):
        pass
    shutil.rmtree(progress)
