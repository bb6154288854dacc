"""Adam's eps_root relative to the squared gradient (Tables 7 to 10; section 4.4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from dpg.config import RunConfig
from dpg.figures.style import GREY, PAGE, new_figure, styled
from dpg.findings.bases import language_pair
from dpg.findings.curves import COLORS, arms, draw_language, last, legend
from dpg.findings.lab import PLAIN, Lab, changed, kept_tokens, mean_gradient, metagradients

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TITLE = "eps_root relative to the squared gradient"

METHOD = """\
At T = 1 the reward of Adam weighs coordinate j by eps_root / (g_j^2 + eps_root)^1.5, with g the
gradient of the training step. If eps_root is far below g^2, the reward comes from the few
coordinates whose gradient happens to be near zero. These coordinates change with the batch, so the
same text gets another reward. Here eps_root is set to multiples of the squared gradient, averaged
over all coordinates, on the untuned generator's text. Repeatability compares the rewards of one
half of a batch before and after the other half is replaced: it is their correlation. It needs no
generator training. SGD weighs all coordinates equally and is the limit of a large eps_root."""

MULTIPLES = (0.01, 0.1, 1.0, 10.0)
"""eps_root divided by the mean squared gradient."""


def frame(lab: Lab) -> pd.DataFrame:
    """Repeat Adam's run with each eps_root, and measure how well its rewards repeat.

    Returns:
        Two kinds of rows: "curve", those of `curves.arms`, and "static", with repeatability. All
        have arm, eps_root and multiple (eps_root divided by the mean squared gradient). In SGD's
        row the last two are missing.
    """
    adam, sgd = language_pair(lab.study)
    texts = kept_tokens(lab.run_of_the_study(adam), last=False)
    length = adam.generator.response_tokens
    square = float(np.mean(mean_gradient(lab.scorer(adam), texts, length) ** 2))
    values = {_name(k): float(f"{k * square:.3g}") for k in MULTIPLES}
    changes = {arm: {"learner": {"eps_root": value}} for arm, value in values.items()}
    curves = arms(lab, "eps_root", [adam], changes).assign(kind="curve")
    runs = {PLAIN: adam} | {arm: changed(adam, change) for arm, change in changes.items()}
    static = [
        {
            "kind": "static",
            "method": "adam",
            "arm": arm,
            "repeatability": repeatability(lab, run, texts),
        }
        for arm, run in runs.items()
    ]
    static.append(
        {
            "kind": "static",
            "method": "sgd",
            "arm": "SGD",
            "repeatability": repeatability(lab, sgd, texts),
        }
    )
    table = pd.concat([curves, pd.DataFrame(static)], ignore_index=True)
    table["eps_root"] = table["arm"].map({PLAIN: adam.learner.eps_root} | values)
    table["multiple"] = table["eps_root"] / square
    return table


def _name(multiple: float) -> str:
    return f"{multiple:g} x g2"


def repeatability(lab: Lab, run: RunConfig, texts: list[list[int]]) -> float:
    """The correlation of the rewards of the same texts in two batches with different other halves.

    Args:
        lab: builds the target.
        run: gives the reward.
        texts: token ids. They are cut into three equal parts: the texts that are scored, and the
            two other halves.
    """
    third = len(texts) // 3
    one, two, three = (texts[i * third : (i + 1) * third] for i in range(3))
    scorer, length = lab.scorer(run), run.generator.response_tokens
    first, second = (
        metagradients(scorer, [*one, *other], length)[:third] for other in (two, three)
    )
    return float(np.corrcoef(first, second)[0, 1])


@styled
def draw(table: pd.DataFrame) -> Figure:
    """Draw the language and the entropy over the steps, and the repeatability against eps_root."""
    figure = new_figure(PAGE, 2.5)
    panels = figure.subplots(1, 3)
    curves = table[table["kind"] == "curve"]
    names = list(dict.fromkeys(curves["arm"]))
    draw_language(panels[0], curves, "share", names)
    draw_language(panels[1], curves, "entropy", names)
    static = table[table["kind"] == "static"]
    adam = static[static["method"] == "adam"]
    for index, arm in enumerate(names):
        rows = adam[adam["arm"] == arm]
        panels[2].plot(rows["multiple"], rows["repeatability"], "o", color=COLORS[index])
    ordered = adam.sort_values("multiple")
    panels[2].plot(ordered["multiple"], ordered["repeatability"], color=GREY, zorder=0)
    limit = float(static.loc[static["method"] == "sgd", "repeatability"].iloc[0])
    panels[2].axhline(limit, color=GREY, linestyle=":")
    panels[2].text(0.03, limit, "SGD", transform=panels[2].get_yaxis_transform(), va="top")
    panels[2].set(xscale="log", xlabel=r"eps_root / mean $g^2$", ylabel="Repeatability of rewards")
    legend(figure, panels[0], names)
    return figure


def sentence(table: pd.DataFrame) -> str:
    """Repeatability, language and entropy at the study's eps_root and at the largest."""
    static = table[table["kind"] == "static"].set_index("arm")
    repeats = static["repeatability"].astype(float)
    own = float(static["multiple"].astype(float)[PLAIN])
    most = _name(max(MULTIPLES))
    text = (
        f"The study's eps_root is {own:.2g} of the mean squared gradient, and rewards repeat with "
        f"a correlation of {repeats[PLAIN]:.2f}; at {max(MULTIPLES):g} times the mean squared "
        f"gradient it is {repeats[most]:.2f}, and with SGD {repeats['SGD']:.2f}"
    )
    curves = table[table["kind"] == "curve"]
    before, after = last(curves, "adam", PLAIN), last(curves, "adam", most)
    if before is None or after is None:
        return f"{text}; one of the two runs diverged."
    return (
        f"{text}. From the study's eps_root to the largest, the share of the target language after "
        f"half of the steps goes from {100 * _at_half(curves, PLAIN):.0f} to "
        f"{100 * _at_half(curves, most):.0f} %, and the entropy at the end from "
        f"{before['entropy']:.1f} to {after['entropy']:.1f} bits."
    )


def _at_half(curves: pd.DataFrame, arm: str) -> float:
    rows = curves[curves["arm"] == arm].dropna(subset="share").sort_values("step")
    return float(rows["share"].iloc[len(rows) // 2])
