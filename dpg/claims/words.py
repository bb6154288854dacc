"""Measures of the words of rollouts: are they coherent, and do they read like stories?

Both measures compare a run's rollouts with the scale's own texts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd

from dpg import artifacts
from dpg.claims import style
from dpg.claims.estimates import Untested
from dpg.errors import DpgError
from dpg.study.layout import Layout
from dpg.study.outputs import COHERENT, STYLED
from dpg.study.runs import Run, by_step

KNOWN_PAIRS = "known_pairs"
"""Share of a rollout's pairs of neighbouring words that occur in the scale's articles."""

STORIES = "stories"
"""Share of stories among the rollouts that are judged English."""


def of_run(run: Run, layout: Layout, column: str) -> pd.DataFrame:
    """Measure a run's rollouts at every validation.

    Args:
        run: a finished run.
        layout: where the scale's texts are.
        column: `KNOWN_PAIRS` or `STORIES`.

    Returns:
        One row per validation, index step. For `KNOWN_PAIRS`, the columns `known_pairs` and
        `known_pairs_se`, its standard error. For `STORIES`, the columns `stories`, `english` (the
        number of rollouts judged English) and `accuracy` (of the classifier on unseen pieces).

    Raises:
        Untested: a table of texts is missing, or the classifier of style is not accurate enough.
    """
    measure = {KNOWN_PAIRS: _pairs, STORIES: _stories}[column]
    return measure(run, layout).rename_axis("step")


def of_run_if_there(run: Run, layout: Layout) -> pd.DataFrame:
    """The measure that a claim needs of this run; without columns if none, or texts are missing."""
    empty = pd.DataFrame(index=pd.Index([], name="step"))
    wanted = {**dict.fromkeys(COHERENT, KNOWN_PAIRS), STYLED: STORIES}
    if run.experiment not in wanted or run.variant.method != "adam":
        return empty
    try:
        return of_run(run, layout, wanted[run.experiment])
    except DpgError:  # texts or judgements are missing, or the classifier is not accurate
        return empty


def _pairs(run: Run, layout: Layout) -> pd.DataFrame:
    tables = by_step(run.rollouts())
    wanted = {pair for _, table in tables for text in table["response"] for pair in pairs_of(text)}
    known = _found(_texts(layout.articles), wanted)
    rows = {}
    for step, table in tables:
        found = [[pair in known for pair in pairs_of(text)] for text in table["response"]]
        shares = np.array([np.mean(one) if one else 0.0 for one in found])
        error = shares.std(ddof=1) / np.sqrt(len(shares)) if len(shares) > 1 else np.nan
        rows[step] = {KNOWN_PAIRS: float(shares.mean()), f"{KNOWN_PAIRS}_se": float(error)}
    return pd.DataFrame.from_dict(rows, orient="index")


def pairs_of(text: str) -> list[tuple[str, str]]:
    """The pairs of neighbouring words, in lower case, without punctuation around the words."""
    words = [word.strip(".,;:!?\"'()[]*«»").lower() for word in text.split()]
    return list(pairwise(word for word in words if word))


def _found(texts: Iterable[str], wanted: set[tuple[str, str]]) -> set[tuple[str, str]]:
    return {pair for text in texts for pair in pairs_of(text) if pair in wanted}


def _texts(path: Path) -> Sequence[str]:
    if not path.exists():
        raise Untested(f"{path} is missing: rollouts are compared with its texts")
    texts: list[str] = artifacts.read_table(path)["text"].tolist()
    return texts


def _stories(run: Run, layout: Layout) -> pd.DataFrame:
    for path in (layout.articles, layout.passages):
        if not path.exists():
            raise Untested(f"{path} is missing: style is learned from it")
    judged = run.judged()
    words = max(int(np.median([len(text.split()) for text in judged["response"]])), 5)
    passages = artifacts.read_table(layout.passages)
    english = passages[passages["language"] == "en"]["text"].tolist()
    reads, accuracy = style.reader(english, list(_texts(layout.articles)), words=words)
    rows = {}
    for step, table in by_step(judged):
        texts = table[table["judged"] == "English"]["response"].tolist()
        share = float(reads(texts).mean()) if texts else 0.0
        rows[step] = {STORIES: share, "english": len(texts), "accuracy": accuracy}
    return pd.DataFrame.from_dict(rows, orient="index")
