"""The record of a kept study: the configuration that its files were made with.

`outdated` compares it with the present configuration. So old figures are not mistaken for results
of the new values after a change of `config/`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import pydantic

from dpg import artifacts
from dpg.config import DownstreamSettings, RunConfig, ScaleFile, Study
from dpg.config.recorded import in_present_settings
from dpg.errors import DpgError

Model = TypeVar("Model", bound=pydantic.BaseModel)

STUDY = "study.json"
"""File of the record: configuration, provenance, run times by figure."""

BESIDE = "beside"
"""Entry of the record: the configurations of the kept runs beside the study."""

PAPERS = "the paper's"
"""Whose learning rate a run has, if it is the paper's own; see `rates` in the record."""

_SCALE_PARTS = ("text", "prompt_style", "models", "pretraining", "judge")


def read(folder: Path) -> dict[str, Any]:
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


def study_of(folder: Path) -> Study:
    """The study of a reference, as far as its record has it.

    Raises:
        DpgError: the folder holds no reference, or its settings are no longer valid.
    """
    record = read(folder)
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
    record = read(folder)
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
