"""Every measure of a run at each of its validations, as one table that can be kept.

The ledger judges by these tables. `dpg report keep` writes them as `validations.csv`, so that
verdicts over several seeds, which were made and kept one at a time, need no run folder.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from dpg.study.runs import Run, by_step

LOGGED = ("metric", "norm_difference", "pixels_right", "scans", "exact", "soft", "response_length")
"""Numbers of the log that are kept, where an experiment has them."""

NAMES = ("experiment", "variant", "seed", "step")
_RESAMPLES = 200


def of_rollouts(run: Run) -> pd.DataFrame:
    """Standard errors of what was averaged over rollouts, from those that were kept.

    Returns:
        One row per validation, index step: `soft_se` for a run of the UUID. Empty columns for
        others.
    """
    text = run.config.get("metric", {}).get("text")
    if text is None or not run.folder.rollouts.exists():
        return pd.DataFrame(index=pd.Index([], name="step"))
    from dpg.generators.validation import longest_shared

    size = run.setting("validation", "steps") * run.setting("learner", "batch_size")
    rows = {}
    for step, table in by_step(run.rollouts()):
        shares = np.array([longest_shared(text, response) for response in table["response"]])
        rows[step] = {"soft_se": float(shares.std(ddof=1) / np.sqrt(size))}
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("step")


def of_judged(run: Run) -> pd.DataFrame:
    """What the judge's answers and the tokens say (Figure 4).

    Returns:
        One row per validation, index step: `rollouts` (that the judge gave an answer for),
        `fraction` (of these in the target language), `entropy` (bits per bigram) and `entropy_se`,
        its standard error over the rollouts.

    Raises:
        DpgError: as `dpg.figures.figure_4.measures`.
    """
    from dpg.figures import figure_4

    judged = run.judged()
    table = figure_4.measures(run, judged).set_index("step")
    errors = {step: entropy_error(part["tokens"].tolist()) for step, part in by_step(judged)}
    table = table[["rollouts", "fraction", "entropy"]]
    return table.assign(entropy_se=[errors[step] for step in table.index])


def entropy_error(sequences: Sequence[Sequence[int]]) -> float:
    """The standard error of `bigram_entropy` in bits: the bootstrap's, over sequences."""
    pairs = [[(int(a), int(b)) for a, b in pairwise(one)] for one in sequences]
    flat = np.array([pair for one in pairs for pair in one], np.int64).reshape(-1, 2)
    if not len(flat):
        return 0.0
    owner = np.repeat(np.arange(len(pairs)), [len(one) for one in pairs])
    _, kind = np.unique(flat, axis=0, return_inverse=True)
    kind = kind.ravel()
    rng = np.random.default_rng(0)
    found = []
    for _ in range(_RESAMPLES):
        times = np.bincount(rng.integers(len(pairs), size=len(pairs)), minlength=len(pairs))
        counts = np.bincount(kind, weights=times[owner])
        shares = counts[counts > 0] / counts.sum()
        found.append(-(shares * np.log2(shares)).sum())
    return float(np.std(found, ddof=1))


def table_of(run: Run) -> pd.DataFrame:
    """All of it for one run, as it is kept: experiment, variant, seed, step, then the measures.

    A run that was not judged has no measures of the judge.
    """
    table = pd.DataFrame(run.validation_lines()).set_index("step")
    readers = [
        str(name) for name in table if str(name).startswith("scans_")
    ]  # of the QR code, one each
    table = table[[*(name for name in LOGGED if name in table), *readers]]
    table = table.join(of_rollouts(run))
    if run.folder.judged.exists():
        table = table.join(of_judged(run))
    table = table.reset_index()
    table.insert(0, "experiment", run.experiment)
    table.insert(1, "variant", run.variant.name)
    table.insert(2, "seed", run.seed)
    return table
