"""The learning rate of a target model that is not Adam's, found as the paper finds it.

Section 4: SGD, the naive reward and whatever else needs it are tried at learning rates from 1e-6
upwards by factors of 2, at most 14 of them, until the best by the final validation is found.
"Until" is here: `patience` rates in a row that are worse than the best so far.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

from dpg import artifacts
from dpg.config import RunConfig, SweepSettings
from dpg.errors import DpgError
from dpg.generators.grpo import AdvantageError
from dpg.learner.errors import NotFiniteError
from dpg.rewards.protocol import RewardError

Train = Callable[[RunConfig, Path], None]

DIVERGED = (NotFiniteError, RewardError, AdvantageError)
"""What a run raises whose target left the finite numbers; any other error ends the sweep."""


def rates(settings: SweepSettings) -> list[float]:
    """The learning rates in the order in which they are tried."""
    return [settings.first * settings.factor**k for k in range(settings.most)]


def sweep(run: RunConfig, settings: SweepSettings, train: Train, out: Path) -> dict[str, Any]:
    """Train a generator at one rate after another and write ``sweep.json``.

    A rate whose run is finished in `out` is not trained again, so a killed sweep goes on. A rate at
    which the target diverges is noted as such and ends the sweep: all later ones are larger.

    Args:
        run: the run whose `learner.learning_rate` is looked for; its other values stay.
        settings: first rate, factor, how many, and the patience.
        train: carries out a run into a folder, as `run_generator` does.
        out: the sweep's folder.

    Returns:
        What was written: `experiment`, `variant`, `seed`, `configured` (the rate in the
        configuration), `chosen`, and `tried`, a list of `learning_rate`, `metric` (of the last
        validation, higher is better; None where the target diverged) and `error`.

    Raises:
        DpgError: the target diverged at the very first rate.
    """
    tried: list[dict[str, Any]] = []
    for rate in rates(settings):
        tried.append(_try(run, rate, train, out))
        if tried[-1]["metric"] is None or _past_the_best(tried, settings.patience):
            break
    finite = [entry for entry in tried if entry["metric"] is not None]
    if not finite:
        raise DpgError(
            f"{run.path}: the target diverges at the sweep's first learning rate "
            f"{settings.first:g} ({tried[0]['error']}); lower sweep.first"
        )
    record = {
        "experiment": run.experiment,
        "variant": run.variant,
        "seed": run.seed,
        "configured": run.learner.learning_rate,
        "chosen": max(finite, key=lambda entry: entry["metric"])["learning_rate"],
        "tried": tried,
    }
    artifacts.write_json(out / "sweep.json", record)
    return record


def _try(run: RunConfig, rate: float, train: Train, out: Path) -> dict[str, Any]:
    learner = run.learner.model_copy(update={"learning_rate": rate})
    folder = out / f"rate-{rate:.6g}"
    one = run.model_copy(update={"learner": learner})
    if not _is_done(one, folder):
        try:
            train(one, folder)
        except DIVERGED as error:
            return {"learning_rate": rate, "metric": None, "error": str(error)}
    lines = artifacts.read_lines(folder / "metrics.jsonl")
    last = [line for line in lines if line["phase"] == "validation"][-1]
    metric = last["metric"] if math.isfinite(last["metric"]) else None
    error = None if metric is not None else "the last validation's metric is not finite"
    return {"learning_rate": rate, "metric": metric, "error": error}


def _is_done(run: RunConfig, folder: Path) -> bool:
    """Whether the folder holds this very run, finished."""
    file = folder / "run.json"
    return file.exists() and artifacts.read_json(file)["config"] == run.model_dump(mode="json")


def _past_the_best(tried: list[dict[str, Any]], patience: int) -> bool:
    """Whether the last `patience` rates were all worse than the best."""
    metrics = [entry["metric"] for entry in tried]
    return len(metrics) - 1 - metrics.index(max(metrics)) >= patience
