"""Claims on images in the target's head (sections 4.1, 4.2) and on its norm (section 4.3)."""

from __future__ import annotations

import numpy as np

from dpg.claims.checks import HORIZONS
from dpg.claims.estimates import Estimate, Untested, combine
from dpg.claims.evidence import MIN_VALIDATIONS, Curves, Results
from dpg.claims.verdicts import Condition
from dpg.evaluation import bootstrap

PIXEL = 1 / 42
"""One pixel of the 67."""

OTHERS = (
    ("adam", "middle"),
    ("adam", "short"),
    *((method, horizon) for method in ("sgd", "naive") for horizon in HORIZONS),
)
"""Every variant of the 67 except Adam at the longest T."""


def qr_scans(results: Results) -> list[Condition]:
    """A QR reader decodes the payload from the trained target, but not before training."""
    variant = results.horizon("adam", "long")
    scans = results.curves("qr", variant, "scans")
    pixels = results.curves("qr", variant, "pixels_right")
    tables = scans.tables.values()
    readers = [
        name
        for name in map(str, next(iter(tables)))
        if name.startswith("scans_") and all(name in t and t[name].notna().all() for t in tables)
    ]
    return [
        Condition("codes that scan after training", scans.last, ">=", 1, every=True),
        Condition("codes that scanned before", scans.first, "<", 1, every=True),
        Condition("pixels right, after minus before", pixels.gain, ">", 0),
        Condition("pixels right after", pixels.last),
        *(
            Condition(
                f"read by {name.removeprefix('scans_').replace('_', ', ')}",
                _of(results, variant, name),
            )
            for name in readers
        ),
    ]


def _of(results: Results, variant: str, reader: str) -> list[float]:
    curves = results.curves("qr", variant, reader)
    return [float(value) for value in curves.values[:, -1]]


def pixels_of(results: Results, method: str, horizon: str, extra: str = "") -> Curves:
    """The share of right pixels of the 67."""
    return results.curves("sixseven", results.horizon(method, horizon, extra), "pixels_right")


def norm_of(results: Results, method: str, horizon: str) -> Curves:
    """The norm after training on the text minus the norm before."""
    return results.curves("norm", results.horizon(method, horizon), "norm_difference")


def untuned(results: Results, experiment: str, method: str, horizon: str) -> str:
    """Why a variant's learning rate does not count as tuned; "" if it does."""
    return results.untuned(experiment, results.horizon(method, horizon))


def _gained(run: Curves, least: float = 0.0) -> Condition:
    return Condition(f"gain in pixels, {run.name}", run.gain, ">", least)


def sixseven_exact(results: Results) -> list[Condition]:
    """At least half of the runs end with all 42 pixels right."""
    runs = [pixels_of(results, "adam", "long")]
    if results.has("sixseven", results.horizon("adam", "long", "redo")):
        runs.append(pixels_of(results, "adam", "long", "redo"))
    perfect: dict[int, list[float]] = {}
    for run in runs:
        for seed, value in run.last.values.items():
            perfect.setdefault(seed, []).append(float(value >= 1))
    share = Estimate({seed: float(np.mean(found)) for seed, found in perfect.items()})
    return [
        Condition("runs of Adam at the longest T that end perfect", share, ">=", 0.5),
        Condition("pixels right before training", runs[0].first, "<", 1, every=True),
        *(Condition(f"pixels right at the end, {run.name}", run.last) for run in runs),
    ]


def sixseven_only(results: Results) -> list[Condition]:
    """No other variant gets all 42 pixels right, with any seed."""
    conditions = sixseven_exact(results)
    for method, horizon in OTHERS:
        run = pixels_of(results, method, horizon)
        why = untuned(results, "sixseven", method, horizon)
        what = f"pixels right at the end, {run.name}"
        conditions.append(Condition(what, run.last, "<", 1, every=True, untuned=why))
    return conditions


def several_steps_best(results: Results) -> list[Condition]:
    """Adam with several steps ends with more right pixels than every other variant."""
    several = [pixels_of(results, "adam", horizon) for horizon in ("long", "middle")]
    worst = combine(np.minimum, *[run.last for run in several])
    conditions = [_gained(run) for run in several]
    for method, horizon in OTHERS[1:]:
        other = pixels_of(results, method, horizon)
        words = f"pixels right at the end, Adam with several steps minus {other.name}"
        why = untuned(results, "sixseven", method, horizon)
        conditions.append(Condition(words, worst - other.last, ">", 0, untuned=why))
    return conditions


def more_steps(results: Results) -> list[Condition]:
    """The longest T ends with more pixels right than T = 1."""
    long, short = (pixels_of(results, "adam", horizon) for horizon in ("long", "short"))
    words = f"pixels right at the end, {long.name} minus {short.name}"
    return [Condition(words, long.last - short.last, ">", 0), _gained(long)]


def more_steps_stable(results: Results) -> list[Condition]:
    """The curve of the longest T goes back and forth less, while it is below the ceiling."""
    long, short = (pixels_of(results, "adam", horizon) for horizon in ("long", "short"))
    words = f"movement back and forth per validation, {short.name} minus {long.name}"
    return [
        Condition(words, _restlessness(short) - _restlessness(long), ">", 0),
        _gained(long),
    ]


def _restlessness(run: Curves) -> Estimate:
    """How far a curve moves beyond its net change, per validation; its moves are resampled.

    Moves that begin or end within a pixel of the whole image are left out: a curve at its ceiling
    cannot move, so it would look stable.
    """
    values: dict[int, float] = {}
    draws = None
    for seed, course in zip(run.tables, run.values, strict=True):
        below = course < 1 - PIXEL - 1e-9
        moves = np.diff(course)[below[1:] & below[:-1]]
        if len(moves) < MIN_VALIDATIONS - 1:
            raise Untested(
                f"{run.name} makes {len(moves)} moves more than a pixel below the whole image, "
                f"expected {MIN_VALIDATIONS - 1} or more: at its ceiling a curve cannot move"
            )
        values[seed] = float(_beyond(moves))
        chosen = bootstrap.stream(run.name, "moves").integers(
            len(moves), size=(bootstrap.DRAWS, len(moves))
        )
        draws = _beyond(moves[chosen])
    return Estimate(values, draws if len(values) == 1 else None)


def _beyond(moves: np.ndarray) -> np.ndarray:
    return np.asarray((np.abs(moves).sum(-1) - np.abs(moves.sum(-1))) / moves.shape[-1])


def adam_beats_sgd(results: Results) -> list[Condition]:
    """At every T, also T = 1, Adam's generator ends with more right pixels than SGD's."""
    conditions = []
    for horizon in HORIZONS:
        adam, sgd = (pixels_of(results, method, horizon) for method in ("adam", "sgd"))
        words = f"pixels right at the end, {adam.name} minus {sgd.name}"
        why = untuned(results, "sixseven", "sgd", horizon)
        conditions.append(Condition(words, adam.last - sgd.last, ">", 0, untuned=why))
        conditions.append(_gained(adam))
    return conditions


def batching_is_free(results: Results) -> list[Condition]:
    """Without cross-group batching the result is at most two pixels better."""
    with_groups = pixels_of(results, "adam", "long")
    without = pixels_of(results, "adam", "long", "nogroups")
    words = "pixels right at the end, without cross-group batching minus with"
    return [
        Condition(words, without.last - with_groups.last, "<", 0.05),
        _gained(with_groups, 0.1),
    ]


def norm_falls(results: Results) -> list[Condition]:
    """Training on the generator's text lowers the norm, and lowers it more at the end."""
    run = norm_of(results, "adam", "long")
    return [
        Condition("change of the norm at the end", run.last, "<", 0),
        Condition("the same, end minus start of the generator's training", run.gain, "<", 0),
    ]


def norm_only_adam(results: Results) -> list[Condition]:
    """Every other method makes less than half of Adam's progress."""
    adam = norm_of(results, "adam", "long")
    conditions = [Condition(f"progress of {adam.name}", -adam.gain, ">", 0)]
    for method in ("sgd", "naive"):
        for horizon in HORIZONS:
            other = norm_of(results, method, horizon)
            words = f"progress of {other.name} minus half of Adam's"
            why = untuned(results, "norm", method, horizon)
            progress = adam.gain / 2 - other.gain
            conditions.append(Condition(words, progress, "<", 0, untuned=why))
    return conditions


def norm_plateau(results: Results) -> list[Condition]:
    """With T = 1 less of the progress is made in the second half, and the end is worse."""
    long, short = (norm_of(results, "adam", horizon) for horizon in ("long", "short"))
    conditions = [Condition(f"progress of {run.name}", -run.gain, ">", 0) for run in (long, short)]
    words = f"norm at the end, {long.name} minus {short.name}"
    conditions.append(Condition(words, long.last - short.last, "<", 0))
    gains = [value for run in (long, short) for value in run.gain.values.values()]
    if max(gains) < 0:  # otherwise a share of the progress has no meaning
        share = [(run.last - run.middle) / run.gain for run in (short, long)]
        words = f"share of the progress made in the second half, {short.name} minus {long.name}"
        conditions.append(Condition(words, share[0] - share[1], "<", 0))
    return conditions
