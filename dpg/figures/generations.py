"""Tables 2 to 6: what a generator writes for the first validation article during its training."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dpg import artifacts
from dpg.errors import DpgError
from dpg.figures.style import save_csv, with_suffix
from dpg.study.outputs import GENERATIONS
from dpg.study.runs import Run, select


@dataclass(frozen=True)
class Table:
    """What a table of Appendix D shows of its run.

    Attributes:
        horizon: which T of the method's runs: 0 for the longest, 1 for the next one.
        rows: number of generations, as in the paper.
        title: the paper's title, with {steps} for T.
    """

    horizon: int
    rows: int
    title: str


TABLES = {
    "table_2": Table(0, 4, "67, Metagradients w Adam ({steps})"),
    "table_3": Table(1, 4, "l2 Norm, Metagradients w Adam ({steps})"),
    "table_4": Table(0, 5, "LAMBADA ES, Metagradients w Adam"),
    "table_5": Table(0, 5, "LAMBADA ES, fasttext"),
    "table_6": Table(0, 8, "UUID, Metagradients w Adam"),
}
"""The tables by name; `dpg.study.outputs.GENERATIONS` names the run of each."""


def choose(name: str, run_dirs: Sequence[str | Path]) -> Run:
    """Return the run that the table shows: with the paper's T or the shortest one, first seed.

    Raises:
        DpgError: there is no such table, or no such run among the directories.
    """
    if name not in TABLES:
        raise DpgError(f"no table of generations is called {name!r}; there are {', '.join(TABLES)}")
    table, (experiment, method) = TABLES[name], GENERATIONS[name]
    runs = select(
        run_dirs,
        lambda run: (
            run.experiment == experiment and run.variant.method == method and not run.variant.extra
        ),
        need=f"a run of {experiment}/{method}",
    )
    horizons = sorted({run.variant.steps or 0 for run in runs}, reverse=True)
    steps = horizons[min(table.horizon, len(horizons) - 1)]
    return min((run for run in runs if (run.variant.steps or 0) == steps), key=lambda run: run.seed)


def frame(run: Run, rows: int = 4) -> pd.DataFrame:
    """Collect the generations for the first validation article at evenly spaced steps.

    Args:
        run: a finished run.
        rows: number of steps; fewer if there are fewer validations. Step 0, the untrained
            generator, is left out as in the paper.

    Returns:
        One row per step: step (GRPO steps done), article (id), response (as generated).

    Raises:
        DpgError: there are no rollouts, or the first article is not the same at every step.
    """
    table = run.rollouts()
    table = table[table["row"] == table["row"].min()]
    if table.empty or table["article"].nunique() != 1:
        raise DpgError(
            f"{run.folder.rollouts}: the first row should be one article at every "
            f"step, but there are {table['article'].nunique()}"
        )
    steps = sorted(step for step in table["step"].unique() if step > 0) or [0]
    places = np.linspace(0, len(steps) - 1, min(rows, len(steps))).round().astype(int)
    chosen = table[table["step"].isin([steps[place] for place in places])]
    return chosen.sort_values("step")[["step", "article", "response"]].reset_index(drop=True)


def build(name: str, run_dirs: Sequence[str | Path], out_stem: str | Path) -> list[Path]:
    """Write a table as CSV (the text as generated), Markdown and LaTeX (escaped).

    Raises:
        DpgError: as in `choose` and `frame`.
    """
    run = choose(name, run_dirs)
    data = frame(run, TABLES[name].rows)
    title = TABLES[name].title.format(steps=run.variant.steps)
    title += f" ({run.stopped})" if run.stopped else ""
    paths = [save_csv(data, out_stem)]
    for kind, text in {"md": markdown(data, title), "tex": latex(data, title, name)}.items():
        path = with_suffix(out_stem, kind)
        artifacts.write_text(path, text)
        paths.append(path)
    return paths


def visible(text: str) -> str:
    r"""Return the text on one line: line breaks as \n, tabs as \t, other controls as U+XXXX."""
    plain = text.replace("\r\n", "\n").replace("\n", r"\n").replace("\t", r"\t")
    return "".join(
        f"U+{ord(c):04X}"
        if unicodedata.category(c) in ("Cc", "Cf", "Co", "Cn", "Cs", "Zl", "Zp")
        else c
        for c in plain
    )


def markdown(data: pd.DataFrame, title: str) -> str:
    """Return the table in Markdown; the text is escaped, so that it looks as generated."""
    lines = [f"**{title}**", "", "| GRPO step | Validation generation |", "| ---: | :--- |"]
    for step, response in zip(data["step"], data["response"], strict=True):
        escaped = re.sub(r"([\\`*_{}\[\]<>|~$#&!])", r"\\\1", visible(response))
        lines.append(f"| {step} | {escaped} |")
    return "\n".join(lines) + "\n"


_LATEX = {
    "\\": r"\textbackslash{}",
    "{": r"\{",
    "}": r"\}",
    "#": r"\#",
    "$": r"\$",
    "%": r"\%",
    "&": r"\&",
    "_": r"\_",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    "`": r"\textasciigrave{}",
    '"': r"\textquotedbl{}",
}
_SAFE = "\u2018\u2019\u201c\u201d\u2013\u2014\u2026\u20ac"  # quotes, dashes, ellipsis, euro
_LONGEST_WORD = 24  # characters after which a line may break inside a word


def latex(data: pd.DataFrame, title: str, label: str) -> str:
    """Return the table in LaTeX (T1 fonts); characters not in a Latin font become U+XXXX."""
    lines = [
        r"\begin{table}",
        r"  \centering\small",
        r"  \begin{tabular}{rp{0.82\linewidth}}",
        r"    \hline",
        r"    GRPO step & Validation generation \\",
        r"    \hline",
    ]
    lines += [
        rf"    {step} & {escape_latex(response)} \\"
        for step, response in zip(data["step"], data["response"], strict=True)
    ]
    lines += [
        r"    \hline",
        r"  \end{tabular}",
        rf"  \caption{{{escape_latex(title)}.}}",
        rf"  \label{{tab:{label}}}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def escape_latex(text: str) -> str:
    """Return the text escaped for LaTeX, with possible line breaks inside long words."""

    def one(character: str) -> str:
        if ord(character) >= 0x180 and character not in _SAFE:
            character = f"U+{ord(character):04X}"
        return "".join(_LATEX.get(c, c) for c in character)

    words = []
    for word in visible(text).split(" "):
        pieces = [word[i : i + _LONGEST_WORD] for i in range(0, len(word), _LONGEST_WORD)]
        words.append(r"\allowbreak{}".join("".join(map(one, piece)) for piece in pieces))
    return " ".join(words)
