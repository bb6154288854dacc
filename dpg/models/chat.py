"""Chat templates, rendered as in transformers, with the same result on every day and machine.

A template comes with a download, so it runs in Jinja's sandbox. It has the names that it has in
transformers: the messages, `tools` and `documents` (None), the special tokens, `raise_exception`,
`strftime_now`, `tojson` without HTML escapes, loop controls and the tag `{% generation %}`.

One thing differs on purpose: `strftime_now` formats `FROZEN_DATE` instead of the current time. So a
prompt does not change overnight, and a run that is resumed on another day has the same prompts.
Llama 3.2's own template uses the same date if it gets none.
"""

from __future__ import annotations

import datetime
import json
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension, loopcontrols
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from dpg.digests import of_text
from dpg.errors import DpgError

FROZEN_DATE = datetime.datetime(2024, 7, 26)
"""The current time for `strftime_now`: 26 Jul 2024, midnight, no time zone."""

DEFAULT = "default"
"""The name of the template that is used if a tokenizer has several."""


class ChatTemplate:
    """The chat template of a tokenizer.

    Args:
        source: the template, or several by name. The one named "default" is used then, as in
            transformers without tools.
        special_tokens: the tokenizer's special tokens by their names in templates, such as
            `bos_token`.
    """

    def __init__(self, source: str | Mapping[str, str], special_tokens: Mapping[str, str]):
        self._source = source
        self._special_tokens = dict(special_tokens)

    @property
    def text(self) -> str:
        """The Jinja source of the template.

        Raises:
            DpgError: there are several templates, and none is named "default".
        """
        if isinstance(self._source, str):
            return self._source
        if DEFAULT not in self._source:
            names = ", ".join(sorted(self._source))
            raise DpgError(
                f"the tokenizer has the chat templates {names}; expected one named "
                f"{DEFAULT!r}: copy the template that you want to chat_template.jinja"
            )
        return self._source[DEFAULT]

    @property
    def record(self) -> dict[str, str]:
        """The template's entries in a run's record: its SHA-256 and the date that it gets."""
        return {"sha256": of_text(self.text), "date": FROZEN_DATE.date().isoformat()}

    def render(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True
    ) -> str:
        """The text of a conversation.

        Args:
            messages: mappings with `role` and `content`; an entry that is None counts as missing.
            add_generation_prompt: end with the opening of the assistant's next turn.

        Raises:
            DpgError: the template cannot be read, or it refuses the messages.
        """
        given = [{k: v for k, v in message.items() if v is not None} for message in messages]
        try:
            return self._compiled.render(
                messages=given,
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                **self._special_tokens,
            )
        except DpgError:
            raise
        # A template is somebody else's program and may raise anything.
        except Exception as error:
            raise DpgError(f"the chat template refuses these messages: {error}") from error

    @cached_property  # compiling it takes ten times as long as rendering a prompt
    def _compiled(self) -> jinja2.Template:
        try:
            return environment().from_string(self.text)
        except jinja2.TemplateError as error:
            raise DpgError(f"the chat template cannot be read: {error}") from error


def environment() -> ImmutableSandboxedEnvironment:
    """The Jinja environment of transformers' `apply_chat_template`, with a frozen date."""
    made = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, loopcontrols]
    )
    made.filters["tojson"] = _to_json
    made.globals["raise_exception"] = _raise_exception
    made.globals["strftime_now"] = strftime_now
    return made


class _Generation(Extension):
    """`{% generation %} ... {% endgeneration %}` marks the assistant's words and adds nothing."""

    tags = {"generation"}  # noqa: RUF012, the name and type that Jinja requires

    def parse(self, parser: Parser) -> nodes.Node:
        """The marked part as a separate block, as in transformers."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("_unchanged"), [], [], body).set_lineno(line)

    def _unchanged(self, caller: Callable[[], str]) -> str:
        return caller()


def strftime_now(pattern: str) -> str:
    """`FROZEN_DATE` in a pattern of `strftime`, in English for every locale."""
    return _DIRECTIVE.sub(_directive, pattern)


# All directives are spelled out, since %b depends on the machine's locale and %s on its time zone.
_DIRECTIVE = re.compile(r"%([-_0^#]?)([A-Za-z%])")
_FIELDS = {
    "a": "Fri", "A": "Friday", "b": "Jul", "B": "July", "h": "Jul",
    "c": "Fri Jul 26 00:00:00 2024", "x": "07/26/24", "X": "00:00:00", "D": "07/26/24",
    "F": "2024-07-26", "R": "00:00", "T": "00:00:00", "r": "12:00:00 AM",
    "Y": "2024", "y": "24", "C": "20", "G": "2024", "g": "24", "m": "07", "d": "26", "e": "26",
    "j": "208", "u": "5", "w": "5", "U": "29", "W": "30", "V": "30",
    "H": "00", "k": " 0", "I": "12", "l": "12", "M": "00", "S": "00", "f": "000000",
    "p": "AM", "P": "am", "z": "", "Z": "", "s": "1721952000", "n": "\n", "t": "\t", "%": "%",
}  # fmt: skip


def _directive(match: re.Match[str]) -> str:
    flag, letter = match.groups()
    text = _FIELDS.get(letter)
    if text is None:
        return match.group()
    if flag == "^":
        return text.upper()
    if flag in ("-", "_") and text.strip().isdigit():
        bare = text.strip().lstrip("0") or "0"
        return bare if flag == "-" else bare.rjust(len(text))
    return text


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)
