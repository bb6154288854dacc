"""From numbers to a verdict: conditions with intervals, and how they are combined."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from dpg.claims.estimates import Estimate, Untested
from dpg.errors import DpgError
from dpg.evaluation import bootstrap

if TYPE_CHECKING:
    from dpg.claims.evidence import Results

HOLDS, FAILS, UNDECIDED, UNTESTED = "holds", "does not hold", "undecided", "not tested"
VERDICTS = (HOLDS, FAILS, UNDECIDED, UNTESTED)
_RELATIONS = {">": operator.gt, ">=": operator.ge, "<": operator.lt, "<=": operator.le}


@dataclass(frozen=True)
class Condition:
    """A number that must lie on one side of a limit.

    Attributes:
        what: the number, in words.
        values: an `Estimate`, or one number per seed; a single number if it is exact.
        relation: ">", ">=", "<" or "<="; "" for a number that is only shown.
        limit: the number that it is compared with.
        exact: whether it is computed without randomness, so that seeds do not matter.
        every: whether it is an event that every seed must show. Then a seed that does not show it
            is a counterexample, and no interval is used.
        untuned: why a baseline in the condition is not tuned, or "". A tuned baseline could do
            better, so such a condition is never met.
    """

    what: str
    values: Any
    relation: str = ""
    limit: float = math.nan
    exact: bool = False
    every: bool = False
    untuned: str = ""
    _estimate: Estimate = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        estimate = self.values
        if not isinstance(estimate, Estimate):
            numbers = np.atleast_1d(np.asarray(self.values, float)).tolist()
            estimate = Estimate(dict(enumerate(numbers)))
        found = list(estimate.values.values())
        if not found or not all(map(math.isfinite, found)):
            raise Untested(f"{self.what}: {', '.join(map(str, found)) or 'no number'}")
        if self.relation and (self.relation not in _RELATIONS or not math.isfinite(self.limit)):
            raise ValueError(
                f"{self.what}: found the relation {self.relation!r} and the limit {self.limit}; "
                f"expected one of {', '.join(_RELATIONS)} and a finite limit"
            )
        object.__setattr__(self, "values", tuple(found))
        object.__setattr__(self, "_estimate", estimate)

    @property
    def mean(self) -> float:
        """The mean over seeds."""
        return self._estimate.mean

    @functools.cached_property
    def interval(self) -> tuple[float, float] | None:
        """Bootstrap interval of the mean; None if it is exact, an event, or nothing was drawn."""
        if self.exact or self.every:
            return None
        return self._estimate.interval

    @property
    def state(self) -> str:
        """The state: "met", "not met", "open" (limit in the interval, or `untuned`) or "shown"."""
        if not self.relation:
            return "shown"
        meets = _RELATIONS[self.relation]
        tried = self.values if self.every else self.interval or (self.mean,)
        met = [meets(one, self.limit) for one in tried]
        if all(met):
            return "open" if self.untuned else "met"
        return "not met" if self.every or not any(met) else "open"

    @property
    def note(self) -> str:
        """Why the state is "open", in words; "" for other states."""
        if self.state != "open":
            return ""
        meets = _RELATIONS[self.relation]
        if all(meets(one, self.limit) for one in self.interval or self.values):
            return self.untuned
        return "the interval reaches over the limit"

    def words(self) -> str:
        """The number, its interval and what was expected, on one line."""
        return in_words(self.record())

    def record(self) -> dict[str, Any]:
        """Everything, for JSON."""
        asked = {"relation": self.relation, "limit": self.limit} if self.relation else {}
        numbers = {"what": self.what, "values": list(self.values), "mean": self.mean}
        note = {"note": self.note} if self.note else {}
        return {**numbers, "interval": self.interval, **asked, "state": self.state, **note}


def in_words(record: Mapping[str, Any]) -> str:
    """A condition's record (`Condition.record`) on one line, without its state."""
    text = f"{record['what']}: {_number(record['mean'])}"
    if record["interval"]:
        low, high = record["interval"]
        text += f" [{_number(low)}, {_number(high)}]"
    if "relation" not in record:
        return text
    return text + f" (expected {record['relation']} {_number(record['limit'])})"


def in_full(record: Mapping[str, Any]) -> str:
    """Like `in_words`, followed by the state, unless it is only shown, and why it is open."""
    state = f": {record['state']}" if "relation" in record else ""
    note = f" ({record['note']})" if "note" in record else ""
    return f"{in_words(record)}{state}{note}"


@dataclass(frozen=True)
class Claim:
    """A sentence of the paper and how results can support it.

    Attributes:
        name: a short name, unique.
        place: section, figure or table of the paper.
        words: the claim.
        method: what is compared with what, for readers of the ledger.
        check: function from results to the conditions that must all be met; raises `Untested`.
    """

    name: str
    place: str
    words: str
    method: str
    check: Callable[[Results], Sequence[Condition]] = field(repr=False)


@dataclass(frozen=True)
class Verdict:
    """A claim, its verdict, a line that explains the verdict, and the conditions."""

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
    """The verdict on one claim; with damaged or missing results it is "not tested".

    If a condition is not met, the claim does not hold. Otherwise, if a condition is open, the claim
    is undecided.
    """
    try:
        conditions = tuple(claim.check(results))
    except DpgError as error:  # Untested, or a file that cannot be read
        return Verdict(claim, UNTESTED, f"{UNTESTED} at this scale: {error}")
    asked = [condition for condition in conditions if condition.relation]
    if not asked:
        raise ValueError(f"the check of {claim.name} has no condition")
    by_state = {
        state: [one for one in asked if one.state == state] for state in ("not met", "open")
    }
    verdict, against = HOLDS, []
    if by_state["not met"]:
        verdict, against = FAILS, by_state["not met"]
    elif by_state["open"]:
        verdict, against = UNDECIDED, by_state["open"]
    line = f"{verdict} ({_basis(asked)})"
    if against:
        line += f": {against[0].words()}"
        if against[0].note:
            line += f", {against[0].note}"
        if len(against) > 1:
            line += f"; and {len(against) - 1} more of {len(asked)} conditions"
    return Verdict(claim, verdict, line, conditions)


def _basis(conditions: Sequence[Condition]) -> str:
    seeds = {len(condition.values) for condition in conditions if not condition.exact}
    if not seeds:
        return "exact"
    fewest = min(seeds)
    if fewest == 1:
        return "one seed"
    whole = fewest <= bootstrap.RANGE_SEEDS
    kind = (
        "intervals from the lowest to the highest"
        if whole
        else f"{bootstrap.LEVEL:.0%} bootstrap intervals"
    )
    return f"{fewest} seeds, {kind}"


def _number(value: float) -> str:
    return f"{value:.4g}"
