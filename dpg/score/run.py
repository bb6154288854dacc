"""`dpg score`: from a model folder and texts to a table of scores, a page and a checkpoint."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from dpg import artifacts
from dpg.digests import of_path, of_text
from dpg.errors import DpgError
from dpg.learner.programs import tree_bytes
from dpg.progress import Progress
from dpg.provenance import RunRecord
from dpg.quantities import in_bytes
from dpg.score import checkpoint, derivative, halves, page, portion, table, texts
from dpg.score.derivative import Scored
from dpg.score.job import Implementation, Job, build, load, shared_texts
from dpg.score.portion import Portion
from dpg.score.settings import ScoreSettings, build_optimizer
from dpg.state import beside, open_state, remove

RECORD = "run.json"
"""Written last, so a folder that has this file is complete."""

_SCORED = "scored.safetensors"


class Inputs(NamedTuple):
    """The model and the texts of a scoring.

    Attributes:
        model: a Hugging Face folder.
        train: a file or folder of the texts to be scored.
        validation: a file or folder of the texts whose loss is the metric.
        held_out: a file or folder of texts that are only measured; may be None.
    """

    model: Path
    train: Path
    validation: Path
    held_out: Path | None = None


def score(
    inputs: Inputs,
    out: Path,
    settings: ScoreSettings | None = None,
    *,
    implementation: Implementation = "native",
    compared_seeds: int = 0,
    say: Callable[[str], object] = print,
) -> dict[str, Any]:
    """Score the training texts and write the results into a folder.

    All inputs are checked before the first step. The table and the checkpoint are written before
    the comparison of halves. If a call is killed, repeat it: parts that were finished are not
    computed again.

    Args:
        inputs: the model and the texts.
        out: the folder. It gets `scores.parquet`, `scores.csv`, `report.html`, `checkpoint/` and
            `run.json`.
        settings: of the training.
        implementation: the code that runs the model: "native" or "easydel".
        compared_seeds: number of seeds of the comparison of halves (`halves.compare`); 0 skips it.
        say: called with each line of output.

    Returns:
        The content of `run.json`.

    Raises:
        DpgError: the folder has finished scores; texts, model, settings, the comparison, memory or
            disk do not fit; a loss or a score is not finite.
    """
    settings = settings or ScoreSettings()
    _require_free(out)
    _require_seeds(compared_seeds)
    job = _job(inputs, settings, implementation, say)
    index = derivative.order(len(job.texts), settings)
    optimizer = build_optimizer(settings, len(index))
    if compared_seeds:
        halves.check(job)
    _require_disk(out, job)
    chosen = portion.chosen(job, optimizer, len(index), index.shape[1])
    for line in _plan(job, index, chosen, compared_seeds, _states(job, beside(out))):
        say(line)
    told = _told(inputs, settings, implementation)
    record = RunRecord(out / RECORD, told, settings.seed, step="score")
    with record, open_state(beside(out), "score", told) as state:
        before = derivative.measured(job, job.params, chosen)
        say(f"validation loss before training: {before['validation_loss']:.4f}")
        found = _scored(job, index, chosen, state)
        after = derivative.measured(job, found.params, chosen)
        say(f"validation loss after training: {after['validation_loss']:.4f}")
        rows = table.table_of(job, found)
        table.write(rows, out)
        checkpoint.write(out / "checkpoint", job, found.params)
        compared = _compared(job, chosen, compared_seeds, state, say, found.scores)
        record.entries |= {
            "metric": found.metric,
            "before": before,
            "after": after,
            "steps": len(index),
            "batch": int(index.shape[1]),
            "microbatch": chosen.microbatch,
            "memory": chosen.memory,
            "texts": len(job.texts),
            "trained_parameters": _count(job.params),
            "halves": compared,
        }
        page.write(out / "report.html", rows, record.entries, inputs.model.name)
    remove(beside(out))
    return record.entries


def _require_free(out: Path) -> None:
    if out.exists() and not out.is_dir():
        raise DpgError(f"{out} is a file; expected a folder for the results: choose another --out")
    if (out / RECORD).exists():
        raise DpgError(
            f"{out} holds finished scores; expected a new folder: choose another --out, or remove "
            "this folder"
        )


def _require_seeds(compared: int) -> None:
    if compared < 0:
        raise DpgError(
            f"the number of compared seeds is {compared}; expected 0 or more: 0 skips the "
            "comparison of halves (--compare)"
        )


def _job(
    inputs: Inputs, settings: ScoreSettings, implementation: Implementation, say: Callable
) -> Job:
    train, validation = texts.read(inputs.train), texts.read(inputs.validation)
    held_out = None if inputs.held_out is None else texts.read(inputs.held_out)
    loaded = load(inputs.model, implementation)
    job = build(settings, loaded, train, validation, held_out)
    say(
        f"{len(train):,} training texts, {len(validation):,} validation texts; "
        f"{_count(job.params):,} trained parameters"
    )
    sets = {"training": job.examples, "validation": job.validation, "held-out": job.held_out}
    for name, examples in sets.items():
        if examples is not None and examples.cut.any():
            say(f"{examples.cut.sum()} {name} texts were cut (--cut)")
    if both := shared_texts(train, validation):
        say(
            f"{len(both)} training texts are validation texts too, such as {both[0]}: their scores "
            "say little about other texts"
        )
    return job


def _plan(
    job: Job, index: np.ndarray, chosen: Portion, seeds: int, folder: Path | None
) -> list[str]:
    """The lines that say what will be done and what it costs."""
    steps, batch = index.shape
    room = "all" if chosen.memory is None else in_bytes(chosen.memory)
    place = "in memory" if folder is None else "on the disk"
    lines = [
        f"{steps} steps of {batch} texts, {min(chosen.microbatch, batch)} at a time; "
        f"{room} for what is kept between steps, {place}",
        *derivative.plan(job, index, chosen, folder).splitlines(),
    ]
    if seeds:
        lines.append(
            f"comparison of halves: for each of {seeds} seeds two trainings on half the texts and "
            "one metagradient (already computed for the seed of the scores)"
        )
    return lines


def _require_disk(out: Path, job: Job) -> None:
    """Refuse a disk that cannot hold the checkpoint and the unfinished state beside it."""
    place = out.absolute()
    while not place.exists():
        place = place.parent
    need = 2 * (tree_bytes(job.loaded.params) + tree_bytes(job.params))
    free = shutil.disk_usage(place).free
    if free < need:
        raise DpgError(
            f"{place} has {in_bytes(free)} free; expected {in_bytes(need)} for the checkpoint and "
            "the unfinished state: free space, or choose another --out"
        )


def _told(inputs: Inputs, settings: ScoreSettings, implementation: str) -> dict[str, Any]:
    """Everything that the scores depend on, for the record and for the unfinished state."""
    paths = {name: path for name, path in inputs._asdict().items() if path is not None}
    return {
        "settings": settings.as_json(),
        "implementation": implementation,
        "inputs": {name: str(path) for name, path in paths.items()},
        "sha256": {name: of_path(path) for name, path in paths.items()},
        "device": of_text(jax.devices()[0].device_kind)[:12],
    }


def _states(job: Job, state: Path, suffix: str = "") -> Path | None:
    """Where a training's states are kept in files; None keeps them in memory."""
    return state / f"learner{suffix}" if job.settings.on_disk else None


def _scored(job: Job, index: np.ndarray, chosen: Portion, state: Path) -> Scored:
    """The scores: read from the state if they are there, else computed and kept in the state."""
    file = state / _SCORED
    leaves, treedef = jax.tree.flatten(job.params)
    names = [f"params.{i}" for i in range(len(leaves))]
    if not file.exists():
        with Progress("scores", 100) as bar:
            found = derivative.scored(
                job,
                index,
                chosen,
                progress=lambda seen: bar(round(100 * seen.fraction)),
                folder=_states(job, state),
            )
        arrays: dict[str, np.ndarray] = {
            name: np.asarray(value)
            for name, value in found._asdict().items()
            if name not in ("metric", "params")
        }
        arrays["metric"] = np.asarray(found.metric, np.float64)
        arrays |= dict(zip(names, jax.tree.leaves(found.params), strict=True))
        artifacts.save_arrays(file, arrays)
    kept = artifacts.load_arrays(file)
    params = jax.tree.unflatten(treedef, [jax.numpy.asarray(kept.pop(name)) for name in names])
    return Scored(metric=float(kept.pop("metric")), params=params, **kept)


def _compared(
    job: Job, chosen: Portion, seeds: int, state: Path, say: Callable, scores: np.ndarray
) -> dict[str, Any] | None:
    """The comparison of halves. Each finished seed is kept in the state.

    `scores` are those of the settings' own seed, which are not computed again.
    """
    if not seeds:
        return None
    rows, known = [], {job.settings.seed: scores}
    for seed in range(seeds):
        file = state / f"halves-{seed}.json"
        if not file.exists():
            folder = _states(job, state, f"-{seed}")
            row = halves.compare(job, chosen, [seed], say, known, folder)[0]
            artifacts.write_json(file, row)
        rows.append(artifacts.read_json(file))
    found: dict[str, Any] = {"rows": rows}
    for what in ("validation_loss", "held_out_loss"):
        if f"better_{what}" in rows[0]:
            gain = halves.gain(rows, what)
            found[what] = {"mean": gain.mean}
            if len(rows) > 1:
                found[what] |= {"low": gain.low, "high": gain.high}
                say(
                    f"{what.replace('_', ' ')}: lower by {gain.mean:.4f} with the better half "
                    f"(95 % interval over {len(rows)} seeds: {gain.low:.4f} to {gain.high:.4f})"
                )
    return found


def _count(tree: Any) -> int:
    return sum(int(np.prod(x.shape)) for x in jax.tree.leaves(tree))
