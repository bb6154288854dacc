"""Findings: small controlled experiments that explain a result; `docs/findings.md` shows them.

Each is a module with four parts: its title and method (`TITLE`, `METHOD`), its table (`frame`), its
figure (`draw`), and its result in one sentence, computed from the table (`sentence`). A finding
changes one setting of a run at a time and keeps the others. Importing this package loads neither
JAX nor a drawing library.
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
    "gradient_length": language_pair,
    "collapse": language_pair,
}
"""Finding -> the two runs of the study, Adam's and SGD's, that it starts from. In page order."""

FINDINGS = tuple(BASES)

READS_RUNS = tuple(name for name in BASES if name not in ("pattern_scale", "gradient_length"))
"""The findings that need the two runs to be finished; the others need only their settings."""


def module_of(name: str) -> ModuleType:
    """The module of a finding.

    Raises:
        DpgError: there is no finding of this name.
    """
    if name not in FINDINGS:
        raise DpgError(f"no finding is called {name!r}; expected one of {', '.join(FINDINGS)}")
    return importlib.import_module(f"dpg.findings.{name}")


def possible(study: Study) -> list[str]:
    """The findings for which a study has the runs, in the order of the page."""
    return [name for name, bases in BASES.items() if _suffices(bases, study)]


def _suffices(bases: Callable[[Study], Pair], study: Study) -> bool:
    try:
        bases(study)
    except DpgError:
        return False
    return True
