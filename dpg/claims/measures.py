"""Every measure of a run at each of its validations, as one table that can be kept.

The ledger's verdicts are computed from these tables. `dpg report keep` writes them as
`validations.csv`. So seeds can be run and kept one at a time, and verdicts over all of them need no
run folders.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import pandas as pd

from dpg.study.runs import Run, by_step

LOGGED = ("metric", "norm_difference", "pixels_right", "scans", "exact", "soft", "response_length")
"""Numbers of the log that are kept, if an experiment has them."""

NAMES = ("experiment", "variant", "seed", "step")
_RESAMPLES = 200


def of_rollouts(run: Run) -> pd.DataFrame:
    """Standard errors of means over rollouts, estimated from the kept rollouts.

    Returns:
        One row per validation, index step, with the column `soft_se` for a run of the UUID. An
        empty table for other runs.
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
    """The measures of Figure 4, from the judge's answers and the rollouts' tokens.

    Returns:
        One row per validation, index step: `rollouts` (number with an answer of the judge),
        `fraction` (of these in the target language), `entropy` (of bigrams, in bits) and
        `entropy_se`, its standard error over the rollouts.

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
    """The standard error of `bigram_entropy`, in bits, by a bootstrap over sequences."""
    pairs = [[(int(a), int(b)) for a, b in pairwise(one)] for one in sequences]
    flat = np.array([pair for one in pairs for pair in one], np.int64).reshape(-1, 2)
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
    """The kept table of one run: experiment, variant, seed, step, then all of its measures.

    A run that was not judged has no measures of the judge.

    Raises:
        DpgError: as in `Run.validation_lines` and `of_judged`.
    """
    table = pd.DataFrame(run.validation_lines()).set_index("step")
    readers = [str(name) for name in table if str(name).startswith("scans_")]  # one per QR reader
    table = table[[*(name for name in LOGGED if name in table), *readers]]
    table = table.join(of_rollouts(run))
    if run.folder.judged.exists():
        table = table.join(of_judged(run))
    table = table.reset_index()
    table.insert(0, "experiment", run.experiment)
    table.insert(1, "variant", run.variant.name)
    table.insert(2, "seed", run.seed)
    return table
