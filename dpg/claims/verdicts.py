"""From numbers to a verdict: conditions with an interval over seeds, and what they say together."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from dpg.claims.evidence import Results, Untested
from dpg.errors import DpgError

HOLDS, FAILS, UNTESTED = "holds", "does not hold", "not tested"
LEVEL = 0.95
_RESAMPLES = 10_000
_RELATIONS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


@dataclass(frozen=True)
class Condition:
    """A number that must lie on one side of a limit.

    Attributes:
        what: the number, in words.
        values: one per seed; one alone for what is computed exactly.
        relation: ">", ">=", "<" or "<="; "" for a number that is only shown.
        limit: what it is compared with.
        exact: whether it is computed without chance, so that seeds do not matter.
    """

    what: str
    values: Any
    relation: str = ""
    limit: float = math.nan
    exact: bool = False

    def __post_init__(self) -> None:
        numbers = tuple(float(value) for value in np.atleast_1d(self.values))
        if not numbers or not all(map(math.isfinite, numbers)):
            raise Untested(f"{self.what}: {', '.join(map(str, numbers)) or 'no number'}")
        if self.relation and (self.relation not in _RELATIONS or not math.isfinite(self.limit)):
            raise ValueError(
                f"{self.what}: found the relation {self.relation!r} and the limit {self.limit}; "
                f"expected one of {', '.join(_RELATIONS)} and a finite limit"
            )
        object.__setattr__(self, "values", numbers)

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return float(np.mean(self.values))

    @property
    def interval(self) -> tuple[float, float] | None:
        """Bootstrap interval of the mean over seeds; None for one seed, where there is none."""
        if len(self.values) < 2:
            return None
        values = np.array(self.values)
        draws = np.random.default_rng(0).integers(len(values), size=(_RESAMPLES, len(values)))
        tail = (1 - LEVEL) / 2
        low, high = np.quantile(values[draws].mean(1), [tail, 1 - tail])
        return float(low), float(high)

    @property
    def state(self) -> str:
        """Is it "met", "not met", "open" (by the mean, not by the interval's end) or "shown"?"""
        if not self.relation:
            return "shown"
        meets = _RELATIONS[self.relation]
        if not meets(self.mean, self.limit):
            return "not met"
        ends = self.interval or (self.mean, self.mean)
        return "met" if all(meets(end, self.limit) for end in ends) else "open"

    def words(self) -> str:
        """The number, its interval and what was asked of it, in a line."""
        text = f"{self.what}: {_number(self.mean)}"
        if self.interval:
            text += f" [{_number(self.interval[0])}, {_number(self.interval[1])}]"
        return text + (
            f" (expected {self.relation} {_number(self.limit)})" if self.relation else ""
        )

    def record(self) -> dict[str, Any]:
        """Everything, for JSON."""
        asked = {"relation": self.relation, "limit": self.limit} if self.relation else {}
        numbers = {"what": self.what, "values": list(self.values), "mean": self.mean}
        return {**numbers, "interval": self.interval, **asked, "state": self.state}


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper and how results can support it.

    Attributes:
        name: a short name, unique.
        place: section, figure or table of the paper.
        words: the claim.
        method: what is compared with what, for the reader of the ledger.
        check: results -> the conditions, all of which must be met; raises `Untested`.
    """

    name: str
    place: str
    words: str
    method: str
    check: Callable[[Results], Sequence[Condition]] = field(repr=False)


@dataclass(frozen=True)
class Verdict:
    """A claim, what was found, and what that says."""

    claim: Claim
    verdict: str
    line: str
    conditions: tuple[Condition, ...] = ()

    def record(self) -> dict[str, Any]:
        """Everything, for JSON."""
        claim = {key: getattr(self.claim, key) for key in ("name", "place", "words", "method")}
        found = {"verdict": self.verdict, "line": self.line}
        return {**claim, **found, "conditions": [c.record() for c in self.conditions]}


def verdict_on(claim: Claim, results: Results) -> Verdict:
    """The verdict on one claim. Results that are damaged or missing never make it hold."""
    try:
        conditions = tuple(claim.check(results))
    except DpgError as error:  # Untested, or a file that cannot be read
        return Verdict(claim, UNTESTED, f"{UNTESTED} at this scale: {error}")
    asked = [condition for condition in conditions if condition.relation]
    if not asked:
        raise ValueError(f"the check of {claim.name} has no condition")
    missed = [condition for condition in asked if condition.state != "met"]
    verdict = FAILS if missed else HOLDS
    line = f"{verdict} ({_basis(asked)})"
    if missed:
        line += f": {missed[0].words()}"
        if missed[0].state == "open":
            line += ", undecided: the interval reaches over the limit"
        if len(missed) > 1:
            line += f"; and {len(missed) - 1} more of {len(asked)} conditions"
    return Verdict(claim, verdict, line, conditions)


def _basis(conditions: Sequence[Condition]) -> str:
    seeds = {len(condition.values) for condition in conditions if not condition.exact}
    if not seeds:
        return "exact"
    fewest = min(seeds)
    if fewest == 1:
        return "1 seed"
    return f"{fewest} seeds, {LEVEL:.0%} bootstrap intervals"


def _number(value: float) -> str:
    return f"{value:.4g}"
