"""What a text may hold: words with single spaces between them, and no markup.

Wikipedia's and the campaigns' texts come with wiki, HTML, Pango or gettext markup in them. A
generator that reads markup learns to write it, so nothing with markup passes unseen: a source of
our own drops and counts it, a user's own file is an error that names the text.
"""

from __future__ import annotations

import re
import unicodedata

_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
_EMPTY_BRACKETS = re.compile(r"\s*\(\s*[;,:]?\s*\)")

# An HTML or Pango tag has attributes with "=" or none at all: "a < b and c > d" is not one.
TAG = re.compile(r"</?\s?[A-Za-z][\w-]*(?:\s+[\w-]+\s*=[^<>]*|\s*/?)>")
_MARKUP = (
    TAG,
    re.compile(r"<!--|-->"),
    re.compile(r"\{\{|\}\}|\{\||\|\}"),  # wiki templates and tables
    re.compile(r"\[\[|\]\]|\[https?://"),  # wiki links
    re.compile(r"'{3}[^']"),  # wiki bold
    re.compile(r"(?m)^={2,}[^=\n]+={2,}\s*$"),  # wiki headings
    re.compile(r"&(?:[a-zA-Z]{2,8}|#\d{2,6}|#x[0-9a-fA-F]{2,5});"),  # HTML entities
    re.compile(r"\\(?:displaystyle|begin|end|frac|math\w+)\b"),  # formulas left in LaTeX
    re.compile(r"\b__[A-Z]{3,}__\b"),  # wiki switches
    re.compile(r"(?m)^\s*msg(?:id|str|ctxt)(?:\[\d\])?\s+\""),  # gettext sources
    re.compile(r"\{[A-Z][A-Z_0-9]{2,}[^{}]*\}"),  # WML macros
)


def one_line(text: str) -> str:
    """The text in composed form (NFC), every run of white space (no-break ones too) one space.

    Soft hyphens and zero-width characters go; so do brackets that a source left empty when it
    removed a pronunciation from between them.
    """
    visible = _INVISIBLE.sub("", unicodedata.normalize("NFC", text))
    return " ".join(_EMPTY_BRACKETS.sub("", visible).split())


def find_markup(text: str) -> str | None:
    """The first piece of markup in the text with some of its surroundings, or None."""
    for pattern in _MARKUP:
        found = pattern.search(text)
        if found:
            return text[max(0, found.start() - 20) : found.end() + 20].strip()
    return None


def ends_in_a_word(text: str) -> str:
    """The text up to its last letter or digit.

    LAMBADA's passages end so: the task is to predict the last word, and a closing quote or a
    full stop would otherwise count as part of it (or, after a space, as all of it).
    """
    return re.sub(r"[\W_]+$", "", text)
