"""Shared by the findings about a language: the arms, their curves, and their figure and words."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pandas as pd

from dpg.config import RunConfig
from dpg.errors import DpgError
from dpg.figures import style
from dpg.figures.style import PAGE, new_figure, styled
from dpg.findings.lab import PLAIN, Lab, changed, language_curve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {"adam": "Adam", "sgd": "SGD"}
"""Method -> its name in the paper."""

COLORS = (style.BLACK, style.BLUE, style.VERMILLION, style.GREEN, style.PURPLE, style.ORANGE)
_MARKERS = "osD^vP"

Changes = Mapping[str, Mapping[str, Any]]


def arms(
    lab: Lab, finding: str, bases: Sequence[RunConfig], changes: Mapping[str, Changes]
) -> pd.DataFrame:
    """The curves of the study's own runs, and of these runs with each change.

    Args:
        lab: carries out runs.
        finding: its name.
        bases: runs of the study, finished.
        changes: arm -> section -> key -> value that differs from the study's run.

    Returns:
        One row per method, arm and validation: method, arm, step, share, entropy, length, metric.
        An arm that diverged (its target or generator became infinite or NaN) has one row, without
        values.

    Raises:
        DpgError: a change that changes nothing, so the arm would be the study's run again.
    """
    runs = [(base, _changed_runs(finding, base, changes)) for base in bases]
    parts = []
    for base, arms_of_base in runs:
        method = base.learner.optimizer
        parts.append(_curve(lab, lab.run_of_the_study(base), method, PLAIN))
        for arm, run in arms_of_base.items():
            done = lab.train(run, finding, f"{method}-{arm.replace(' ', '-')}")
            if done is None:
                lost = {"method": method, "arm": arm, "step": 0}
                parts.append(pd.DataFrame([lost], columns=parts[0].columns))
                continue
            parts.append(_curve(lab, done, method, arm))
    return pd.concat(parts, ignore_index=True)


def _changed_runs(
    finding: str, base: RunConfig, changes: Mapping[str, Changes]
) -> dict[str, RunConfig]:
    """Arm -> the run with its change."""
    runs = {arm: changed(base, change) for arm, change in changes.items()}
    for arm, run in runs.items():
        if run == base:
            values = ", ".join(
                f"{section}.{key}: {value}"
                for section, keys in changes[arm].items()
                for key, value in keys.items()
            )
            raise DpgError(
                f"{base.path} already has {values}; expected a run without it, since the finding "
                f"{finding} compares the two: make the finding with another scale, such as one "
                "with reading: text"
            )
    return runs


def _curve(lab: Lab, run: Any, method: str, arm: str) -> pd.DataFrame:
    curve = language_curve(run, lab.judge)
    return curve.assign(method=method, arm=arm)[["method", "arm", *curve.columns]]


def draw_language(axes: Axes, table: pd.DataFrame, column: str, arms: Sequence[str]) -> None:
    """Draw one line per arm against the GRPO steps.

    Args:
        axes: where to.
        table: rows of `arms`, of one method.
        column: "share" (drawn as per cent), "entropy" (bits) or "length" (tokens).
        arms: those to draw, in order.
    """
    scale = 100 if column == "share" else 1
    for index, arm in enumerate(arms):
        rows = table[(table["arm"] == arm)].dropna(subset=column).sort_values("step")
        if rows.empty:
            continue
        axes.plot(
            rows["step"], scale * rows[column], label=arm, color=COLORS[index % len(COLORS)],
            marker=_MARKERS[index % len(_MARKERS)], markersize=3, linewidth=1.2,
        )  # fmt: skip
    labels = {
        "share": "Target language (%)",
        "entropy": "Bigram entropy (bits)",
        "length": "Tokens per response",
    }
    axes.set(xlabel="GRPO steps", ylabel=labels[column])
    if column == "share":
        axes.set_ylim(-3, 103)


@styled
def draw_arms(table: pd.DataFrame, measures: Sequence[str] = ("share", "entropy")) -> Figure:
    """Draw one row of panels per measure (a column of `arms`), and one column per method."""
    methods = [name for name in NAMES if (table["method"] == name).any()]
    names = list(dict.fromkeys(table["arm"]))
    figure = new_figure(PAGE, 1.3 + 1.3 * len(measures))
    panels = figure.subplots(len(measures), len(methods), squeeze=False, sharex=True, sharey="row")
    for column, method in enumerate(methods):
        rows = table[table["method"] == method]
        for row, measure in enumerate(measures):
            draw_language(panels[row, column], rows, measure, names)
            panels[row, column].label_outer()
        panels[0, column].set_title(f"{NAMES[method]} in the target")
    legend(figure, panels[0, 0], names)
    return figure


def legend(figure: Figure, axes: Axes, names: Sequence[str]) -> None:
    """Draw one legend under all panels, with the lines of one panel."""
    handles, labels = axes.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=min(5, len(names)))


def last(table: pd.DataFrame, method: str, arm: str) -> pd.Series | None:
    """The last validation of an arm; None if the arm diverged."""
    rows = table[(table["method"] == method) & (table["arm"] == arm)].dropna(subset="share")
    return None if rows.empty else rows.sort_values("step").iloc[-1]


def at_the_end(row: pd.Series | None) -> str:
    """Words for the last validation of an arm, such as "94 % and 11.5 bits"."""
    if row is None:
        return "no value, since it diverged"
    return f"{100 * row['share']:.0f} % and {row['entropy']:.1f} bits"


def beside_plain(
    table: pd.DataFrame,
    arm: str,
    plain: str,
    words: Callable[[pd.Series | None], str] = at_the_end,
) -> str:
    """Words for the end of an arm under each method, and for the study's own run in brackets.

    Args:
        table: rows of `arms`.
        arm: the arm.
        plain: what the study's own run is called.
        words: for the last validation of a run.
    """
    return "; ".join(
        f"{name} {words(last(table, method, arm))} ({plain}: {words(last(table, method, PLAIN))})"
        for method, name in NAMES.items()
    )
