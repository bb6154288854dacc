"""Figure 3: the 6x7 images in the target models' LM heads after the generators were trained."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from dpg.figures.legend import stopped_lines
from dpg.figures.style import VERMILLION, new_figure, styled
from dpg.study.runs import Variant, select

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def frame(run_dirs: Sequence[str | Path]) -> pd.DataFrame:
    """Collect the image of each run's last validation.

    Returns:
        One row per pixel: variant, seed, step (GRPO steps done), row, column, sign (-1, 0, 1: the
        sign of P_c - P_i), pattern (-1, 1). If a run was stopped before its end, a column `stopped`
        says after which step.

    Raises:
        DpgError: there is no run of sixseven among the directories, or a run has no images.
    """
    runs = select(run_dirs, lambda run: run.experiment == "sixseven", need="a run of sixseven")
    tables = []
    for run in runs:
        pattern, images = run.pattern()
        step = max(images)
        table = pixels(images[step], pattern)
        table.insert(0, "variant", run.variant.name)
        table.insert(1, "seed", run.seed)
        table.insert(2, "step", step)
        tables.append(run.marked(table))
    return pd.concat(tables, ignore_index=True)


def pixels(image: np.ndarray, pattern: np.ndarray) -> pd.DataFrame:
    """Return an image [h, w] and its pattern [h, w] as a table: row, column, sign, pattern."""
    rows, columns = np.indices(pattern.shape)
    return pd.DataFrame(
        {
            "row": rows.ravel(),
            "column": columns.ravel(),
            "sign": image.ravel(),
            "pattern": pattern.ravel(),
        }
    )


def image(table: pd.DataFrame, value: str) -> np.ndarray:
    """Return a column of a table like that of `pixels` as an array [h, w]."""
    return table.pivot(index="row", columns="column", values=value).to_numpy()


def paper_order(variant: Variant) -> tuple[int, int, bool, str]:
    """A key that sorts variants as in the paper: no groups; Adam by T, then redo; SGD; Naive."""
    heads = ["nogroups", "adam", "sgd", "naive"]
    head = variant.extra if variant.extra == "nogroups" else variant.method
    place = heads.index(head) if head in heads else len(heads)
    return (place, variant.steps or 0, bool(variant.extra), variant.name)


CELL, GAP, BREAK = 0.47, 0.055, 0.14
"""Inches: an image's width, the space between images, and between groups of images."""

FOOT, LINE = 0.20, 0.11
"""Inches: space below each image for its number of right pixels, and for a line of small print."""


@styled
def draw(frame: pd.DataFrame) -> Figure:
    """Draw the pattern, then one column per variant and one row per seed.

    White is +1, black is -1, grey is 0 (the weight did not change). Dots mark wrong pixels.
    """
    variants = sorted(map(Variant.parse, frame["variant"].unique()), key=paper_order)
    seeds = sorted(frame["seed"].unique())
    target = image(frame.drop_duplicates(["row", "column"]), "pattern")
    height, width = target.shape
    tall = CELL * height / width
    heads = [_head(variant) for variant in variants]
    top = 0.50 if any("\n" in head for head in heads) else 0.38  # two lines of words, or one
    lefts, right = _lefts(heads)
    page = max(right, 2.0)
    lefts = [left + (page - right) / 2 for left in lefts]
    stopped = stopped_lines(frame)
    images = len(seeds) * (tall + FOOT)
    figure = new_figure(page, top + images + LINE * len(stopped))
    figure.set_layout_engine("none")  # every place is set below, in inches

    def place(left: float, row: int) -> Axes:
        size = np.array([page, figure.get_figheight()])
        bottom = size[1] - top - row * (tall + FOOT) - tall
        return figure.add_axes((*np.array([left, bottom]) / size, *np.array([CELL, tall]) / size))

    def write(x: float, above: float, words: str, va: str = "baseline", **settings: Any) -> None:
        y = 1 - (top - above) / figure.get_figheight()
        figure.text(x / page, y, words, ha="center", va=va, linespacing=0.95, **settings)

    show(place(lefts[0], 0), target, target)
    write(lefts[0] + CELL / 2, 0.05, "Target")
    for left, variant in zip(lefts[1:], variants, strict=True):
        steps = "" if variant.steps is None else str(variant.steps)
        redo = " (redo)" if variant.extra == "redo" else ""
        write(left + CELL / 2, 0.05, steps + redo, fontsize=7)
        for row, seed in enumerate(seeds):
            here = frame[(frame["seed"] == seed) & (frame["variant"] == variant.name)]
            if here.empty:
                continue
            axes = place(left, row)
            signs, pattern = image(here, "sign"), image(here, "pattern")
            show(axes, signs, pattern)
            axes.set_xlabel(f"{(signs == pattern).sum()}/{signs.size}", fontsize=7, labelpad=2)
    for row, seed in enumerate(seeds if len(seeds) > 1 else []):
        middle = -(row * (tall + FOOT) + tall / 2)
        write(lefts[1] - BREAK / 2, middle, f"seed {seed}", fontsize=6, rotation=90, va="center")
    for number, words in enumerate(stopped):
        write(page / 2, -images - LINE * number, words, fontsize=6, va="top")
    for head in dict.fromkeys(heads):
        here = [left for left, name in zip(lefts[1:], heads, strict=True) if name == head]
        write((here[0] + here[-1] + CELL) / 2, 0.19, head)
    return figure


def _lefts(heads: list[str]) -> tuple[list[float], float]:
    """Return the left edges of the target's and the variants' images, and the total width."""
    lefts, before = [0.05], None
    for head in heads:
        lefts.append(lefts[-1] + CELL + (GAP if head == before else BREAK))
        before = head
    return lefts, lefts[-1] + CELL + 0.05


def _head(variant: Variant) -> str:
    return "Adam w/o\ngrp batch" if variant.extra == "nogroups" else variant.title


def show(axes: Axes, signs: np.ndarray, pattern: np.ndarray) -> None:
    """Draw signs [h, w] as an image and mark the pixels that differ from the pattern."""
    axes.imshow(signs, cmap="gray", vmin=-1, vmax=1, interpolation="nearest", origin="upper")
    wrong_rows, wrong_columns = np.nonzero(signs != pattern)
    axes.scatter(wrong_columns, wrong_rows, s=5, color=VERMILLION, linewidths=0, zorder=3)
    axes.set(xticks=[], yticks=[])
    axes.grid(False)
    for spine in axes.spines.values():
        spine.set(visible=True, linewidth=0.5, color="#808080")
