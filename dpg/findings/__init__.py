"""Small controlled experiments that say why a result is as it is; `docs/findings.md` shows them.

Each is a module with four parts: what it is called and how it is done (`TITLE`, `METHOD`), its
table (`frame`), its picture (`draw`), and its result in one sentence, computed from the table
(`sentence`). A finding changes one setting of a run at a time and keeps the others. Importing this
package loads no JAX and no drawing library.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType

from dpg.config import RunConfig, Study
from dpg.errors import DpgError
from dpg.findings.bases import language_pair, pattern_pair

Pair = tuple[RunConfig, RunConfig]

BASES: dict[str, Callable[[Study], Pair]] = {
    "pattern_scale": pattern_pair,
    "authors_update": language_pair,
    "eps_root": language_pair,
    "last_word": language_pair,
    "example_mean": language_pair,
    "collapse": language_pair,
}
"""Finding -> Adam's and SGD's run of the study that it starts from; in the order of the page."""

FINDINGS = tuple(BASES)

READS_RUNS = tuple(name for name, base in BASES.items() if base is language_pair)
"""The findings that read these two runs when they are finished."""


def module_of(name: str) -> ModuleType:
    """The module of a finding.

    Raises:
        DpgError: there is none of this name.
    """
    if name not in FINDINGS:
        raise DpgError(f"no finding is called {name!r}; there are {', '.join(FINDINGS)}")
    return importlib.import_module(f"dpg.findings.{name}")


def possible(study: Study) -> list[str]:
    """The findings that a study's runs suffice for, in the order of the page."""
    return [name for name, bases in BASES.items() if _suffices(bases, study)]


def _suffices(bases: Callable[[Study], Pair], study: Study) -> bool:
    try:
        bases(study)
    except DpgError:
        return False
    return True
