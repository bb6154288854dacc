"""How many words of a generator's text exist: in Spanish, and in any of the judge's languages.

    pip install wordfreq
    python -m bench.invented_words

The words of kept rollouts (results/reference/*/runs/lambada-es) are looked up in wordfreq's large
word lists (Speer, 2022, https://doi.org/10.5281/zenodo.7199437), which have the words of subtitles,
books, the web and Wikipedia. A word is two or more letters in a row, in lower case. The benchmark's
Spanish passages (--passages) show what to expect of real text: some names and rare words are in no
list either.

It writes invented_words.{png,pdf,csv,md}.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from bench import RESULTS, ROOT, reports
from dpg import artifacts
from dpg.figures import style
from dpg.figures.extras import label, styles_of
from dpg.report.stopped import READABLE
from dpg.text.languages import CODES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

REAL = "the benchmark's passages"
_COLUMNS = ("text", "GRPO step", "words", "not Spanish, %", "in no language, %")
_WORD = re.compile(r"[^\W\d_]{2,}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--references", type=Path, default=ROOT / "results" / "reference")
    parser.add_argument(
        "--passages", type=Path, default=ROOT / "results" / "laptop" / "text" / "passages.parquet"
    )
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    frame = pd.DataFrame([*runs(arguments.references), real(arguments.passages)])
    arguments.out.mkdir(parents=True, exist_ok=True)
    style.save(draw(frame), frame, arguments.out / "invented_words")
    artifacts.write_text(arguments.out / "invented_words.md", summary(frame))
    print(summary(frame))


def real(path: Path) -> dict[str, Any]:
    """The row of real Spanish text."""
    table = artifacts.read_table(path, ["language", "text"])
    return {"scale": REAL, "variant": "", "step": 0} | counted(
        table[table["language"] == "es"]["text"]
    )


def runs(folder: Path) -> Iterator[dict[str, Any]]:
    """One row per kept Spanish run and validation."""
    for path in sorted(folder.glob(f"*/runs/lambada-es/*/*/{READABLE}")):
        scale, _, _, variant, _ = path.relative_to(folder).parent.parts
        table = pd.read_csv(path, keep_default_na=False)
        for step, part in table.groupby("step"):
            of = {"scale": scale, "variant": variant, "step": int(str(step))}
            yield of | counted(part["response"])


def counted(texts: Iterable[str]) -> dict[str, Any]:
    """The number of running words, and the shares that are in no Spanish list and in no list."""
    words = [word for text in texts for word in _WORD.findall(text.lower())]
    known = {word: [code for code in CODES if is_known(word, code)] for word in set(words)}
    return {
        "words": len(words),
        "not_spanish": sum("es" not in known[word] for word in words) / len(words),
        "in_no_language": sum(not known[word] for word in words) / len(words),
    }


def is_known(word: str, code: str) -> bool:
    """Whether the large word list of a language has the word."""
    from wordfreq import word_frequency

    return bool(word_frequency(word, code, wordlist="large") > 0)


@style.styled
def draw(frame: pd.DataFrame) -> Figure:
    """Draw the share of words in no language over GRPO steps, one panel per scale."""
    level = 100 * frame[frame["scale"] == REAL]["in_no_language"].iloc[0]
    frame = frame[frame["scale"] != REAL].assign(seed=0, experiment=lambda f: f["scale"])
    frame = frame.assign(label=frame["variant"].map(label), percent=100 * frame["in_no_language"])
    styles = styles_of(list(frame["variant"].unique()))
    scales = list(frame["scale"].unique())
    figure = style.new_figure(style.PAGE, 2.5)
    panels = figure.subplots(1, len(scales), sharey=True, squeeze=False)[0]
    for axes, scale in zip(panels, scales, strict=True):
        here = frame[frame["scale"] == scale]
        style.curves(axes, here, x="step", y="percent", by="label", styles=styles)
        axes.axhline(level, color=style.GREY, linewidth=0.8, linestyle=(0, (4, 2)))
        axes.set(title=f"config/{scale}.yaml", xlabel="GRPO steps", ylim=(0, 100))
    panels[0].set_ylabel("Words in no language (%)")
    note = "grey, dashed: the benchmark's Spanish passages"
    style.legend_below(figure, frame, styles, ncols=4, note=note)
    return figure


def summary(frame: pd.DataFrame) -> str:
    """All rows as a Markdown table."""
    rows = [
        [
            f"{row['scale']}, {row['variant']}" if row["variant"] else row["scale"],
            str(row["step"]) if row["variant"] else "",
            f"{row['words']:,}",
            f"{100 * row['not_spanish']:.0f}",
            f"{100 * row['in_no_language']:.0f}",
        ]
        for row in frame.fillna("").to_dict("records")
    ]
    return "\n".join(reports.table(_COLUMNS, rows)) + "\n"


if __name__ == "__main__":
    main()
