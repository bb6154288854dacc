"""What a text may hold: words with single spaces or line breaks between them, and no markup.

Wikipedia's and the campaigns' texts contain wiki, HTML, Pango or gettext markup. A generator that
reads markup learns to write it, so no text with markup is used silently. Our own sources drop and
count such texts. In a user's own file they are an error that names the text. The same holds for
control characters and halves of surrogate pairs, which no proper text contains.
"""

from __future__ import annotations

import re
import unicodedata
from typing import NamedTuple

_INVISIBLE = re.compile("[\u00ad\u200b-\u200f\u2060\ufeff]")
# Without those that count as white space, such as tab and line feed.
_CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ud800-\udfff]")
# Characters that only some programs read as the end of a line.
_LINE_BREAKS = re.compile("\r\n?|[\v\f\x1c-\x1f\x85\u2028\u2029]")
_EMPTY_LINES = re.compile("\n{3,}")
# Unicode letters and symbols that are invisible: fillers, joiners, the empty braille cell.
_FILLERS = "\u034f\u115f\u1160\u2800\u3164\uffa0"
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
    """The text in composed form (NFC), with one space for every run of white space.

    No-break spaces are white space, too. Soft hyphens and zero-width characters are removed, and so
    are empty brackets, which a source left when it removed the pronunciation inside.
    """
    visible = _INVISIBLE.sub("", unicodedata.normalize("NFC", text))
    return " ".join(_EMPTY_BRACKETS.sub("", visible).split())


def several_lines(text: str) -> str:
    """Like `one_line` for every line: line breaks stay, several empty lines become one."""
    lines = [one_line(line) for line in _LINE_BREAKS.sub("\n", text).split("\n")]
    return _EMPTY_LINES.sub("\n\n", "\n".join(lines)).strip("\n")


def has_invisible(text: str) -> bool:
    """Whether the text has soft hyphens or zero-width characters, which `one_line` removes."""
    return _INVISIBLE.search(text) is not None


def find_control(text: str) -> str | None:
    """A description of the first character that no text may contain, or None."""
    found = _CONTROL.search(text)
    if found is None:
        return None
    code = ord(found[0])
    kind = "half of a surrogate pair" if code >= 0xD800 else "a control character"
    return f"U+{code:04X}, {kind}"


class Tidied(NamedTuple):
    """A passage that is ready to be split into words, and how it was changed."""

    text: str
    changes: tuple[str, ...]
    """Any of "line separators replaced" and "blank ends cut"."""


def tidy(text: str) -> Tidied:
    """A passage with plain line breaks, and with a visible character at both ends.

    If a passage ended in a blank, the last word, which LAMBADA asks for, would be empty.
    """
    plain = _LINE_BREAKS.sub("\n", text)
    first, last = 0, len(plain)
    while first < last and _is_blank(plain[first]):
        first += 1
    while first < last and _is_blank(plain[last - 1]):
        last -= 1
    changes = {
        "line separators replaced": plain != text,
        "blank ends cut": last - first < len(plain),
    }
    return Tidied(plain[first:last], tuple(name for name, done in changes.items() if done))


def _is_blank(character: str) -> bool:
    # Cf: format characters, such as zero-width spaces, joiners and direction marks.
    return character.isspace() or unicodedata.category(character) == "Cf" or character in _FILLERS


def find_markup(text: str) -> str | None:
    """The first piece of markup in the text, with up to 20 characters on both sides, or None."""
    for pattern in _MARKUP:
        found = pattern.search(text)
        if found:
            return text[max(0, found.start() - 20) : found.end() + 20].strip()
    return None


def ends_in_a_word(text: str) -> str:
    """The text up to its last letter or digit.

    LAMBADA's passages end like this. The task is to predict the last word, and a closing quote or a
    full stop would otherwise be part of it or, after a space, the whole of it.
    """
    return re.sub(r"[\W_]+$", "", text)
