"""Figure 1: the method (left), and a QR code in a trained model's LM head with a sample (right)."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from dpg.figures.diagram import GREY, Element, canvas, paint, table
from dpg.figures.figure_3 import image, pixels, show
from dpg.figures.generations import visible
from dpg.figures.style import BLUE, GREEN, ORANGE, PAGE, PURPLE, styled
from dpg.metrics import qr_reader
from dpg.study.runs import Run, select

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HEIGHT = 2.2
QR_SIZE = 1.42
_INTEGERS = ("row", "column", "sign", "pattern")
_GLYPHS = 0x500  # the font has every character below it: Latin, Greek, Cyrillic


def frame(run_dirs: Sequence[str | Path]) -> pd.DataFrame:
    """Collect the image of the last validation, a sample of its text, and what QR readers decode.

    Returns:
        All rows have step (GRPO steps done) and element. The other columns depend on the element:

        - "sample": the first rollout that the target was trained on, in `text`.
        - "pixel", one per pixel: row, column, sign (-1, 0, 1), pattern (-1, 1).
        - "reading", only for a QR code, one per reader and way of reading: the reader in `reader`,
          what it decoded in `text` (missing if nothing).
        - "fresh", one per fresh sample of text, if they were drawn: its number in `row`, whether
          the code was decoded (1 or 0) in `sign`, the share of right pixels, 0 to 1, in `share`.

    Raises:
        DpgError: there is no run of qr among the directories, or it has no image or rollouts.
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
    parts = [sample, squares, _readings(images[step], pattern), _fresh(run)]
    whole = pd.concat([part for part in parts if len(part)], ignore_index=True)
    whole = whole.reindex(columns=[*_INTEGERS, "text", "reader", "share", "element"])
    whole = whole.assign(step=step).astype(dict.fromkeys(_INTEGERS, "Int64"))
    return whole[["element", "step", *_INTEGERS, "text", "reader", "share"]]


def _readings(image: Any, pattern: Any) -> pd.DataFrame:
    """What each reader decodes from the image; empty if the pattern is not a QR code."""
    square = pattern.shape[0] == pattern.shape[1]
    if not square or qr_reader.read(pattern) is None:
        return pd.DataFrame()
    found = qr_reader.readings(image)
    rows = [{"element": "reading", "reader": one.words, "text": one.text} for one in found]
    return pd.DataFrame(rows)


def _fresh(run: Run) -> pd.DataFrame:
    samples = run.fresh_samples()
    if samples is None:
        return pd.DataFrame()
    return pd.DataFrame(
        {
            "element": "fresh",
            "row": range(1, len(samples) + 1),
            "sign": samples["scans"].astype(int),
            "share": samples["pixels_right"],
        }
    )


@styled
def draw(frame: pd.DataFrame) -> Figure:
    """Draw the diagram, the sample and the image; dots mark wrong pixels of the code."""
    figure, axes = canvas(PAGE, HEIGHT)
    paint(axes, table(method()))
    sample = frame[frame["element"] == "sample"].iloc[0]
    squares = frame[frame["element"] == "pixel"].astype({"sign": int, "pattern": int})
    signs, pattern = image(squares, "sign"), image(squares, "pattern")
    words = [f"{int((signs == pattern).sum())}/{signs.size} pixels right", *_decoded(frame)]
    paint(axes, table(result(sample["text"], words)))
    left, bottom = PAGE - QR_SIZE - 0.08, 0.42
    inset = figure.add_axes(
        (left / PAGE, bottom / HEIGHT, QR_SIZE / PAGE, QR_SIZE / HEIGHT), zorder=2
    )
    show(inset, signs, pattern)
    return figure


def method() -> list[Element]:
    """Return the left half: the loop from the generator to the metagradient and back."""
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


def _decoded(frame: pd.DataFrame) -> list[str]:
    """Lines on which readers decoded the code, and from how many fresh samples; or no line."""
    if "reader" not in frame:  # a table of an earlier version of this package
        return []
    lines = []
    readings = frame[frame["element"] == "reading"]
    read = readings[readings["text"].map(lambda text: isinstance(text, str))]
    if len(read):
        text, names = read["text"].iloc[0], read["reader"].tolist()
        # A reader that finds the code by itself is not listed again with a given place.
        names = [name for name in names if name.partition(",")[0] not in names or "," not in name]
        lines.append(f'decoded: "{_plain(text)}" ({"; ".join(names)})')
    elif len(readings):
        lines.append("not decoded by OpenCV or ZXing")
    fresh = frame[frame["element"] == "fresh"]
    if len(fresh):
        low, high = 100 * fresh["share"].min(), 100 * fresh["share"].max()
        right = f"{low:.1f}" if math.isclose(low, high) else f"{low:.1f} to {high:.1f}"
        lines.append(
            f"decoded from {int((fresh['sign'] == 1).sum())} of {len(fresh)} fresh samples "
            f"({right} % of pixels)"
        )
    return lines


def _plain(text: str) -> str:
    """The text on one line, with unknown characters replaced and control characters visible."""
    known = "".join(c if ord(c) < _GLYPHS else "\ufffd" for c in " ".join(text.split()))
    return visible(known)


def result(text: str, words: Sequence[str]) -> list[Element]:
    """Return the right half without the image: headings, sample, arrow and the lines below."""
    lines = textwrap.wrap(_plain(text), 21, max_lines=11, placeholder=" ...")
    # A dollar sign would begin mathtext.
    sample = "\n".join(lines).replace("$", r"\$")
    first, *others = (line.replace("$", r"\$") for line in words)
    below = [f"sign$(P_c-P_i)$ after training on $D$: {first}", *others]
    left, wide = 3.84, 1.22
    middle = PAGE - QR_SIZE / 2 - 0.08
    return [
        Element("text", left + wide / 2, 2.04, text="Synthetic data", size=8.5),
        Element("box", left, 0.42, wide, QR_SIZE, sample, ORANGE, 0.10, 6.5),
        Element("arrow", left + wide + 0.03, 0.42 + QR_SIZE / 2, 0.13, color=GREY),
        Element("text", middle, 2.04, text="Target's LM head", size=8.5),
        *(
            Element("text", (left + PAGE - 0.08) / 2, 0.3 - 0.115 * i, text=line, size=6.5)
            for i, line in enumerate(below)
        ),
    ]
