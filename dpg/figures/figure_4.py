"""Figure 4: do the generators write in the target language (top), and varied text (below)?

Below the paper's bigram entropy H, the figure shows 2^H: the number of bigrams that would have this
entropy if all were equally frequent. It shows a collapse more clearly: when H falls from 12 to 8
bits, 2^H falls to a sixteenth.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from dpg.errors import DpgError
from dpg.evaluation.diversity import bigram_entropy
from dpg.evaluation.judge import LANGUAGES, answered
from dpg.figures.legend import line_styles, stopped_lines
from dpg.figures.style import COLUMN, PAGE, curves, legend_below, new_figure, styled
from dpg.study.runs import Run, Variant, by_step, select

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ORDER = ["de", "es", "fr", "it"]
_ROWS = {
    "percent": "In the target\nlanguage (%)",
    "entropy": "Bigram entropy\nH (bits)",
    "bigrams": "Bigrams in\nuse ($2^H$)",
}
"""Measure -> its axis' label, from top to bottom."""


def frame(run_dirs: Sequence[str | Path]) -> pd.DataFrame:
    """Collect both measures at every validation.

    Returns:
        One row per validation: language (ISO 639-1), variant, seed, step (GRPO steps done),
        rollouts (number with an answer of the judge), fraction (of these in the target language),
        entropy (of the token bigrams of all rollouts, in bits). A rollout whose language the judge
        did not name (`REFUSED`) counts neither for nor against the target language. If a run was
        stopped before its end, a column `stopped` says after which step.

    Raises:
        DpgError: there is no run of lambada-* among the directories, a run was not judged, the
            judge does not know a target language, or it gave no answer for a whole validation.
    """
    runs = language_runs(run_dirs)
    return pd.concat([measures(run, run.judged()) for run in runs], ignore_index=True)


def language_runs(run_dirs: Sequence[str | Path]) -> list[Run]:
    """The runs of lambada-* among the directories.

    Raises:
        DpgError: there is none.
    """
    return select(
        run_dirs,
        lambda run: run.experiment.startswith("lambada-"),
        need="a run of lambada-de, -es, -fr or -it",
    )


def measures(run: Run, judged: pd.DataFrame) -> pd.DataFrame:
    """The rows of `frame` of one run, from its judged rollouts.

    Raises:
        DpgError: as `frame`.
    """
    code = run.experiment.removeprefix("lambada-")
    if code not in LANGUAGES:
        raise DpgError(f"{run.folder.path}: the judge knows {', '.join(LANGUAGES)}, not {code!r}")
    rows = []
    for step, table in by_step(judged):
        rows.append(
            {
                "language": code,
                "variant": run.variant.name,
                "seed": run.seed,
                "step": step,
                **of_step(table, code, run.folder.judged),
            }
        )
    return run.marked(pd.DataFrame(rows))


def of_step(table: pd.DataFrame, code: str, file: Path) -> dict[str, float]:
    """Both measures of the judged rollouts of one validation: rollouts, fraction, entropy.

    Args:
        table: the rollouts of one step.
        code: of the target language.
        file: where they are from, for the error.

    Raises:
        DpgError: the judge gave no answer for any of them.
    """
    known = answered(table)
    if known.empty:
        raise DpgError(
            f"{file}: the judge gave no answer for any of the {len(table)} rollouts at step "
            f"{table['step'].iloc[0]}, so their language is not known; judge the run again, or "
            "set judge: {kind: offline}"
        )
    return {
        "rollouts": len(known),
        "fraction": float((known["judged"] == LANGUAGES[code]).mean()),
        "entropy": bigram_entropy(table["tokens"]),
    }


@styled
def draw(frame: pd.DataFrame) -> Figure:
    """Draw one column per language: the fraction, the entropy and 2^H; one legend below."""
    from matplotlib.ticker import MaxNLocator

    known = [code for code in ORDER if (frame["language"] == code).any()]
    languages = known + sorted(set(frame["language"]) - set(known))
    frame = frame.assign(
        label=[Variant.parse(name).label for name in frame["variant"]],
        percent=100 * frame["fraction"],
        bigrams=2.0 ** frame["entropy"],
    )
    styles = line_styles([Variant.parse(name) for name in frame["variant"].unique()])
    width = COLUMN if len(languages) == 1 else PAGE
    ncols = min(len(styles), 3 if width == COLUMN else 6)
    figure = new_figure(width, 4.3 + 0.17 * -(-len(styles) // ncols))
    panels = figure.subplots(len(_ROWS), len(languages), squeeze=False, sharex="col", sharey="row")
    for column, code in enumerate(languages):
        here = frame[frame["language"] == code]
        for axes, measure in zip(panels[:, column], _ROWS, strict=True):
            curves(axes, here, x="step", y=measure, by="label", styles=styles)
        top, bottom = panels[0, column], panels[-1, column]
        top.set_title(LANGUAGES.get(code, code))
        bottom.set_xlabel("\n".join(["GRPO steps", *stopped_lines(here)]))
        bottom.set_xlim(0, 1.01 * (here["step"].max() or 1))
        bottom.xaxis.set_major_locator(MaxNLocator(4, integer=True, steps=[1, 2, 5, 10]))
    for axes, label in zip(panels[:, 0], _ROWS.values(), strict=True):
        axes.set_ylabel(label)
        axes.margins(y=0.08)
    panels[0, 0].set_ylim(-3, 103)
    panels[-1, 0].set_ylim(bottom=0)
    figure.align_ylabels(panels[:, 0])
    legend_below(figure, frame, styles, ncols=ncols)
    return figure
