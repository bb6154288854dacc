"""A finding's files: figure, table, and a record with its sentence and its provenance."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dpg import artifacts
from dpg.errors import DpgError
from dpg.figures.style import save
from dpg.findings import BASES, FINDINGS, module_of
from dpg.findings.lab import Lab
from dpg.provenance import RunRecord


def make(name: str, lab: Lab, out: Path) -> list[Path]:
    """Carry out a finding and write its files.

    Args:
        name: one of `FINDINGS`.
        lab: carries out its runs.
        out: the folder of `<name>.pdf`, `.png`, `.csv` and, written last, `.json`.

    Returns:
        The four paths.

    Raises:
        DpgError: no such finding, or the study does not have a run that it starts from.
    """
    module = module_of(name)
    adam, sgd = BASES[name](lab.study)
    record = out / f"{name}.json"
    bases = {"adam": adam.model_dump(mode="json"), "sgd": sgd.model_dump(mode="json")}
    with RunRecord(record, bases, adam.seed, step="findings") as made:
        table = module.frame(lab)
        made.entries |= {
            "finding": name,
            "scale": lab.study.scale.scale,
            "bases": [adam.path, sgd.path],
            "sentence": module.sentence(table),
        }
        paths = save(module.draw(table), table, out / name)
    return [*paths, record]


@dataclass(frozen=True)
class Made:
    """A finding that was made.

    Attributes:
        name: one of `FINDINGS`.
        title, method: its texts for the page.
        entries: its record.
    """

    name: str
    title: str
    method: str
    entries: dict[str, Any]


def read(folder: Path) -> list[Made]:
    """The findings whose records are in a folder, in the order of the page.

    Raises:
        DpgError: the folder has no finding.
    """
    found = []
    for name in FINDINGS:
        path = folder / f"{name}.json"
        if path.exists():
            module = module_of(name)
            found.append(Made(name, module.TITLE, module.METHOD, artifacts.read_json(path)))
    if not found:
        raise DpgError(
            f"{folder} has no finding; `snakemake findings` makes them, from a study that has the "
            "variants adam and sgd of one experiment"
        )
    return found
