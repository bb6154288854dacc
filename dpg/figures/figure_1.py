"""Figure 1: the method (left), and a QR code in a trained model's LM head with a sample (right)."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from dpg.figures.diagram import GREY, Element, canvas, paint, table
from dpg.figures.figure_3 import image, pixels, show
from dpg.figures.generations import visible
from dpg.figures.style import BLUE, GREEN, ORANGE, PAGE, PURPLE, styled
from dpg.study.runs import select

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEIGHT = 2.2
QR_SIZE = 1.42
_GLYPHS = 0x500  # Latin, Greek, Cyrillic: what the font has for certain


def frame(run_dirs: Sequence[str | Path]) -> pd.DataFrame:
    """Collect the image of the last validation and the first rollout it was trained on.

    Returns:
        First a row with element "sample" and the rollout in `text`; then one row per pixel with
        element "pixel": row, column, sign (-1, 0, 1), pattern (-1, 1). All rows: step (GRPO steps
        done).

    Raises:
        DpgError: no run of qr among the directories, or one without image or rollouts.
    """
    run = select(run_dirs, lambda run: run.experiment == "qr", need="a run of qr")[0]
    pattern, images = run.pattern()
    step = max(images)
    rollouts = run.rollouts()
    text = (
        rollouts[rollouts["step"] == rollouts["step"].max()].sort_values("row")["response"].iloc[0]
    )
    sample = pd.DataFrame({"element": ["sample"], "text": [text]})
    squares = pixels(images[step], pattern).assign(element="pixel")
    whole = pd.concat([sample, squares], ignore_index=True)
    whole = whole.assign(step=step)
    whole = whole.astype(dict.fromkeys(("row", "column", "sign", "pattern"), "Int64"))
    return whole[["element", "step", "row", "column", "sign", "pattern", "text"]]


@styled
def draw(frame: pd.DataFrame) -> Figure:
    """Draw the diagram, the sample and the image; a dot marks a wrong pixel of the code."""
    figure, axes = canvas(PAGE, HEIGHT)
    paint(axes, table(method()))
    sample = frame[frame["element"] == "sample"].iloc[0]
    squares = frame[frame["element"] == "pixel"].astype({"sign": int, "pattern": int})
    signs, pattern = image(squares, "sign"), image(squares, "pattern")
    paint(axes, table(result(sample["text"], int((signs == pattern).sum()), signs.size)))
    left, bottom = PAGE - QR_SIZE - 0.08, 0.42
    inset = figure.add_axes(
        (left / PAGE, bottom / HEIGHT, QR_SIZE / PAGE, QR_SIZE / HEIGHT), zorder=2
    )
    show(inset, signs, pattern)
    return figure


def method() -> list[Element]:
    """Return the left half: the loop from the generator through the metagradient back to it."""
    top, low, tall = 1.24, 0.22, 0.62
    return [
        Element("text", 1.78, 2.04, text="Dataset Policy Gradient", size=8.5),
        Element("box", 0.06, top, 0.76, tall, "Generator\n$\\pi_\\theta$", BLUE, 0.15),
        Element("arrow", 0.84, top + tall / 2, 0.15, color=GREY),
        Element("box", 1.01, top, 0.70, tall, "Synthetic\ndata $D$", ORANGE, 0.18),
        Element("arrow", 1.73, top + tall / 2, 0.15, color=GREY),
        Element(
            "box",
            1.90,
            top,
            1.02,
            tall,
            "Learning alg. $\\mathcal{A}$\non $x_i\\in D$, loss\n$w_i\\,\\ell(x_i)$, $w_i=1$",
            GREEN,
            0.15,
            7,
        ),
        Element("arrow", 2.94, top + tall / 2, 0.15, color=GREY),
        Element("box", 3.11, top, 0.50, tall, "Metric\n$\\Phi$", PURPLE, 0.2),
        Element("arrow", 3.36, top - 0.02, 0.0, -0.36, color=GREY),
        Element("text", 2.98, top - 0.20, text="Metagradient", size=7),
        Element(
            "box",
            1.36,
            low,
            2.25,
            tall,
            "Rewards for $D$:\n"
            "$\\nabla_{\\mathbf{w}}\\,\\Phi(\\mathcal{A}(\\mathbf{w},D))\\,|_{\\mathbf{w}=\\mathbf{1}}$",
            PURPLE,
            0.2,
        ),
        Element("arrow", 1.34, low + tall / 2, -0.15, color=GREY),
        Element("box", 0.06, low, 1.11, tall, "Optimize with\nRL objective", BLUE, 0.15),
        Element("arrow", 0.44, low + tall + 0.02, 0.0, 0.36, color=GREY),
    ]


def result(text: str, right: int, pixels: int) -> list[Element]:
    """Return the right half but for the image: headings, the sample and the arrow."""
    plain = "".join(c if ord(c) < _GLYPHS else "\ufffd" for c in " ".join(text.split()))
    lines = textwrap.wrap(visible(plain), 21, max_lines=11, placeholder=" ...")
    # A dollar sign would begin mathtext.
    words = "\n".join(lines).replace("$", r"\$")
    left, wide = 3.84, 1.22
    middle = PAGE - QR_SIZE / 2 - 0.08
    return [
        Element("text", left + wide / 2, 2.04, text="Synthetic data", size=8.5),
        Element("box", left, 0.42, wide, QR_SIZE, words, ORANGE, 0.10, 6.5),
        Element("arrow", left + wide + 0.03, 0.42 + QR_SIZE / 2, 0.13, color=GREY),
        Element("text", middle, 2.04, text="Target's LM head", size=8.5),
        Element("text", middle, 0.24, text="sign$(P_c-P_i)$ after training", size=7),
        Element("text", middle, 0.09, text=f"on $D$: {right}/{pixels} pixels right", size=7),
    ]
