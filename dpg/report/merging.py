"""Merge studies that were kept in parts, such as one seed at a time, into one reference."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from dpg import artifacts, claims
from dpg.claims.kept import PASSAGES, SWEEP, VALIDATIONS, Kept
from dpg.config import Study
from dpg.errors import DpgError
from dpg.report import cards, graphics, pages, records, reference, rows
from dpg.study.outputs import EXTRAS

_DRAWN = (*reference.BY_SEED, "sweep", EXTRAS)
"""Figures that are drawn again; others are copied from the first folder that has them."""

_TABLES = (*(f"{name}.csv" for name in _DRAWN), VALIDATIONS, "runs.csv")


def merge(study: Study, folders: Sequence[Path], out: Path) -> list[Path]:
    """Make one kept study of several, each with other runs: another seed, or other experiments.

    Tables are joined, figures are drawn again, and verdicts are computed over all seeds. Figure 1,
    the tables of texts, Table 1 and the theorem are copied from the first folder that has them.

    Args:
        study: the whole study; all of its runs must be in the folders.
        folders: folders made by `dpg report keep`, the one with the first seed first.
        out: the folder of the result; must not be one of `folders`.

    Returns:
        The files written.

    Raises:
        DpgError: a run of the study is in no folder or in two folders; a folder has another
            configuration, or no `validations.csv`.
    """
    if out.resolve() in {folder.resolve() for folder in folders}:
        raise DpgError(f"{out} is one of the folders to merge; expected another folder for --out")
    parts = [(folder, records.read(folder)) for folder in folders]
    _require_whole(study, parts)
    out.mkdir(parents=True, exist_ok=True)
    written = [_joined(name, study, folders, out) for name in _TABLES]
    written += [*_copied(folders, out), *_runs(folders, out)]
    drawn = [folder / f"{name}.png" for name in _DRAWN for folder in folders]
    for image in (path for path in drawn if path.exists()):
        shutil.copyfile(image, out / image.name)  # which `redraw` replaces
    record = _record([one for _, one in parts])
    artifacts.write_json(out / records.STUDY, record)
    written += graphics.redraw(out)
    written += judge(study, out)
    page = out / "provenance.html"
    text = pages.provenance_of(study, record["provenance"], pd.read_csv(out / "runs.csv"))
    artifacts.write_text(page, text)
    found = [path for path in written if path is not None]
    return [*dict.fromkeys(found), out / records.STUDY, page, *cards.write(out)]


def judge(study: Study, folder: Path) -> list[Path]:
    """Write the ledger of a kept study again, from its tables.

    Raises:
        DpgError: the folder has no `validations.csv`.
    """
    if not (folder / VALIDATIONS).exists():
        raise DpgError(
            f"{folder} has no {VALIDATIONS}, which verdicts are computed from; run the study and "
            "keep it again: dpg report keep"
        )
    results = Kept(study, folder)
    verdicts = [claims.verdict_on(claim, results) for claim in claims.CLAIMS]
    return claims.write(verdicts, folder, scale=study.scale.scale, seeds=study.all_seeds)


def _require_whole(study: Study, parts: Sequence[tuple[Path, dict[str, Any]]]) -> None:
    """Check that every run of the study is in one folder, with the study's configuration."""
    places: dict[str, Path] = {}
    for folder, record in parts:
        for name in record["runs"]:
            if name in places:
                raise DpgError(f"{places[name]} and {folder} both have {name}; give one of them")
            places[name] = folder
    missing = [run for run in study.runs if run.path not in places]
    if missing:
        names = ", ".join(run.path for run in missing[:5])
        more = f" and {len(missing) - 5} more" if len(missing) > 5 else ""
        raise DpgError(
            f"no folder has {names}{more}; {study.path} has these seeds. Make and keep each: "
            f"dpg config derive -c {study.path} --only {missing[0].seed} --out seed.yaml, "
            "snakemake --configfile seed.yaml, dpg report keep -c seed.yaml"
        )
    lines = [
        line
        for folder, record in parts
        for line in (f"{folder}: {one}" for one in records.changed(study, record))
    ]
    if lines:
        raise DpgError("\n".join([*lines, f"expected kept studies of {study.path} as it is now"]))


def _joined(name: str, study: Study, folders: Sequence[Path], out: Path) -> Path | None:
    """The rows of one table from all folders, run by run in the study's order."""
    there = [folder / name for folder in folders if (folder / name).exists()]
    if not there:
        return None
    # Runs beside the study and sweeps may have been made in several parts; the first one counts.
    beside = name == f"{EXTRAS}.csv"
    tables = [pd.read_csv(path) for path in there]
    table = rows.joined(tables) if beside else pd.concat(tables, ignore_index=True)
    if name == SWEEP:
        table = table.drop_duplicates(["experiment", "variant", "learning_rate"])
    if rows.names_runs(table):
        table = rows.by_run(study, table)
    artifacts.write_csv(out / name, table)
    return out / name


def _copied(folders: Sequence[Path], out: Path) -> list[Path]:
    """Copy the files that do not depend on other seeds, from the first folder that has them."""
    written = []
    made_here = {*_TABLES, *(f"{name}.png" for name in _DRAWN)}
    made_here |= {records.STUDY, "provenance.html", *(f"claims.{k}" for k in ("json", "md"))}
    made_here |= {"claims.html", cards.DATASET_CARD, cards.MODEL_CARD, "README.md"}
    kinds = {".png", ".csv", ".md", ".html"}
    for folder in folders:
        for path in sorted(folder.iterdir()):
            kept = path.suffix in kinds or path.name == PASSAGES
            target = out / path.name
            if kept and path.name not in made_here and target not in written:
                with artifacts.atomic_path(target) as partial:
                    shutil.copyfile(path, partial)
                written.append(target)
    return written


def _runs(folders: Sequence[Path], out: Path) -> list[Path]:
    """Copy what is kept of each run, such as its rollouts, from the first folder that has it."""
    written = []
    for folder in folders:
        for run in sorted((folder / "runs").glob("*/*/*")):
            target = out / run.relative_to(folder)
            if target not in written:
                shutil.copytree(run, target, dirs_exist_ok=True)
                written.append(target)
    return written


def _record(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The merged record: the configuration of the first, the runs and machines of all."""
    first = parts[0]
    merged = dict(first)
    for key in ("runs", records.BESIDE, "rollouts", "rates"):
        merged[key] = {name: value for one in parts for name, value in one.get(key, {}).items()}
    merged["downstream"] = next((r["downstream"] for r in parts if r["downstream"]), None)
    merged["provenance"] = _provenance([record["provenance"] for record in parts])
    merged["run_times"] = {
        name: "; ".join(dict.fromkeys(record["run_times"].get(name, "") for record in parts))
        for name in first["run_times"]
    }
    return merged


def _provenance(known: Sequence[dict[str, Any]]) -> dict[str, Any]:
    merged = dict(known[0])
    for key in ("commits", "dpg", "platforms", "devices", "cpus"):
        merged[key] = list(dict.fromkeys(value for one in known for value in one[key]))
    merged["seeds"] = sorted({seed for one in known for seed in one["seeds"]})
    names = list(dict.fromkeys(name for one in known for name in one["versions"]))
    merged["versions"] = {
        name: list(dict.fromkeys(v for one in known for v in one["versions"].get(name, [])))
        for name in names
    }
    times = [time for one in known for time in one["finished"]]
    merged["finished"] = [min(times), max(times)] if times else []
    stopped = {name: words for one in known for name, words in one.get("stopped", {}).items()}
    return merged | ({"stopped": stopped} if stopped else {})
