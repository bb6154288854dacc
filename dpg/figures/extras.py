"""Runs beside a study, with the study's own: language, variety and length of what they write.

They are in no figure of the paper. Such a run changes one setting of a study's run, such as the
mean of an example's loss, so its name begins with that run's: `sgd-all-positions`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from dpg.config.downstream import METHODS
from dpg.evaluation.judge import LANGUAGES
from dpg.figures import figure_4
from dpg.figures.legend import COLORS, DASHES, MARKERS, line_style
from dpg.figures.style import GREY, PAGE, curves, legend_below, new_figure, styled
from dpg.study.runs import Run, by_step

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_PANELS = {
    "percent": "In the target language (%)",
    "entropy": "Bigram entropy (bits)",
    "tokens": "Tokens per response",
    "ended": "End by themselves (%)",
}
"""Measure -> its panel's title, from left to right."""

_HOLLOW = {"markerfacecolor": "white", "markeredgewidth": 0.8}


def frame(run_dirs: Sequence[str | Path]) -> pd.DataFrame:
    """Collect the measures at every validation.

    Returns:
        One row per validation: the columns of `figure_4.frame`, tokens (mean number per response),
        shorter (fraction of responses that end before the longest length) and metric.

    Raises:
        DpgError: as `figure_4.frame`.
    """
    runs = figure_4.language_runs(run_dirs)
    table = pd.concat([_measures(run) for run in runs], ignore_index=True)
    if "stopped" in table:  # last, as in a kept table that a stopped run is added to
        table["stopped"] = table.pop("stopped")
    return table


def _measures(run: Run) -> pd.DataFrame:
    judged = run.judged()
    longest = run.config["generator"]["response_tokens"]
    lengths = [table["tokens"].map(len) for _, table in by_step(judged)]
    metric = run.validations("metric").set_index("step")["metric"]
    table = figure_4.measures(run, judged)
    return table.assign(
        tokens=[float(length.mean()) for length in lengths],
        shorter=[float((length < longest).mean()) for length in lengths],
        metric=table["step"].map(metric),
    )


def label(variant: str) -> str:
    """The text in the legend: "SGD, all positions" for `sgd-all-positions`."""
    method, _, change = variant.partition("-")
    if method not in METHODS:
        return variant
    return ", ".join(part for part in (METHODS[method], change.replace("-", " ")) if part)


@styled
def draw(frame: pd.DataFrame) -> Figure:
    """Draw one row of panels per language: colour shows the method, dashes show the change."""
    languages = sorted(set(frame["language"]))
    frame = frame.assign(
        label=frame["variant"].map(label),
        percent=100 * frame["fraction"],
        ended=100 * frame["shorter"],
    )
    styles = styles_of(list(frame["variant"].unique()))
    figure = new_figure(PAGE, 0.7 + 1.7 * len(languages))
    panels = figure.subplots(len(languages), len(_PANELS), squeeze=False, sharex="row")
    for row, code in zip(panels, languages, strict=True):
        here = frame[frame["language"] == code]
        for axes, (measure, title) in zip(row, _PANELS.items(), strict=True):
            curves(axes, here, x="step", y=measure, by="label", styles=styles)
            axes.set_title(title)
            if measure in ("percent", "ended"):
                axes.set_ylim(-3, 103)
        row[2].set_ylim(bottom=0)
        row[0].set_ylabel(LANGUAGES.get(code, code))
    for axes in panels[-1]:
        axes.set_xlabel("GRPO steps")
    stopped = "stopped" in frame and frame["stopped"].notna().any()
    note = "a line ends where its run ended or was stopped" if stopped else ""
    legend_below(figure, frame, styles, ncols=4, note=note)
    return figure


def styles_of(variants: Sequence[str]) -> dict[str, dict[str, Any]]:
    """Label -> style, in the legend's order: by method, and then the plain run before its changes.

    A run whose name begins with no method is last, grey and solid.
    """
    known = [*METHODS, *sorted({name.partition("-")[0] for name in variants} - set(METHODS))]
    split = {name: name.partition("-")[::2] for name in variants}
    changes = sorted({change for method, change in split.values() if method in METHODS})
    styles = {}
    for name in sorted(variants, key=lambda name: (known.index(split[name][0]), split[name][1])):
        method, change = split[name]
        place = changes.index(change) % len(DASHES) if change in changes else 0
        style = line_style(COLORS.get(method, GREY), MARKERS.get(method, "d"), DASHES[place])
        # On a short line the last two dashes look like the first two, so their markers are hollow.
        styles[label(name)] = style | (_HOLLOW if place > 1 else {})
    return styles
