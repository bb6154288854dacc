"""The effect of the steepness s of the pattern's loss on Adam and on SGD (section 4.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pandas as pd

from dpg.config import RunConfig, Study
from dpg.figures.legend import COLORS, MARKERS
from dpg.figures.style import PAGE, new_figure, styled
from dpg.findings.bases import pattern_pair
from dpg.findings.lab import Lab, changed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "How steep the pattern's loss is"

METHOD = """\
The metric of a pattern is minus the mean of ln(1 + exp(-s Y (P_c - P_i))). With Adam a weight moves
by at most T x rate, so s x rate x T says how far a pixel can move along this curve. If it is small,
the loss is a straight line: a pixel that is right already is rewarded as much as one that is
wrong. The paper has s = 20, and s x rate x T = 0.01. Here the 67 is learned with s from 20 to 800,
and nothing else changes. Adam's rate x T is that of this study's QR code. SGD's rate is the
study's own."""

SCALES = (20.0, 50.0, 126.0, 318.0, 800.0)
STEPS = 40
"""The most GRPO steps of a run."""


def frame(lab: Lab) -> pd.DataFrame:
    """Learn the 67 with Adam and with SGD in the target, at each s.

    Returns:
        One row per method, s and validation: method, scale (s), rate, horizon (T), step, pixels
        (the share of right pixels). A run that diverged has one row, with step 0 and no pixels.
    """
    rows: list[dict[str, Any]] = []
    for base in pattern_pair(lab.study):
        method = base.learner.optimizer
        for scale in SCALES:
            run = _with_scale(lab.study, base, scale)
            fixed = {
                "method": method,
                "scale": scale,
                "rate": run.learner.learning_rate,
                "horizon": run.learner.steps,
            }
            done = lab.train(run, "pattern_scale", f"{method}-s{scale:g}")
            if done is None:
                rows.append(fixed | {"step": 0, "pixels": None})
                continue
            curve = done.validations("pixels_right")
            for step, pixels in zip(curve["step"], curve["pixels_right"], strict=True):
                rows.append(fixed | {"step": int(step), "pixels": float(pixels)})
    return pd.DataFrame(rows)


def _with_scale(study: Study, base: RunConfig, scale: float) -> RunConfig:
    rate = base.learner.learning_rate
    if base.learner.optimizer == "adam":
        rate = _reach(study, base) / base.learner.steps
    return changed(
        base,
        {
            "metric": {"scale": scale},
            "learner": {"learning_rate": rate},
            "generator": {"grpo_steps": min(STEPS, base.generator.grpo_steps)},
            "validation": {"every": min(8, base.validation.every)},
        },
    )


def _reach(study: Study, base: RunConfig) -> float:
    """T x rate of the study's longest QR-code run, or of the run itself if there is none."""
    codes = [run for run in study.runs if run.experiment == "qr"]
    run = max(codes or [base], key=lambda run: run.learner.steps)
    return run.learner.steps * run.learner.learning_rate


def ends(table: pd.DataFrame) -> pd.DataFrame:
    """Columns method, scale, last (pixels at the end), mean (pixels, validations after step 0)."""
    later = table[table["step"] > 0].dropna(subset="pixels").sort_values("step")
    grouped = later.groupby(["method", "scale"])["pixels"]
    return grouped.agg(last="last", mean="mean").reset_index()


@styled
def draw(table: pd.DataFrame) -> Figure:
    """Draw the right pixels at the end (left) and on average over the run (right) against s."""
    figure = new_figure(PAGE, 2.4)
    panels = figure.subplots(1, 2, sharey=True)
    found = ends(table)
    for method, name in (("adam", "Adam"), ("sgd", "SGD")):
        rows = found[found["method"] == method]
        line = {"color": COLORS[method], "marker": MARKERS[method], "markersize": 4}
        panels[0].plot(rows["scale"], 100 * rows["last"], label=name, **line)
        panels[1].plot(rows["scale"], 100 * rows["mean"], label=name, **line)
    for axes, title in zip(panels, ("at the end", "mean of all validations"), strict=True):
        axes.set(xscale="log", xlabel="s", title=title, xticks=SCALES)
        axes.set_xticks(SCALES, [f"{scale:g}" for scale in SCALES])
        axes.minorticks_off()
    panels[0].set_ylabel("Pixels right (%)")
    panels[0].legend()
    return figure


def sentence(table: pd.DataFrame) -> str:
    """Adam's and SGD's pixels, and the gap between them, at the smallest and the largest s."""
    found = ends(table)
    parts, leads = [], []
    for scale in (min(SCALES), max(SCALES)):
        adam, sgd = _at(found, "adam", scale), _at(found, "sgd", scale)
        parts.append(f"at s = {scale:g} Adam {_words(adam)} and SGD {_words(sgd)}")
        leads.append(None if adam is None or sgd is None else 100 * (adam["mean"] - sgd["mean"]))
    text = f"Pixels right: {'; '.join(parts)}."
    low, high = leads
    if low is None or high is None:
        return text
    return (
        f"{text} Adam's lead, as the mean over the run, is {low:+.1f} points at the smallest s and "
        f"{high:+.1f} at the largest."
    )


def _at(found: pd.DataFrame, method: str, scale: float) -> pd.Series | None:
    rows = found[(found["method"] == method) & (found["scale"] == scale)]
    return None if rows.empty else rows.iloc[0]


def _words(row: pd.Series | None) -> str:
    if row is None:
        return "diverged"
    return f"ends at {100 * row['last']:.0f} % (mean over the run {100 * row['mean']:.0f} %)"
