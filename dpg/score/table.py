"""The table of texts with their scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from dpg.artifacts import write_csv, write_table
from dpg.score.derivative import Scored
from dpg.score.job import Job


def table_of(job: Job, found: Scored) -> pd.DataFrame:
    """One row per training text, in the order of reading.

    Columns:
        text_id: number of the text, from 0.
        source: its file, and the line or row in the file.
        score: d metric / d weight, in nats. Above 0: the text helped. The validation loss would
            rise by about this much if the text were left out.
        rank: 1 for the highest score.
        uses: how often it was trained on; a text that was never used has a score of 0.
        loss: its own loss before its first use, in nats per token; NaN if it was never used.
        tokens: the number of its predicted tokens.
        cut: whether it was cut to the length.
        text: the text itself.
    """
    ranks = np.empty(len(job.texts), np.int64)
    ranks[np.argsort(-found.scores, kind="stable")] = np.arange(1, len(job.texts) + 1)
    return pd.DataFrame(
        {
            "text_id": np.arange(len(job.texts)),
            "source": [text.where for text in job.texts],
            "score": found.scores,
            "rank": ranks,
            "uses": found.uses,
            "loss": found.text_losses,
            "tokens": job.examples.predicted,
            "cut": job.examples.cut,
            "text": [text.shown for text in job.texts],
        }
    )


def write(table: pd.DataFrame, folder: Path) -> None:
    """Write `scores.parquet`, and `scores.csv` with the same rows, each whole or not at all."""
    write_table(folder / "scores.parquet", table)
    write_csv(folder / "scores.csv", table)
