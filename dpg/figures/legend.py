"""Line styles of variants: colour and marker show the method, dashes show T."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from dpg.figures import style
from dpg.study.runs import Variant

if TYPE_CHECKING:
    import pandas as pd

COLORS = {
    "adam": style.BLUE,
    "sgd": style.VERMILLION,
    "naive": style.GREEN,
    "embedding": style.ORANGE,
    "levenshtein": style.PURPLE,
    "fasttext": style.SKY,
}
"""Method -> colour; any other method is grey."""

MARKERS = {
    "adam": "o",
    "sgd": "s",
    "naive": "^",
    "embedding": "D",
    "levenshtein": "v",
    "fasttext": "P",
}
"""Method -> marker, for readers who cannot distinguish the colours."""

_EXTRA_MARKERS = {"nogroups": "*", "redo": "X"}
_EXTRA = {"nogroups": style.PURPLE, "redo": style.SKY}  # the two extra runs of Adam
DASHES = ["-", (0, (4, 1.5)), (0, (1, 1.2)), (0, (4, 1.2, 1, 1.2))]
"""How a line is dashed: solid first."""


def stopped_lines(frame: pd.DataFrame) -> list[str]:
    """One line for each run that was stopped before its end, for below a figure.

    Args:
        frame: variant, seed and, if any run was stopped, stopped (how far it got; missing where a
            run is whole).
    """
    if "stopped" not in frame:
        return []
    runs = frame.dropna(subset="stopped").drop_duplicates(["variant", "seed"])
    pairs = zip(runs["variant"], runs["stopped"], strict=True)
    return [f"{Variant.parse(name).label} {words}" for name, words in pairs]


def color_of(variant: Variant) -> str:
    """The colour of a variant's line."""
    return _EXTRA.get(variant.extra) or COLORS.get(variant.method, style.GREY)


def marker_of(variant: Variant) -> str:
    """The marker on a variant's line."""
    return _EXTRA_MARKERS.get(variant.extra) or MARKERS.get(variant.method, "d")


def line_style(color: str, marker: str, dashes: Any) -> dict[str, Any]:
    """What `Axes.plot` takes for a line with small markers."""
    return {
        "color": color,
        "marker": marker,
        "markersize": 3.2,
        "markeredgewidth": 0,
        "linestyle": dashes,
    }


def line_styles(variants: Sequence[Variant]) -> dict[str, dict[str, Any]]:
    """Return label -> colour, marker and dashes, in the legend's order; the longest T is solid."""
    horizons = sorted({variant.steps or 0 for variant in variants}, reverse=True)
    return {
        variant.label: line_style(
            color_of(variant),
            marker_of(variant),
            DASHES[min(horizons.index(variant.steps or 0), len(DASHES) - 1)],
        )
        for variant in sorted(set(variants), key=lambda variant: variant.order)
    }
