"""Table 1: perplexity on the benchmark after training on each source of text (Appendix C)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from dpg import artifacts
from dpg.errors import DpgError
from dpg.evaluation import bootstrap
from dpg.figures.generations import escape_latex
from dpg.figures.style import save_csv, thousands, with_suffix
from dpg.study.sources import BEFORE, REPLAY, SFT, SOURCES, UNTUNED
from dpg.text.languages import TARGET_CODES

TITLES = {
    BEFORE: "Before CPT",
    REPLAY: "CPT on replay text",
    UNTUNED: "Untuned Generator",
    "adam": "Adam Metagrad",
    "sgd": "SGD Metagrad",
    "naive": "Naive",
    "embedding": "Embedding Sim",
    "levenshtein": "Levenshtein",
    "fasttext": "fasttext",
    SFT: "SFT Comparison",
}
"""Source -> the paper's name of its row. If replay is DCLM, its row is called "CPT on DCLM"."""

PAPER = {
    "llama-instruct": {
        BEFORE: (133.86, 204.31, 89.23, 129.26),
        REPLAY: (125.84, 209.55, 90.36, 133.48),
        UNTUNED: (140.97, 218.41, 97.27, 145.02),
        "adam": (64.03, 31.12, 33.09, 43.13),
        "sgd": (98.65, 53.62, 47.75, 86.86),
        "naive": (131.99, 228.57, 96.71, 138.43),
        "embedding": (135.19, 206.78, 95.35, 134.91),
        "levenshtein": (130.89, 212.78, 94.07, 137.54),
        "fasttext": (127.67, 367.98, 91.23, 211.23),
        SFT: (43.78, 17.86, 21.89, 29.94),
    },
    "llama-base": {
        BEFORE: (93.12, 163.01, 65.12, 89.29),
        REPLAY: (91.58, 160.57, 64.10, 87.55),
        UNTUNED: (89.45, 144.84, 59.46, 82.79),
        "adam": (35.04, 20.18, 18.53, 24.04),
        "sgd": (61.25, 33.57, 30.56, 53.74),
        "naive": (86.25, 151.40, 59.80, 80.73),
        "embedding": (91.19, 164.19, 65.99, 86.58),
        "levenshtein": (93.08, 163.38, 64.19, 88.90),
        "fasttext": (91.82, 311.28, 63.89, 126.99),
        SFT: (30.35, 14.33, 14.47, 18.70),
    },
}
"""The paper's Table 1: target -> source -> one perplexity per language of `TARGET_CODES`."""

DASH = "\N{EN DASH}"

TARGETS = {"llama-instruct": "Llama instruct", "llama-base": "Llama base"}
"""Target model -> its name in the column heads; other models keep their own names."""

WINDOWS = {"": "test", "tail_": "tail"}
"""Prefix of the columns -> entry of a cell: the whole passage is read, or only its last tokens."""

_MANY = 10_000.0


def frame(paths: Sequence[str | Path]) -> pd.DataFrame:
    """Collect the cells.

    Args:
        paths: the perplexity files of `dpg perplexity measure`, one per target model, in the order
            of the table's columns.

    Returns:
        One row per cell, in the table's order: target, language, source, title, perplexity (the
        whole passage is read), acc and passages of the test split, validation_perplexity and, at
        the paper's scale, paper. If the end of passages was measured too: tail (its number of
        tokens) and tail_perplexity. For each of both perplexities: bits (its log2) and best
        (whether it is the column's lowest, or not significantly higher). If the records have
        numbers per passage: over_before, the bits minus those before training, and `_low` and
        `_high`, the ends of its 95 % interval (paired bootstrap over passages).

    Raises:
        DpgError: no file is given, a file is of another kind, a target occurs twice, or the files
            are of two scales.
    """
    if not paths:
        raise DpgError("table_1 needs the perplexities of a target: run `dpg perplexity measure`")
    parts: list[pd.DataFrame] = []
    scales: set[str] = set()
    targets: list[str] = []
    for path in paths:
        record = artifacts.read_json(path)
        try:
            scales.add(record["scale"])
            targets.append(record["target"])
            parts.append(_cells(record))
        except (KeyError, TypeError) as error:
            raise DpgError(f"{path} holds no perplexities of models: it lacks {error}") from None
    if len(set(targets)) < len(targets) or len(scales) > 1:
        raise DpgError(
            f"table_1 shows each target once, of one scale; given: {', '.join(targets)} of "
            f"{', '.join(sorted(scales))}"
        )
    table = pd.concat(parts, ignore_index=True)
    return table if scales == {"paper"} else table.drop(columns="paper")


def _cells(record: dict[str, Any]) -> pd.DataFrame:
    titles = dict(TITLES)
    if "dclm" in record["replay"]:
        titles[REPLAY] = "CPT on DCLM"
    rows = []
    for cell in record["cells"]:
        source, language = cell["source"], cell["language"]
        known = PAPER.get(record["target"], {}).get(source)
        place = TARGET_CODES.index(language) if language in TARGET_CODES else None
        row = {
            "target": record["target"],
            "language": language,
            "source": source,
            "title": titles[source],
            "perplexity": cell["test"]["perplexity"],
            "acc": cell["test"]["acc"],
            "passages": cell["test"]["passages"],
            "validation_perplexity": cell["validation"]["perplexity"],
        }
        if "tail" in cell:
            row["tail"] = record["config"]["harness"]["context"]
            row["tail_perplexity"] = cell["tail"]["perplexity"]
        rows.append(row | {"paper": math.nan if known is None or place is None else known[place]})
    table = pd.DataFrame(rows)
    for prefix, window in WINDOWS.items():
        if f"{prefix}perplexity" in table:
            logs = {
                (cell["language"], cell["source"]): cell[window]["log_probabilities"]
                for cell in record["cells"]
                if "log_probabilities" in cell.get(window, {})
            }
            table = _compared(table, prefix, logs)
    order = table.source.map(SOURCES.index)
    return table.assign(_order=order).sort_values(["_order", "language"]).drop(columns="_order")


def _compared(
    table: pd.DataFrame, prefix: str, logs: Mapping[tuple[str, str], Sequence[float]]
) -> pd.DataFrame:
    """One target's cells with the columns `bits`, `best` and `over_before` of one window.

    Args:
        table: one target's cells.
        prefix: the window, a key of `WINDOWS`.
        logs: (language, source) -> log-probabilities per passage; may be empty.
    """
    table = table.assign(**{f"{prefix}bits": np.log2(table[f"{prefix}perplexity"])})
    lowest = {cell[1:] for cell in best(table, prefix)}
    told: list[bool] = []
    intervals: list[tuple[float, float, float]] = []
    winners = dict(lowest)
    for language, source in zip(table.language, table.source, strict=True):
        mine, first = logs.get((language, source)), logs.get((language, BEFORE))
        least = logs.get((language, winners.get(language, "")))
        won = (language, source) in lowest
        if mine is not None and least is not None and not won and source != SFT:
            won = difference(mine, least, language)[1] <= 0
        told.append(won)
        nothing = (math.nan, math.nan, math.nan)
        intervals.append(difference(mine, first, language) if mine and first else nothing)
    table = table.assign(**{f"{prefix}best": told})
    if logs:
        names = [f"{prefix}over_before{end}" for end in ("", "_low", "_high")]
        table[names] = np.array(intervals)
    return table


def difference(
    one: Sequence[float], other: Sequence[float], language: str
) -> tuple[float, float, float]:
    """The difference of two models' perplexities on the same passages, in bits.

    Args:
        one, other: [passages] natural logarithms of the last words' probabilities.
        language: names the random stream, so that all models of a language are compared on the same
            bootstrap samples of its passages.

    Returns:
        log2 of the perplexity of `one` minus that of `other`, and the ends of its 95 % interval
        (2,000 bootstrap samples of the passages).
    """
    per_passage = (np.asarray(other, float) - np.asarray(one, float)) / math.log(2)
    draws = bootstrap.of_mean(per_passage[:, None], "passages", language)
    return (float(per_passage.mean()), *bootstrap.percentiles(draws[:, 0]))


def best(table: pd.DataFrame, prefix: str = "") -> set[tuple[str, str, str]]:
    """The (target, language, source) of each column's lowest perplexity.

    Fine-tuning on the benchmark itself is only for comparison and is left out.
    """
    rest = table[table.source != SFT]
    lowest = rest.loc[rest.groupby(["target", "language"])[f"{prefix}perplexity"].idxmin()]
    return set(zip(lowest.target, lowest.language, lowest.source, strict=True))


class _Cell(NamedTuple):
    """One cell of the table; `paper` is NaN if the paper has no such cell."""

    target: str
    language: str
    source: str
    title: str
    perplexity: float
    best: bool
    paper: float


def _cells_of(table: pd.DataFrame, prefix: str) -> list[_Cell]:
    """The rows of `frame` for one window, as cells."""
    names = {f"{prefix}perplexity": "perplexity", f"{prefix}best": "best"}
    here = table[["target", "language", "source", "title", *names]].rename(columns=names)
    paper = table["paper"] if "paper" in table and not prefix else math.nan
    rows = here.assign(paper=paper)[list(_Cell._fields)]
    return [_Cell(*values) for values in rows.itertuples(index=False, name=None)]


def _grid(
    table: pd.DataFrame, bold: Callable[[str], str]
) -> tuple[list[tuple[str, str]], list[list[str]]]:
    """The columns (target, language) in order, and the rows as text: title, then the cells."""
    pairs = table[["target", "language"]].drop_duplicates().itertuples(index=False, name=None)
    columns: list[tuple[str, str]] = list(pairs)
    targets = list(dict.fromkeys(target for target, _ in columns))
    columns = sorted(columns, key=lambda column: (targets.index(column[0]), column[1]))
    rows = []
    for prefix in (prefix for prefix in WINDOWS if f"{prefix}perplexity" in table):
        found = _cells_of(table, prefix)
        cells = {(cell.target, cell.language, cell.source): cell for cell in found}
        in_bits = max(cell.perplexity for cell in found) >= _MANY
        where = f", last {table['tail'].iloc[0]:.0f} tokens" if prefix else ""
        for source in SOURCES:
            line = [cells.get((*column, source)) for column in columns]
            titles = [cell.title for cell in line if cell is not None]
            if titles:
                shown = [_shown(cell, bold, in_bits=in_bits) for cell in line]
                rows.append([f"{titles[0]}{where}", *shown])
    return columns, rows


def _shown(cell: _Cell | None, bold: Callable[[str], str], *, in_bits: bool) -> str:
    """A cell as text: bold if it is among its column's best, followed by the paper's number.

    If `in_bits`, the cell shows the bits, with the perplexity in brackets.
    """
    if cell is None:
        return DASH
    text = f"{math.log2(cell.perplexity):.2f}" if in_bits else number(cell.perplexity)
    if cell.best:
        text = bold(text)
    if in_bits:
        return f"{text} ({thousands(cell.perplexity)})"
    return text if math.isnan(cell.paper) else f"{text} ({number(cell.paper)})"


def number(value: float) -> str:
    """A perplexity as the paper prints it: with two decimals, from 1,000 on without."""
    return f"{value:.2f}" if value < 1000 else f"{value:,.0f}"


def markdown(table: pd.DataFrame) -> str:
    """The table in Markdown, in the paper's layout."""
    columns, rows = _grid(table, lambda text: f"**{text}**")
    heads = [f"{TARGETS.get(target, target)} {language.upper()}" for target, language in columns]
    lines = [f"**{_title(table)}**", "", f"| CPT Data Source | {' | '.join(heads)} |"]
    lines.append(f"| :--- |{' ---: |' * len(columns)}")
    lines += [f"| {' | '.join([title, *cells])} |" for title, *cells in rows]
    return "\n".join(lines) + "\n"


def latex(table: pd.DataFrame) -> str:
    """The table in LaTeX, in the paper's layout: the languages of a target side by side."""
    columns, rows = _grid(table, lambda text: rf"\textbf{{{text}}}")
    targets = list(dict.fromkeys(target for target, _ in columns))
    spans = [
        rf"\multicolumn{{{sum(c[0] == target for c in columns)}}}{{c}}"
        rf"{{{escape_latex(TARGETS.get(target, target))}}}"
        for target in targets
    ]
    codes = [language.upper() for _, language in columns]
    lines = [
        r"\begin{table}",
        r"  \centering\small",
        rf"  \begin{{tabular}}{{l{'r' * len(columns)}}}",
        r"    \hline",
        rf"    & {' & '.join(spans)} \\",
        rf"    CPT Data Source & {' & '.join(codes)} \\",
        r"    \hline",
    ]
    for title, *cells in rows:
        shown = [cell.replace(DASH, "--") for cell in cells]
        lines.append(rf"    {' & '.join([escape_latex(title), *shown])} \\")
    lines += [
        r"    \hline",
        r"  \end{tabular}",
        rf"  \caption{{{escape_latex(_title(table))}.}}",
        r"  \label{tab:table_1}",
        r"\end{table}",
    ]
    return "\n".join(lines) + "\n"


def _title(table: pd.DataFrame) -> str:
    """The table's title: what its numbers are."""
    columns = [f"{prefix}perplexity" for prefix in WINDOWS if f"{prefix}perplexity" in table]
    large = bool((table[columns] >= _MANY).any(axis=None))
    first = "Bits, log2 of the perplexity (in brackets)," if large else "Perplexity"
    title = f"{first} of a passage's last word, by lm-eval; lower is better"
    return f"{title} (the paper's in brackets)" if "paper" in table else title


def build(paths: Sequence[str | Path], out_stem: str | Path) -> list[Path]:
    """Write the table as CSV (one row per cell), Markdown and LaTeX (the paper's layout).

    Raises:
        DpgError: as in `frame`.
    """
    table = frame(paths)
    written = [save_csv(table, out_stem)]
    for kind, text in {"md": markdown(table), "tex": latex(table)}.items():
        path = with_suffix(out_stem, kind)
        artifacts.write_text(path, text)
        written.append(path)
    return written
