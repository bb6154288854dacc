"""Tokenizers: those of Hugging Face directories, and byte-level BPE trained on given texts.

This is a thin layer over the `tokenizers` library. It does not need transformers.
"""

import json
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import accumulate
from pathlib import Path
from typing import Any

import tokenizers

from dpg.errors import DpgError
from dpg.models import special_tokens
from dpg.models.chat import ChatTemplate

END_OF_TEXT = "<|endoftext|>"


class Tokenizer:
    """Converts text to ids and back.

    Args:
        backend: the `tokenizers` object.
        config: the content of its `tokenizer_config.json`, with `chat_template`.
        ends: ids that end a response, besides the tokenizer's own end of text.

    Attributes:
        bos_id: begin of text; None if the tokenizer has none.
        eos_id: end of text, the first of `eos_ids`; None if there is none.
        eos_ids: every id that ends a response, the tokenizer's own end of text first. Instruct
            models often have several (Llama 3: end of text, end of message, end of turn).
        pad_id: padding; without a padding token the end of text, or 0. Its value does not change
            any result.
        add_bos: whether the model saw `bos_id` before each text in its pre-training. `encode`
            never adds it; the code that builds inputs for the model does.
        chat_template: the format of conversations; None if the tokenizer has no template.

    Raises:
        DpgError: `add_bos_token` is set, but there is no begin of text.
    """

    def __init__(
        self, backend: tokenizers.Tokenizer, config: Mapping[str, Any], ends: Iterable[int] = ()
    ):
        self._backend = backend
        self._config = dict(config)
        self.bos_id = self._special("bos_token")
        own = self._special("eos_token")
        known = [i for i in ends if i < self.vocab_size]
        self.eos_ids = tuple(dict.fromkeys(known if own is None else [own, *known]))
        self.eos_id = self.eos_ids[0] if self.eos_ids else None
        pad = self._special("pad_token")
        self.pad_id: int = (self.eos_id or 0) if pad is None else pad
        add_bos = config.get("add_bos_token")
        if add_bos is None:
            # Llama 3 has this setting in its post-processor instead of in the configuration.
            add_bos = self.bos_id is not None and self.bos_id in backend.encode("").ids[:1]
        self.add_bos = bool(add_bos)
        if self.add_bos and self.bos_id is None:
            raise DpgError(
                "the tokenizer has add_bos_token: true and no bos_token; expected both: name the "
                "bos_token in tokenizer_config.json, or set add_bos_token to false"
            )
        template = special_tokens.by_name(self._config.get("chat_template"))
        self.chat_template = (
            None if template is None else ChatTemplate(template, special_tokens.named(self._config))
        )

    @classmethod
    def load(cls, directory: str | Path) -> "Tokenizer":
        """Read a tokenizer as transformers reads it.

        `tokenizer.json` defines the ids. Special tokens come from `tokenizer_config.json`,
        `special_tokens_map.json` and the defaults of the tokenizer's class. More ids that end a
        response come from `generation_config.json` and `config.json`. The chat template comes from
        its own file or from `tokenizer_config.json`.

        Raises:
            DpgError: no `tokenizer.json`, or a file that cannot be read; names the file.
        """
        directory = Path(directory)
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise DpgError(f"{path} does not exist: not a tokenizer directory")
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise DpgError(f"{path} is not a tokenizer: {error}") from error
        written = special_tokens.written(directory)
        config = {**_defaults(directory, written, backend), **written}
        template = special_tokens.chat_templates(directory, written)
        if template is not None:
            config["chat_template"] = template
        _as_transformers_uses_it(backend, written)
        try:
            return cls(backend, config, special_tokens.ends(directory))
        except DpgError as error:
            raise DpgError(f"{directory}: {error}") from None

    def save(self, directory: str | Path) -> None:
        """Write `tokenizer.json`, `tokenizer_config.json` and, if any, `chat_template.jinja`.

        Other ids that end a response are written to a model's `config.json` (`dpg.models.save`).
        """
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self._backend.save(str(directory / "tokenizer.json"))
        config = {**self._config, "add_bos_token": self.add_bos}
        template = special_tokens.by_name(config.pop("chat_template", None))
        if isinstance(template, str):
            (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
        elif template is not None:
            named = [{"name": name, "template": text} for name, text in template.items()]
            config["chat_template"] = named
        text = json.dumps(config, indent=2, ensure_ascii=False, sort_keys=True)
        (directory / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")

    @cached_property  # it is read often, and slow for large vocabularies
    def vocab_size(self) -> int:
        """One more than the largest id, special tokens included."""
        return max(self._backend.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str) -> list[int]:
        """The ids of a text; no special token is added before or after it.

        Special tokens that are written in the text become their ids, as in transformers.
        """
        return self._backend.encode(text, add_special_tokens=False).ids

    def ends(self, text: str) -> list[int]:
        """The end of each token of `encode(text)`, in characters from the start of the text.

        Tokens that share the bytes of a character all end at the end of that character. The
        tokenizer decides whether white space between two tokens belongs to the first or the second.
        """
        encoding = self._backend.encode(text, add_special_tokens=False)
        return list(accumulate((end for _, end in encoding.offsets), max))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts at once, on all cores."""
        return [e.ids for e in self._backend.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """The text of some ids; bytes that are no UTF-8 become U+FFFD."""
        return self._backend.decode([int(i) for i in ids], skip_special_tokens=skip_special)

    def decode_batch(self, rows: Iterable[Iterable[int]], skip_special: bool = True) -> list[str]:
        """`decode` of many rows of ids at once."""
        ids = [[int(i) for i in row] for row in rows]
        return self._backend.decode_batch(ids, skip_special_tokens=skip_special)

    def same_ids(self, other: "Tokenizer") -> bool:
        """Whether both give every token the same id, so that ids can be passed on as they are."""
        return self._backend.get_vocab() == other._backend.get_vocab()

    @property
    def has_chat_template(self) -> bool:
        """Whether `chat` can be used."""
        return self.chat_template is not None

    def chat(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True
    ) -> list[int]:
        """The ids of a conversation in the tokenizer's own template, special tokens included.

        Args:
            messages: dicts with `role` ("system", "user", "assistant") and `content`.
            add_generation_prompt: end with the opening of the assistant's next turn.

        Raises:
            DpgError: the tokenizer has no chat template, or the template refuses the messages.
        """
        return self.encode(self.render_chat(messages, add_generation_prompt=add_generation_prompt))

    def render_chat(
        self, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool = True
    ) -> str:
        """The text whose ids `chat` returns; `dpg.models.chat` says what a template can use.

        A template that asks for today's date gets 26 Jul 2024 (`chat.FROZEN_DATE`).

        Raises:
            DpgError: as `chat`.
        """
        if self.chat_template is None:
            raise DpgError(
                "this tokenizer has no chat template: use a tokenizer of an instruction-tuned "
                'model, or the prompt style "prefix"'
            )
        return self.chat_template.render(messages, add_generation_prompt=add_generation_prompt)

    def _special(self, name: str) -> int | None:
        content = special_tokens.content(self._config.get(name))
        return None if content is None else self._backend.token_to_id(content)


def _defaults(
    directory: Path, written: Mapping[str, Any], backend: tokenizers.Tokenizer
) -> dict[str, str]:
    """The default special tokens of a directory, for those that its files do not name."""
    byte_level = isinstance(backend.decoder, tokenizers.decoders.ByteLevel)
    found = special_tokens.defaults(directory, written, byte_level=byte_level)
    if not found and backend.padding is not None:
        return {"pad_token": backend.padding["pad_token"]}
    return found


def _as_transformers_uses_it(backend: tokenizers.Tokenizer, written: Mapping[str, Any]) -> None:
    """Apply the settings that are not in `tokenizer.json`, and undo two that are.

    Truncation and padding are switched off, since they belong to batching: `encode` returns all ids
    of a text and no others. Tokens that only the configuration lists get the next free ids.
    """
    backend.no_truncation()
    backend.no_padding()
    backend.encode_special_tokens = bool(written.get("split_special_tokens", False))
    for text, special in special_tokens.listed(written).items():
        if backend.token_to_id(text) is None:
            backend.add_tokens([tokenizers.AddedToken(text, special=special)])


def train(
    texts: Iterable[str],
    *,
    vocab_size: int,
    special: Sequence[str] = (END_OF_TEXT,),
    add_bos: bool = False,
) -> Tokenizer:
    """Train a byte-level BPE. The same texts in the same order give the same tokenizer.

    Every text can be encoded, since all 256 bytes are in the vocabulary. The first special token
    serves as begin of text, end of text and padding, as in GPT-2.

    Args:
        texts: the training texts.
        vocab_size: number of ids, special tokens and the 256 bytes included.
        special: special tokens; they take the first ids.
        add_bos: stored with the tokenizer; see `Tokenizer.add_bos`.

    Raises:
        DpgError: a vocabulary too small for the bytes, no special token, or too little text to fill
            the vocabulary.
    """
    least = 256 + len(special)
    if not special:
        raise DpgError("a tokenizer needs at least one special token, the end of text")
    if vocab_size < least:
        raise DpgError(
            f"vocab_size {vocab_size} is too small: 256 bytes and {len(special)} special tokens "
            f"need {least}"
        )
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = tokenizers.decoders.ByteLevel()
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=list(special),
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    if backend.get_vocab_size() != vocab_size:
        raise DpgError(
            f"the texts are enough for {backend.get_vocab_size()} tokens; expected {vocab_size}: "
            "give more text or a smaller vocab_size"
        )
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": special[0],
        "eos_token": special[0],
        "pad_token": special[0],
        "add_bos_token": add_bos,
        "clean_up_tokenization_spaces": False,
    }
    return Tokenizer(_through_file(backend), config)


def _through_file(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The tokenizer, saved and read again, so that it equals one that is read from a file."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        backend.save(file.name)
        return tokenizers.Tokenizer.from_file(file.name)
