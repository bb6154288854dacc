"""Table 1 passage by passage: how much it depends on the sample of the benchmark's passages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from dpg import artifacts
from dpg.claims.estimates import Estimate, Untested
from dpg.evaluation import bootstrap

WINDOWS = {"perplexity": "test", "tail_perplexity": "tail"}
"""Column of Table 1 -> entry of a cell in the file of perplexities: whole passage, or its end."""


def read(path: Path) -> pd.DataFrame:
    """The passages' log-probabilities from a file of `dpg perplexity measure`.

    Returns:
        One row per cell and window: target, language, source, window ("test" or "tail") and
        log_probabilities, a list of floats (natural logarithm of the last word's probability), in
        the order of the benchmark's test split. Empty if the file has none.

    Raises:
        Untested: the file has no perplexities.
    """
    record = artifacts.read_json(path)
    try:
        rows = [
            {
                "target": record["target"],
                "language": cell["language"],
                "source": cell["source"],
                "window": window,
                "log_probabilities": cell[window]["log_probabilities"],
            }
            for cell in record["cells"]
            for window in WINDOWS.values()
            if "log_probabilities" in cell.get(window, {})
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise Untested(f"{path} holds no perplexities of models: it lacks {error}") from None
    columns = ["target", "language", "source", "window", "log_probabilities"]
    return pd.DataFrame(rows, columns=columns)


@dataclass(frozen=True)
class Perplexities:
    """The perplexities of one target model.

    Attributes:
        cells: [source, language] float64, perplexity.
        draws: (source, language) -> [DRAWS] float64, the logarithm of the perplexity on bootstrap
            samples of the passages. All sources of a language share the samples (paired). Empty if
            the passages' log-probabilities were not kept.
        target: the target model.
        window: which part of a passage was read, in words.
        seed: of the generators.
    """

    cells: pd.DataFrame
    draws: dict[tuple[str, str], np.ndarray]
    target: str
    window: str
    seed: int

    @classmethod
    def of(
        cls, cells: pd.DataFrame, passages: pd.DataFrame | None, target: str, column: str, seed: int
    ) -> Perplexities:
        """Make it from a table's cells and the passages' log-probabilities.

        Raises:
            Untested: the cells of a language have different numbers of passages, or the passages
                give another perplexity than the table.
        """
        words = "whole passage" if column == "perplexity" else "end of the passage"
        if passages is None or passages.empty:
            return cls(cells, {}, target, words, seed)
        here = passages[(passages["target"] == target) & (passages["window"] == WINDOWS[column])]
        draws: dict[tuple[str, str], np.ndarray] = {}
        for language, rows in here.groupby("language"):
            draws |= _resampled(cells, str(language), rows)
        return cls(cells, draws, target, words, seed)

    def log(self, source: str, language: str) -> Estimate:
        """The natural logarithm of a cell's perplexity: minus the mean log-probability."""
        value = _log_of(self.cells, source, language)
        return Estimate({self.seed: value}, self.draws.get((source, language)))


def _log_of(cells: pd.DataFrame, source: str, language: str) -> float:
    column = dict(zip(cells.index, cells[language].to_numpy(float), strict=True))
    return float(np.log(column[source]))


def _resampled(
    cells: pd.DataFrame, language: str, rows: pd.DataFrame
) -> dict[tuple[str, str], np.ndarray]:
    """The draws of one language's cells; all cells share the samples of passages."""
    lengths = {len(numbers) for numbers in rows["log_probabilities"]}
    if len(lengths) > 1:
        raise Untested(f"the sources of {language} were measured on unequal numbers of passages")
    table = -np.array(rows["log_probabilities"].tolist(), float).T
    for source, mean in zip(rows["source"], table.mean(0), strict=True):
        if source in cells.index and abs(mean - _log_of(cells, source, language)) > 1e-3:
            raise Untested(
                f"the passages of {source} ({language}) have a log perplexity of {mean:.4g}, and "
                f"Table 1 has {_log_of(cells, source, language):.4g}: draw the table again"
            )
    drawn = bootstrap.of_mean(table, "passages", language)
    return {(source, language): drawn[:, k] for k, source in enumerate(rows["source"])}
