"""The five languages of the paper's LAMBADA experiments, and their names in every source.

This one table is the only place that spells a language's tag, task or locale.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from dpg.errors import DpgError


@dataclass(frozen=True)
class Language:
    """One language and its names in other sources; None if a source does not have it."""

    code: str
    """ISO 639-1, the name used in every table and path of this package."""
    name: str
    """English name, as in the judge's prompt (Appendix F of the paper)."""
    lambada_config: str
    """Configuration of the hub's `EleutherAI/lambada_openai`."""
    lambada_task: str
    """Task of lm-eval (per-word perplexity of a passage's last word)."""
    wheel_locale: str | None
    """Locale tag of the Wikipedia summaries in the PyPI wheel."""
    wesnoth_locale: str | None
    """Folder of the gettext catalogue in Debian's wesnoth packages; None for English, which is the
    message id itself."""
    flores: str
    """ISO 639-3 and script, the label of fastText's 217-language identifier."""


LANGUAGES: tuple[Language, ...] = (
    Language("en", "English", "en", "lambada_openai", "en-us", None, "eng_Latn"),
    Language("de", "German", "de", "lambada_openai_mt_de", None, "de", "deu_Latn"),
    Language("es", "Spanish", "es", "lambada_openai_mt_es", "es-es", "es", "spa_Latn"),
    Language("fr", "French", "fr", "lambada_openai_mt_fr", "fr-fr", "fr", "fra_Latn"),
    Language("it", "Italian", "it", "lambada_openai_mt_it", None, "it", "ita_Latn"),
)
CODES: tuple[str, ...] = tuple(one.code for one in LANGUAGES)
TARGET_CODES: tuple[str, ...] = tuple(code for code in CODES if code != "en")
"""The languages that a generator is taught to write; the paper's prompts are all English."""


def language(code: str) -> Language:
    """The table's row for an ISO 639-1 code.

    Raises:
        DpgError: the code is not in the table.
    """
    for one in LANGUAGES:
        if one.code == code:
            return one
    raise DpgError(f"unknown language {code!r}: allowed are {', '.join(CODES)}")


def languages(codes: Iterable[str]) -> tuple[Language, ...]:
    """The table's rows for several codes, in the given order.

    Raises:
        DpgError: a code is not in the table, or `codes` is a string instead of a list.
    """
    if isinstance(codes, str):
        raise DpgError(f"languages must be a list of codes such as ['{codes}'], not {codes!r}")
    return tuple(language(code) for code in codes)
