"""The time (relative to plain training) and the memory against T, one line per method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.metagradient.task import METHODS
from dpg.figures import style

if TYPE_CHECKING:
    from matplotlib.axes import Axes

COLORS = (
    style.BLUE, style.SKY, style.VERMILLION, style.ORANGE, style.PURPLE, style.GREEN, style.GREY,
    style.BLACK, style.BLUE, style.VERMILLION,
)  # fmt: skip
MARKERS = "osD^v<>PX*"
LABELS = METHODS | {
    "dpg": "dpg",
    "dpg-tapes": "dpg, tapes kept",
    "dpg-budget": "dpg, one state kept",
}

Rows = Sequence[Mapping[str, Any]]


@style.styled
def draw(rows: Rows, path: Path) -> None:
    """Draw the rows of the model that was measured most often, and write the figure as PNG."""
    swept, shown = _swept(rows)
    figure = style.new_figure(style.PAGE, 2.8)
    left, right = figure.subplots(1, 2)
    names = dict.fromkeys(r["method"] for r in shown)
    for name, color, marker in zip(names, COLORS, MARKERS, strict=False):
        mine = sorted((r for r in shown if r["method"] == name), key=lambda r: r["steps"])
        T = [r["steps"] for r in mine]
        marks = {"color": color, "marker": marker, "markersize": 3, "label": LABELS[name]}
        left.plot(T, [r["least_ratio"] for r in mine], **marks)
        right.plot(T, [r["allocated_bytes"] / 1e9 for r in mine], **marks)
    for axes in (left, right):
        _steps_axis(axes, swept)
    left.set_ylabel("least time / plain training's")
    left.set_ylim(0)
    right.set_yscale("log")
    right.set_ylabel("memory (GB)")
    handles, labels = right.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, frameon=False)
    figure.savefig(path, dpi=style.DPI)


def _swept(rows: Rows) -> tuple[list[int], Rows]:
    """The T that this library was measured at, and the rows that the figure shows."""
    models = [row["model"] for row in rows]
    model = max(models, key=models.count)
    rows = [r for r in rows if r["model"] == model and "error" not in r]
    swept = {r["steps"] for r in rows if r["method"] == "dpg"}
    shown = [r for r in rows if r["steps"] in swept and r["method"] != "kary"]
    return sorted(swept), [r for r in shown if not (r["budget"] or r["microbatch"])]


def _steps_axis(axes: Axes, swept: list[int]) -> None:
    axes.set_xscale("log", base=2)
    axes.set_xticks(swept, [str(T) for T in swept])
    axes.set_xlabel("training steps T")
