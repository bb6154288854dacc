"""Revisions of the workflow's steps: a cached result knows which code made it.

A step's revision is raised by hand, with a reason, when the numbers that it computes change: a
mended fault, another order of sums. It is part of the step's digest, so that results of an older
revision are made anew, and part of the state of a step under way. A change that leaves the numbers
as they are (names, messages, speed) raises nothing. `tests/revisions` fails when a step's recorded
numbers change and its revision does not.
"""

from __future__ import annotations

HISTORY: dict[str, tuple[str, ...]] = {
    "articles": ("first recorded",),
    "passages": ("first recorded",),
    "corpus": (
        "first recorded",
        "articles and stories of each language, as streams; English stories too",
    ),
    "tokenizer": ("first recorded",),
    "pretrain": (
        "first recorded",
        "a Llama's heads have the width of the shape, not 128",
    ),
    "finish": ("first recorded",),
    "embedding": ("first recorded",),
    "fetch_model": ("first recorded",),
    "generate": (
        "first recorded",
        "of a chat prompt that is too long, the article is cut, not the template's end",
    ),
    "fresh_samples": ("first recorded",),
    "sweep": ("first recorded",),
    "judge": ("first recorded",),
    "replay": ("first recorded",),
    "rollouts": (
        "first recorded",
        "of a chat prompt that is too long, the article is cut, not the template's end",
    ),
    "continue_pretraining": ("first recorded",),
    "fine_tune": ("first recorded",),
    "perplexity_tasks": ("first recorded",),
    "perplexity": (
        "first recorded",
        "all of a passage is read as well as its end, and each passage's number is kept",
    ),
    "figures": ("first recorded",),
    "theorem": ("first recorded",),
    "score": ("first recorded",),
    "claims": (
        "first recorded",
        "every verdict has an interval, undecided is one, and limits of several claims are mended",
        "a baseline that learns a language with one of several seeds is a counterexample",
    ),
    "report": ("first recorded",),
    "findings": ("first recorded",),
}
"""Step -> the reason of each of its revisions, the oldest first."""


def revision_of(step: str) -> int:
    """The present revision of a step, from 1."""
    return len(HISTORY[step])


def in_digest(step: str) -> dict[str, int]:
    """What a step's revision adds to its digest: nothing at revision 1."""
    revision = revision_of(step)
    return {"revision": revision} if revision > 1 else {}
