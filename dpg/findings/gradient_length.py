"""How long a text's gradient is, and how far along the metric's, with both means of its loss."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pandas as pd

from dpg.figures.style import GREEN, GREY, PAGE, PURPLE, new_figure, styled
from dpg.findings.bases import language_pair
from dpg.findings.example_mean import ALL_POSITIONS
from dpg.findings.lab import (
    Lab,
    along_metric,
    changed,
    gradient_lengths,
    repeated,
    untuned_texts,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

TITLE = "The length of a text's gradient"

METHOD = """\
SGD's step is proportional to the gradient. At first order, SGD's reward of a text is the length of
its gradient times the cosine with the metric's gradient. Both depend on how an example's loss is
averaged: over its own tokens, or over all positions with padding as token 0 (as in the authors'
code). Here are texts of the untuned generator, cut to their first k tokens, and the same k tokens
repeated up to full length. The upper panels show the l2 norm of the gradient over all parameters at
the start of training. The lower panels show its component along the metric's gradient: what SGD
rewards. Both are relative to the mean norm for whole texts. Lines are means, and bands hold 80 % of
the texts. GRPO favours texts above their group's mean, so the upper edge of a band matters."""

SIZES = (2, 4, 8, 16, 32)
"""k, in tokens."""

TEXTS = 16
OWN_TOKENS = "own tokens"
LOSSES = {OWN_TOKENS: "own_tokens", ALL_POSITIONS: "all_positions"}
_STYLES = {"short": ("k tokens alone", PURPLE, "^"), "repeated": ("k tokens, repeated", GREEN, "D")}


def frame(lab: Lab) -> pd.DataFrame:
    """The length and the component of every text's gradient.

    Returns:
        Columns loss (a name of `LOSSES`), text ("whole", "short" or "repeated"), size (k; for whole
        texts their length), row (of the text), length (l2 norm), along (the component along the
        metric's gradient, positive where training on the text raises the metric).
    """
    adam, _ = language_pair(lab.study)
    texts = sorted(untuned_texts(lab, adam), key=len, reverse=True)[:TEXTS]
    length = min(map(len, texts))
    texts = [text[:length] for text in texts]
    kinds = {("whole", length): texts}
    for size in (size for size in SIZES if size < length):
        kinds["short", size] = [text[:size] for text in texts]
        kinds["repeated", size] = [repeated(text, size, length) for text in texts]
    every = [text for own in kinds.values() for text in own]
    space = adam.generator.response_tokens
    parts = []
    for name, loss in LOSSES.items():
        scorer = lab.scorer(changed(adam, {"learner": {"loss": loss}}))
        part = pd.DataFrame(
            {"length": gradient_lengths(scorer, every, space),
             "along": along_metric(scorer, every, space)},
            index=pd.MultiIndex.from_tuples(
                [(name, *kind, row) for kind in kinds for row in range(len(texts))],
                names=["loss", "text", "size", "row"],
            ),
        )  # fmt: skip
        parts.append(part.reset_index())
    return pd.concat(parts, ignore_index=True)


@styled
def draw(table: pd.DataFrame) -> Figure:
    """Draw length and component against k, one column of panels per mean."""
    figure = new_figure(PAGE, 4.2)
    panels = figure.subplots(2, len(LOSSES), sharex=True, sharey="row")
    for column, name in enumerate(LOSSES):
        rows = relative(table[table["loss"] == name])
        for axes, measure in zip(panels[:, column], ("length", "along"), strict=True):
            _draw_panel(axes, rows, measure)
        panels[0, column].set_title(f"Loss: mean over {name}")
        panels[0, column].axhline(1, color=GREY, linewidth=0.6)
        panels[1, column].axhline(0, color=GREY, linewidth=0.6)
        panels[1, column].set_xlabel("k, tokens")
    panels[0, 0].set(yscale="log", ylabel="Length of the gradient")
    panels[0, 0].yaxis.set_major_formatter("{x:g}")
    panels[1, 0].set_ylabel("Component along\nthe metric's gradient")
    panels[0, 0].legend()
    return figure


def relative(table: pd.DataFrame) -> pd.DataFrame:
    """One loss's rows, divided by the mean length for whole texts."""
    whole = table.loc[table["text"] == "whole", "length"].mean()
    return table.assign(length=table["length"] / whole, along=table["along"] / whole)


def _draw_panel(axes: Axes, table: pd.DataFrame, measure: str) -> None:
    for text, (name, color, marker) in _STYLES.items():
        groups = table[table["text"].isin([text, "whole"])].groupby("size")[measure]
        low, high = groups.quantile(0.1), groups.quantile(0.9)
        axes.fill_between(low.index.to_numpy(), low, high, color=color, alpha=0.2)
        axes.plot(groups.mean(), color=color, marker=marker, markersize=4, label=name)
    sizes = sorted(set(table["size"]))
    axes.set_xscale("log")
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()


def sentence(table: pd.DataFrame) -> str:
    """Length and component for the shortest texts, the repetitions and whole texts."""
    return " ".join(_of_loss(relative(table[table["loss"] == name]), name) for name in LOSSES)


def _of_loss(table: pd.DataFrame, name: str) -> str:
    least, most = min(table["size"]), max(table["size"])
    at = {
        f"for {least} tokens alone": ("short", least),
        f"if they are repeated up to {most}": ("repeated", least),
        "for whole texts": ("whole", most),
    }
    found = {
        kind: table[(table["text"] == t) & (table["size"] == k)] for kind, (t, k) in at.items()
    }
    lengths = ", ".join(f"{own['length'].mean():.1f} {kind}" for kind, own in found.items())
    along = ", ".join(f"{_with_band(own['along'])} {kind}" for kind, own in found.items())
    return (
        f"With the mean over {name}, the length of the gradient is {lengths}; its component along "
        f"the metric's gradient is {along}."
    )


def _with_band(values: pd.Series) -> str:
    low, high = values.quantile(0.1), values.quantile(0.9)
    return f"{values.mean():+.2f} ({low:+.2f} to {high:+.2f})"
