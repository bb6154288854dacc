"""A study's main numbers, each with the numbers to compare it with.

They are read from the tables of the figures, so they agree with the figures.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from dpg.claims.verdicts import HOLDS
from dpg.study.runs import Variant
from dpg.text.languages import TARGET_CODES

_NAMES = {"de": "German", "es": "Spanish", "fr": "French", "it": "Italian"}


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
    scans = "scans" in here and bool((here["scans"] >= 1).any())
    note = f"pixels right; the code {'scans' if scans else 'does not scan'}"
    yield Headline("QR code in the LM head", f"{right} of {len(pixels)}", note)


def _patterns_and_norm(table: pd.DataFrame) -> Iterator[Headline]:
    image, norm = (table[table["experiment"] == name] for name in ("sixseven", "norm"))
    if len(image) and (ends := _ends(image, "value")):
        note = _compared(ends, "{:.0f}", scale=42)
        yield Headline("67 in the LM head", f"{42 * ends['adam']:.0f} of 42", f"pixels; {note}")
    if len(norm) and (ends := _ends(norm, "value")):
        note = _compared(ends, "{:+.2f}")
        yield Headline("Norm of the LM head", f"{ends['adam']:+.2f}", f"change; {note}")


def _languages(table: pd.DataFrame) -> Iterator[Headline]:
    for code in TARGET_CODES:
        here = table[table["language"] == code]
        if len(here) and (ends := _ends(here, "fraction")):
            note = _compared(ends, "{:.0f} %", scale=100)
            name = f"Rollouts in {_NAMES.get(code, code)}"
            yield Headline(name, f"{100 * ends['adam']:.0f} %", note)


def _uuid(table: pd.DataFrame) -> Iterator[Headline]:
    if ends := _ends(table, "exact"):
        note = _compared(ends, "{:.0f} %", scale=100)
        yield Headline("Rollouts with the UUID", f"{100 * ends['adam']:.0f} %", note)


def _own(table: pd.DataFrame) -> Iterator[Headline]:
    for experiment, here in table.groupby("experiment", sort=False):
        first = here[here["step"] == here["step"].min()]["value"].mean()
        last = here[here["step"] == here.groupby("variant")["step"].transform("max")]
        ends = last.groupby("variant", sort=False)["value"].mean()
        rest = [f"{name} {value:.4g}" for name, value in ends.iloc[1:].items()]
        note = ", ".join([f"metric of {ends.index[0]}", f"before {first:.4g}", *rest])
        yield Headline(str(experiment), f"{ends.iloc[0]:.4g}", note)


def _ends(table: pd.DataFrame, column: str) -> dict[str, float]:
    """Means over seeds: before Adam's training ("before"), and at the end for each method.

    Of each method the variant with the longest T is used. Empty if no generator was trained with
    metagradients and Adam.
    """
    ends: dict[str, float] = {}
    variants = sorted(map(Variant.parse, table["variant"].unique()), key=lambda one: one.order)
    for variant in variants:
        if variant.extra or variant.method in ends:
            continue
        rows = table[table["variant"] == variant.name]
        if variant.method == "adam":
            ends["before"] = float(rows[rows["step"] == 0][column].mean())
        ends[variant.method] = float(rows[rows["step"] == rows["step"].max()][column].mean())
    return ends if "adam" in ends else {}


def _compared(ends: Mapping[str, float], form: str, scale: float = 1.0) -> str:
    names = {"before": "untrained", "sgd": "SGD", "naive": "naive"}
    found = {words: ends[name] for name, words in names.items() if name in ends}
    return ", ".join(f"{words} {form.format(scale * value)}" for words, value in found.items())
