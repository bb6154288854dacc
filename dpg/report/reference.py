"""A finished study kept in a small folder, such as those that the README shows.

A reference is a folder of figures, tables, claims and pages, with the resolved configuration that
they were made with. `outdated` compares it with the present configuration. So old figures are not
mistaken for results of the new values after a change of `config/`.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import pydantic

from dpg import artifacts
from dpg.claims import kept
from dpg.claims.evidence import is_the_papers
from dpg.config import DownstreamSettings, RunConfig, ScaleFile, Study
from dpg.config.recorded import in_present_settings
from dpg.errors import DpgError
from dpg.report import cards, pages
from dpg.report.stopped import (
    beside,
    draw,
    draw_beside,
    drop_snapshots,
    snapshots,
    write_rollouts,
)
from dpg.study.layout import Layout
from dpg.study.outputs import CURVES, FIGURES, TABLES, run_times, runs_of
from dpg.study.sweeps import swept

Model = TypeVar("Model", bound=pydantic.BaseModel)

STUDY = "study.json"
"""File of the reference's record: configuration, provenance, run times by figure."""

BY_SEED = ("figure_2", "figure_3", "figure_4", "figure_5", CURVES)
"""Figures that show every seed; their tables have columns variant and seed."""

BESIDE = "beside"
"""Entry of the record: the configurations of the kept runs beside the study."""

PAPERS = "the paper's"

_SCALE_PARTS = ("text", "prompt_style", "models", "pretraining", "judge")


def keep(
    study: Study, layout: Layout, out: Path, *, stopped: bool = False, rollouts: bool = False
) -> list[Path]:
    """Copy a study's figures (PNG, CSV), tables (Markdown, CSV), claims and pages to a folder.

    Two cards are written beside them (`dpg.report.cards`). Files that do not exist are left out, so
    an unfinished study can be kept too.

    Args:
        study, layout: the study and where its results are.
        out: the folder; files of an earlier reference are replaced.
        stopped: also keep runs that were stopped before their end, with their rollouts, and draw
            the figures that they allow (`dpg.report.stopped`). So are runs beside the study.
        rollouts: also write `runs/<run>/rollouts.csv` of every finished run.

    Returns:
        The files written.

    Raises:
        DpgError: no run is finished; with `stopped`, none has been validated either; a figure in
            the layout shows a run that is not one of those.
    """
    begun = snapshots(study, layout, out, study.runs) if stopped else []
    done = pages.there(study.runs, layout) if begun else pages.finished(study, layout)
    runs = [*done, *begun]
    _require_own_figures(study, layout, {run.name for run in runs})
    out.mkdir(parents=True, exist_ok=True)
    drop_snapshots(layout, out, study.every_run)
    written = pages.build(study, layout, out, runs)
    if begun:
        written += draw(runs, out)
    others = beside(study, layout, out) if stopped else []
    written += draw_beside(study, runs, others, out)
    drawn = [layout.figures / f"{name}.{kind}" for name, kind in _drawn()]
    ledger = [layout.claims / f"claims.{kind}" for kind in ("json", "md", "html")]
    for source in (path for path in drawn + ledger if path.exists()):
        with artifacts.atomic_path(out / source.name) as partial:
            shutil.copyfile(source, partial)
        written.append(out / source.name)
    if rollouts:
        written += write_rollouts(done, out)
    written += _sweeps_so_far(study, layout, out) + kept.write(study, layout, runs, out)
    known = _beside(out)  # of other machines, whose curves stay
    record = {
        "provenance": pages.provenance(study, runs),
        "run_times": run_times(study, layout),
        "scale": study.scale.model_dump(mode="json", exclude={"experiments", "defaults"}),
        "downstream": study.downstream.model_dump(mode="json") if study.downstream else None,
        "runs": {run.name: run.config for run in runs},
        BESIDE: {**known, **{run.name: run.config for run in others}},
        "rates": _rates(study),
        "rollouts": {run.name: len(run.rollouts()) for run in runs},
    }
    artifacts.write_json(out / STUDY, record)
    return [*written, out / STUDY, *cards.write(out)]


def add(study: Study, layout: Layout, folder: Path) -> list[Path]:
    """Add the runs beside a study, finished or begun, to a reference of another machine.

    Nothing else of the reference changes: the study's own runs need not be here.

    Args:
        study, layout: the study and where its results are.
        folder: the reference; its configuration must be the study's.

    Returns:
        The files written.

    Raises:
        DpgError: the reference is of another configuration, none of these runs is here, or a
            finished one was not judged.
    """
    record = read_record(folder)
    require_current(study, folder)
    _require_judged(study, layout)
    drop_snapshots(layout, folder, study.extras)
    runs = beside(study, layout, folder)
    if not runs:
        names = ", ".join(run.path for run in study.extras) or "none"
        raise DpgError(
            f"{layout.folder} has no run to add, finished or with a validation; "
            f"{study.path} has these beside the study: {names}. To keep the study's own runs: "
            "dpg report keep"
        )
    written = draw_beside(study, [], runs, folder)
    record[BESIDE] = {**record.get(BESIDE, {}), **{run.name: run.config for run in runs}}
    artifacts.write_json(folder / STUDY, record)
    return [*(folder / "runs" / run.name / "rollouts.csv" for run in runs), *written]


def _require_judged(study: Study, layout: Layout) -> None:
    """Check that the finished runs beside the study that write in a language were judged."""
    for run in study.extras:
        there = layout.run_of(run)
        if run.metric.kind == "language" and there.is_finished and not there.judged.exists():
            raise DpgError(
                f"{there.path} has no {there.judged.name}, so the language of its text is not "
                f"known; make it: dpg judge --config {study.path} --run {there.path}"
            )


def _beside(folder: Path) -> dict[str, Any]:
    """The configurations of the runs beside the study that a folder has from before."""
    if not (folder / STUDY).exists():
        return {}
    known: dict[str, Any] = read_record(folder).get(BESIDE, {})
    return known


def _require_own_figures(study: Study, layout: Layout, names: set[str]) -> None:
    """Check that no figure shows other runs, such as the seeds of another scale file.

    Args:
        names: of the runs that are kept, such as ``uuid/adam/seed0``.
    """
    for figure in BY_SEED:
        path = layout.figures / f"{figure}.csv"
        if not path.exists():
            continue
        table = pd.read_csv(path, usecols=["variant", "seed"]).drop_duplicates()
        kept = [run for run in runs_of(figure, study) if run.path in names]
        own = {(run.variant, run.seed) for run in kept}
        other = [
            pair for pair in zip(table["variant"], table["seed"], strict=True) if pair not in own
        ]
        if other:
            variant, seed = other[0]
            more = f" and {len(other) - 1} more runs" if len(other) > 1 else ""
            raise DpgError(
                f"{path} shows {variant} with seed {seed}{more}, which are not kept: it was drawn "
                f"for another scale file than {study.path}. Draw it again: "
                f"dpg run -c {study.path} {figure}"
            )


def _sweeps_so_far(study: Study, layout: Layout, out: Path) -> list[Path]:
    """Draw the finished sweeps of a study whose other sweeps are not finished."""
    from dpg.figures import sweep
    from dpg.figures.style import save_csv, save_picture

    records = [layout.sweep(run.experiment, run.variant).record for run in swept(study)]
    finished = [path for path in records if path.exists()]
    if not finished or (layout.figures / kept.SWEEP).exists():
        return []
    table, stem = sweep.frame(finished), out / "sweep"
    image = save_picture(sweep.draw(table), stem.with_suffix(".png"))
    return [image, save_csv(table, stem)]


def _rates(study: Study) -> dict[str, str]:
    """Path of a run whose rate the paper tunes -> whose rate it has: the paper's or the scale's."""
    swept = [run for run in study.runs if run.rate_is_swept]
    return {run.path: PAPERS if is_the_papers(study, run) else "the scale's" for run in swept}


def _drawn() -> list[tuple[str, str]]:
    names = (*FIGURES, CURVES, "theorem_3_1", "sweep")
    figures = [(name, kind) for name in names for kind in ("png", "csv")]
    return figures + [(name, kind) for name in TABLES for kind in ("md", "csv")]


def outdated(study: Study, folder: Path) -> list[str]:
    """The differences between a reference's configuration and the present one.

    A setting that is newer than the reference counts as its default, which is what the reference
    ran with. A reference may have more seeds than the study. The runs of such seeds are compared
    with the study's run of the same variant with another seed. A seed of the study that is not in
    the reference is a difference.

    Args:
        study: the present configuration.
        folder: the reference.

    Returns:
        One line per difference; empty if the reference is current.

    Raises:
        DpgError: the folder holds no reference.
    """
    record = read_record(folder)
    lines = changed(study, record)
    if record["downstream"] is None:
        lines += _differences("downstream", None, study.downstream)
    return lines + _missing_seeds(study, record["runs"])


def changed(study: Study, record: dict[str, Any]) -> list[str]:
    """The differences between a record's settings and the study's, ignoring seeds.

    A record without Table 1 is not a difference: it may be of a seed other than the first.
    """
    then = _read(ScaleFile, record["scale"])
    parts = ((part, getattr(then, part, None), getattr(study.scale, part)) for part in _SCALE_PARTS)
    lines = [
        f"{name}: {_short(then)} then, {_short(now)} now"
        for name, then, now in parts
        if then != now
    ]
    if record["downstream"] is not None:
        downstream = _read(DownstreamSettings, record["downstream"])
        lines += _differences("downstream", downstream, study.downstream)
    for name, config in {**record["runs"], **record.get(BESIDE, {})}.items():
        present = _present(study, name)
        if present is None:
            lines.append(f"{name}: the study no longer has this run")
        else:
            lines += _differences(name, _read(RunConfig, in_present_settings(config)), present)
    return lines


def study_of(folder: Path) -> Study:
    """The study of a reference, as far as its record has it.

    Raises:
        DpgError: the folder holds no reference, or its settings are no longer valid.
    """
    record = read_record(folder)
    scale = _read(ScaleFile, record["scale"])
    runs = {
        name: _read(RunConfig, in_present_settings(config))
        for name, config in record["runs"].items()
    }
    invalid = [name for name, run in {"scale": scale, **runs}.items() if run is None]
    if scale is None or invalid:
        raise DpgError(
            f"{folder}: settings that are no longer valid: {', '.join(invalid[:3])}; run the study "
            "and keep it again: dpg report keep"
        )
    table_1 = record["downstream"]
    downstream = None if table_1 is None else _read(DownstreamSettings, table_1)
    whole = {name: run for name, run in runs.items() if run is not None}
    # An older record does not say whose rates it has, so none counts as the paper's own.
    path = Path("config") / f"{scale.scale}.yaml"
    known = record.get("rates", {})
    sources = {
        name: {"learner.learning_rate": PAPERS if known.get(name) == PAPERS else str(path)}
        for name in whole
    }
    return Study(path, scale, whole, sources, downstream, {})


def read_record(folder: Path) -> dict[str, Any]:
    """The record of a reference: its configuration, provenance and run times.

    Raises:
        DpgError: the folder holds no reference.
    """
    file = folder / STUDY
    if not file.exists():
        raise DpgError(
            f"{folder} is not a reference: it has no {STUDY}; `dpg report keep` makes one"
        )
    record: dict[str, Any] = artifacts.read_json(file)
    return record


def _split(name: str) -> tuple[str, int]:
    """A run's variant and seed: "uuid/adam" and 0 for "uuid/adam/seed0"."""
    variant, _, seed = name.rpartition("/seed")
    return variant, int(seed)


def _present(study: Study, name: str) -> RunConfig | None:
    """The study's run with a name; if it does not have the seed, the variant's first run."""
    variant, seed = _split(name)
    runs = {run.seed: run for run in study.every_run if run.seedless == variant}
    if not runs:
        return None
    return runs.get(seed, next(iter(runs.values()))).model_copy(update={"seed": seed})


def _missing_seeds(study: Study, kept: Iterable[str]) -> list[str]:
    """One line for seeds that no kept run has, then one line per other missing run."""
    names = [_split(name) for name in kept]
    seeds = sorted({seed for _, seed in names})
    missing = [seed for seed in study.all_seeds if seed not in seeds]
    lines = []
    if missing:
        lines.append(f"seeds: {_listed(seeds)} then, {_listed(study.all_seeds)} now")
    variants = {variant for variant, _ in names}
    for run in study.runs:
        variant = run.seedless
        is_kept = (variant, run.seed) in names
        if variant in variants and run.seed not in missing and not is_kept:
            lines.append(f"{run.path}: the study has this seed, and the reference lacks it")
    return lines


def _listed(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))


def require_current(study: Study, folder: Path) -> None:
    """Raise a `DpgError` that lists the differences if a reference is not of the present study."""
    lines = outdated(study, folder)
    if lines:
        raise DpgError(
            "\n".join(
                [
                    *lines,
                    f"{folder} is of another configuration than {study.path}, in {len(lines)} "
                    "places; run the study and keep it again: dpg report keep -c "
                    f"{study.path} --out {folder}",
                ]
            )
        )


def _read(model: type[Model], kept: dict[str, Any]) -> Model | None:
    """The kept settings, with newer settings at their defaults; None if they are not valid."""
    try:
        return model.model_validate(kept)
    except pydantic.ValidationError:
        return None


def _differences(
    name: str, then: pydantic.BaseModel | None, now: pydantic.BaseModel | None
) -> list[str]:
    if then == now:
        return []
    if then is None or now is None:
        return [f"{name}: {'no longer a valid configuration' if now else 'no longer there'}"]
    old, new = _flat(then.model_dump(mode="json")), _flat(now.model_dump(mode="json"))
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return [f"{name}: {key} was {old.get(key)}, is {new.get(key)}" for key in keys]


def _flat(values: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings by dotted key."""
    if not isinstance(values, dict):
        return {prefix[:-1]: values}
    flat: dict[str, Any] = {}
    for key, value in values.items():
        flat |= _flat(value, f"{prefix}{key}.")
    return flat


def _short(value: Any) -> str:
    return " ".join(str(value).split())[:200]
