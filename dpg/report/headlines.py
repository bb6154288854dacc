"""A study's main numbers, each with the numbers to compare it with.

They are read from the tables of the figures, so they agree with the figures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from dpg.claims.verdicts import HOLDS
from dpg.study.runs import Variant
from dpg.text.languages import TARGET_CODES, language


class Headline(NamedTuple):
    """One number.

    Attributes:
        what: what is measured.
        value: the number for the generator that was trained with metagradients.
        note: the numbers to compare it with.
    """

    what: str
    value: str
    note: str


def read(folder: Path, runs: pd.DataFrame, claims: Mapping[str, Any] | None) -> list[Headline]:
    """The headlines that a study has, in the order of the paper.

    Args:
        folder: folder of the figures' tables.
        runs: one row per run, made by `dpg.report.pages.run_table`.
        claims: the ledger's record; None if there is none yet.
    """
    readers = {
        "figure_1": lambda table: _qr(table, runs),
        "figure_2": _patterns_and_norm,
        "figure_4": _languages,
        "figure_5": _uuid,
        "curves": _own,
    }
    found: list[Headline] = []
    for name, reader in readers.items():
        path = folder / f"{name}.csv"
        if path.exists():
            found += reader(pd.read_csv(path))
    if claims is not None:
        held = sum(claim["verdict"] == HOLDS for claim in claims["claims"])
        total = len(claims["claims"])
        found.append(Headline("Claims of the paper", f"{held} of {total}", "hold in this study"))
    return found


def _qr(table: pd.DataFrame, runs: pd.DataFrame) -> Iterator[Headline]:
    pixels = table[table["element"] == "pixel"]
    right = int((pixels["sign"] == pixels["pattern"]).sum())
    here = runs[runs["experiment"] == "qr"]
    scanned = int((here["scans"] >= 1).sum()) if "scans" in here else 0
    said = f"the code {'scans' if scanned else 'does not scan'}"
    if len(here) > 1:  # the figure shows the first seed
        said = f"first of {len(here)} seeds; the code scans with {scanned} of them"
    yield Headline("QR code in the LM head", f"{right} of {len(pixels)}", f"pixels right; {said}")


def _patterns_and_norm(table: pd.DataFrame) -> Iterator[Headline]:
    image, norm = (table[table["experiment"] == name] for name in ("sixseven", "norm"))
    if len(image) and (ends := _ends(image, "value")):
        note = "pixels; " + _compared(ends, _pixels)
        yield Headline("67 in the LM head", f"{_pixels(ends.of['adam'])} of 42", note)
    if len(norm) and (ends := _ends(norm, "value")):
        note = "change; " + _compared(ends, "{:+.2f}".format)
        yield Headline("Norm of the LM head", f"{ends.of['adam']:+.2f}", note)


def _pixels(share: float) -> str:
    """How many of the 42 pixels: whole, or a mean over seeds with one decimal."""
    return f"{42 * share:.1f}".removesuffix(".0")


def _percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _languages(table: pd.DataFrame) -> Iterator[Headline]:
    for code in TARGET_CODES:
        here = table[table["language"] == code]
        if len(here) and (ends := _ends(here, "fraction")):
            name = f"Rollouts in {language(code).name}"
            yield Headline(name, _percent(ends.of["adam"]), _compared(ends, _percent))


def _uuid(table: pd.DataFrame) -> Iterator[Headline]:
    if ends := _ends(table, "exact"):
        note = _compared(ends, _percent)
        yield Headline("Rollouts with the UUID", _percent(ends.of["adam"]), note)


def _own(table: pd.DataFrame) -> Iterator[Headline]:
    for experiment, here in table.groupby("experiment", sort=False):
        first = here[here["step"] == here["step"].min()]["value"].mean()
        last = here[here["step"] == here.groupby("variant")["step"].transform("max")]
        ends = last.groupby("variant", sort=False)["value"].mean()
        rest = [f"{name} {value:.4g}" for name, value in ends.iloc[1:].items()]
        note = ", ".join([f"metric of {ends.index[0]}", f"before {first:.4g}", *rest])
        yield Headline(str(experiment), f"{ends.iloc[0]:.4g}", note)


class _Ends(NamedTuple):
    """Means over seeds: before Adam's training ("before"), and at the end for each method."""

    of: dict[str, float]
    seeds: int  # of Adam's run, those that reached its last step


def _ends(table: pd.DataFrame, column: str) -> _Ends | None:
    """Of each method the variant with the longest T; None without Adam's metagradients."""
    ends: dict[str, float] = {}
    seeds = 0
    variants = sorted(map(Variant.parse, table["variant"].unique()), key=lambda one: one.order)
    for variant in variants:
        if variant.extra or variant.method in ends:
            continue
        rows = table[table["variant"] == variant.name]
        last = rows[rows["step"] == rows["step"].max()]
        if variant.method == "adam":
            ends["before"] = float(rows[rows["step"] == 0][column].mean())
            seeds = last["seed"].nunique()
        ends[variant.method] = float(last[column].mean())
    return _Ends(ends, seeds) if "adam" in ends else None


def _compared(ends: _Ends, form: Callable[[float], str]) -> str:
    names = {"before": "untrained", "sgd": "SGD", "naive": "naive"}
    found = [f"{words} {form(ends.of[name])}" for name, words in names.items() if name in ends.of]
    return ", ".join([*([f"mean of {ends.seeds} seeds"] if ends.seeds > 1 else []), *found])
