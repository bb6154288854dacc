"""The learning rate of a target model that is not Adam's, found as the paper finds it.

Section 4: SGD, the naive reward and whatever else needs it are tried at learning rates from 1e-6
upwards by factors of 2, at most 14 of them, until the best by the final validation is found.
"Until" means here: `patience` consecutive rates are worse than the best so far. Which runs are
swept, `dpg.study.sweeps` says.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from dpg import artifacts
from dpg.config import RunConfig, SweepSettings
from dpg.errors import DpgError
from dpg.generators.advantages import AdvantageError
from dpg.generators.engine import RunInputs
from dpg.generators.finished import is_done, taken_from
from dpg.generators.jax.engine import run_generator
from dpg.generators.started_from import from_files
from dpg.learner.errors import NotFiniteError
from dpg.progress import StepBar
from dpg.rewards.protocol import RewardError
from dpg.run_folder import RunFolder, SweepFolder

Train = Callable[[RunConfig, RunFolder], None]


class SweepDivergedError(DpgError):
    """The target diverges at every learning rate of a sweep. Runs that are finished stay."""


DIVERGED = (NotFiniteError, RewardError, AdvantageError)
"""What a run raises whose target left the finite numbers; any other error ends the sweep."""


def sweep(
    run: RunConfig, settings: SweepSettings, inputs: RunInputs, out: Path, study: RunFolder
) -> dict[str, Any]:
    """Carry out `search` with the JAX engine, each run with a bar of its own.

    Args:
        run, settings, out: as for `search`.
        inputs: the files that its runs read.
        study: the study's own run, which is the sweep's at the configured rate.
    """
    digests = from_files(run, inputs)

    def train(one: RunConfig, folder: RunFolder) -> None:
        if taken_from(study, one, folder, digests):
            return
        title = f"{one.experiment}/{one.variant} at {one.learner.learning_rate:.3g}"
        with StepBar(title, one.generator.grpo_steps) as bar:
            run_generator(one, inputs, folder, on_step=bar)

    return search(run, settings, train, out, digests)


def search(
    run: RunConfig,
    settings: SweepSettings,
    train: Train,
    out: Path,
    inputs: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Train a generator at one rate after another and write ``sweep.json``.

    A rate whose run is finished in `out` is not trained again, so a killed sweep goes on. A
    finished run of other settings or inputs is kept under another name, and its rate is tried anew.
    A rate at which the target diverges is noted as such and ends the sweep: all later ones are
    larger.

    Args:
        run: the run whose `learner.learning_rate` is looked for; its other values stay.
        settings: first rate, factor, how many, and the patience.
        train: carries out a run into a folder.
        out: the sweep's folder.
        inputs: what its runs start from (`dpg.generators.started_from`); None compares none.

    Returns:
        What was written: `experiment`, `variant`, `seed`, `configured` (the rate in the
        configuration), `chosen`, and `tried`, a list of `learning_rate`, `metric` (of the last
        validation, higher is better; None where the target diverged) and `error`.

    Raises:
        DpgError: the run's rate is not swept.
        SweepDivergedError: the target diverged at the very first rate, and so at every rate.
    """
    if not run.rate_is_swept:
        raise DpgError(
            f"{run.experiment}/{run.variant}: only the rates of SGD and of the naive reward are "
            "swept; choose such a variant"
        )
    tried: list[dict[str, Any]] = []
    for rate in settings.rates:
        tried.append(_try(run, rate, train, out, inputs))
        if tried[-1]["metric"] is None or _past_the_best(tried, settings.patience):
            break
    finite = [entry for entry in tried if entry["metric"] is not None]
    if not finite:
        raise SweepDivergedError(
            f"{run.path}: the target diverges at the sweep's first learning rate "
            f"{settings.first:g} ({tried[0]['error']}), and all later rates are larger. Lower "
            f"sweep.first. Finished runs stay in {out}"
        )
    record = {
        "experiment": run.experiment,
        "variant": run.variant,
        "seed": run.seed,
        "configured": run.learner.learning_rate,
        "chosen": max(finite, key=lambda entry: entry["metric"])["learning_rate"],
        "tried": tried,
    }
    artifacts.write_json(SweepFolder(out).record, record)
    return record


def _try(
    run: RunConfig, rate: float, train: Train, out: Path, inputs: Mapping[str, Any] | None
) -> dict[str, Any]:
    learner = run.learner.model_copy(update={"learning_rate": rate})
    folder = SweepFolder(out).rate(rate)
    one = run.model_copy(update={"learner": learner})
    if not is_done(one, folder, inputs):
        try:
            train(one, folder)
        except DIVERGED as error:
            return {"learning_rate": rate, "metric": None, "error": str(error)}
    lines = artifacts.read_lines(folder.metrics)
    last = [line for line in lines if line["phase"] == "validation"][-1]
    metric = last["metric"] if math.isfinite(last["metric"]) else None
    reason = None if metric is not None else "the last validation's metric is not finite"
    return {"learning_rate": rate, "metric": metric, "error": reason}


def _past_the_best(tried: list[dict[str, Any]], patience: int) -> bool:
    """Whether the last `patience` rates were all worse than the best."""
    metrics = [entry["metric"] for entry in tried]
    return len(metrics) - 1 - metrics.index(max(metrics)) >= patience
