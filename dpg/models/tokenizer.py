"""Tokenizers: those of Hugging Face directories, and byte-level BPE trained on one's own texts.

A thin layer over the `tokenizers` library, so that nothing here needs transformers.
"""

import functools
import json
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import jinja2
import tokenizers
from jinja2.ext import loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment

from dpg.errors import DpgError

END_OF_TEXT = "<|endoftext|>"


class Tokenizer:
    """Text to ids and back.

    Attributes:
        bos_id, eos_id, pad_id: ids of the special tokens, None where the tokenizer has none; a
            tokenizer without padding pads with its end of text.
        add_bos: whether the model saw `bos_id` before each text in its pre-training. `encode`
            never adds it; whoever builds inputs for the model does.
    """

    def __init__(self, backend: tokenizers.Tokenizer, config: dict):
        self._backend = backend
        self._config = dict(config)
        self.bos_id = self._special("bos_token")
        self.eos_id = self._special("eos_token")
        pad = self._special("pad_token")
        self.pad_id = self.eos_id if pad is None else pad
        add_bos = config.get("add_bos_token")
        if add_bos is None:
            # Llama 3's setting stands in its post-processor instead of in the configuration.
            add_bos = self.bos_id is not None and self.bos_id in backend.encode("").ids[:1]
        self.add_bos = bool(add_bos)

    @classmethod
    def load(cls, directory: str | Path) -> "Tokenizer":
        """Read `tokenizer.json`, `tokenizer_config.json` and the chat template of a directory.

        Raises:
            DpgError: no `tokenizer.json`, or a file that cannot be read; the file is named.
        """
        directory = Path(directory)
        path = directory / "tokenizer.json"
        if not path.is_file():
            raise DpgError(f"{path} does not exist: not a tokenizer directory")
        try:
            backend = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the library raises bare Exception
            raise DpgError(f"{path} is not a tokenizer: {error}") from error
        config = {
            **_read_json(directory / "special_tokens_map.json"),
            **_read_json(directory / "tokenizer_config.json"),
        }
        template = directory / "chat_template.jinja"
        if template.is_file():
            config["chat_template"] = template.read_text(encoding="utf-8")
        return cls(backend, config)

    def save(self, directory: str | Path) -> None:
        """Write `tokenizer.json`, `tokenizer_config.json` and, if any, `chat_template.jinja`."""
        directory = Path(directory)
        directory.mkdir(parents=True, exist_ok=True)
        self._backend.save(str(directory / "tokenizer.json"))
        config = {**self._config, "add_bos_token": self.add_bos}
        template = config.pop("chat_template", None)
        if isinstance(template, str):
            (directory / "chat_template.jinja").write_text(template, encoding="utf-8")
        elif template is not None:
            config["chat_template"] = template
        text = json.dumps(config, indent=2, ensure_ascii=False, sort_keys=True)
        (directory / "tokenizer_config.json").write_text(text + "\n", encoding="utf-8")

    @property
    def vocab_size(self) -> int:
        """One more than the largest id, special tokens included."""
        return max(self._backend.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str) -> list[int]:
        """The ids of a text, nothing put before or after it.

        Special tokens that are spelled out in the text become their ids, as in transformers.
        """
        return self._backend.encode(text, add_special_tokens=False).ids

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` of many texts at once, on all cores."""
        return [e.ids for e in self._backend.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """The text of some ids; bytes that are no UTF-8 become U+FFFD."""
        return self._backend.decode([int(i) for i in ids], skip_special_tokens=skip_special)

    def decode_batch(self, rows: Iterable[Iterable[int]], skip_special: bool = True) -> list[str]:
        """`decode` of many rows of ids at once."""
        rows = [[int(i) for i in row] for row in rows]
        return self._backend.decode_batch(rows, skip_special_tokens=skip_special)

    def same_ids(self, other: "Tokenizer") -> bool:
        """Whether both give every token the same id, so that ids can be passed on as they are."""
        return self._backend.get_vocab() == other._backend.get_vocab()

    @property
    def has_chat_template(self) -> bool:
        """Whether `chat` can be used."""
        return self._template() is not None

    def chat(
        self, messages: Sequence[dict[str, str]], *, add_generation_prompt: bool = True
    ) -> list[int]:
        """The ids of a conversation in the tokenizer's own template, special tokens included.

        Args:
            messages: dicts with `role` ("system", "user", "assistant") and `content`.
            add_generation_prompt: end with what opens the assistant's next turn.

        Raises:
            DpgError: the tokenizer has no chat template, or the template refuses the messages.
        """
        return self.encode(self.render_chat(messages, add_generation_prompt=add_generation_prompt))

    def render_chat(
        self, messages: Sequence[dict[str, str]], *, add_generation_prompt: bool = True
    ) -> str:
        """The text of which `chat` gives the ids."""
        special = {
            name: _content(self._config.get(name))
            for name in ("bos_token", "eos_token", "pad_token", "unk_token")
            if self._config.get(name) is not None
        }
        try:
            return self._compiled_template.render(
                messages=list(messages), add_generation_prompt=add_generation_prompt, **special
            )
        except jinja2.TemplateError as error:
            raise DpgError(f"the chat template refuses these messages: {error}") from error

    @functools.cached_property  # compiling it takes ten times as long as rendering a prompt
    def _compiled_template(self) -> jinja2.Template:
        template = self._template()
        if template is None:
            raise DpgError(
                "this tokenizer has no chat template: use a tokenizer of an instruction-tuned "
                'model, or the prompt style "prefix"'
            )
        # What templates may use, as transformers documents it; sandboxed, since a template comes
        # with a download.
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_template_error
        environment.globals["strftime_now"] = _strftime_now
        try:
            return environment.from_string(template)
        except jinja2.TemplateError as error:
            raise DpgError(f"the chat template cannot be read: {error}") from error

    def _template(self) -> str | None:
        template = self._config.get("chat_template")
        if isinstance(template, list):  # several named templates
            return next((t["template"] for t in template if t["name"] == "default"), None)
        return template

    def _special(self, name: str) -> int | None:
        content = _content(self._config.get(name))
        return None if content is None else self._backend.token_to_id(content)


def train(
    texts: Iterable[str],
    *,
    vocab_size: int,
    special: Sequence[str] = (END_OF_TEXT,),
    add_bos: bool = False,
) -> Tokenizer:
    """Train a byte-level BPE; the same texts in the same order give the same tokenizer.

    Every text can be encoded, since all 256 bytes are in the vocabulary. The first special token
    is beginning of text, end of text and padding at once, as in GPT-2.

    Args:
        texts: the training texts.
        vocab_size: number of ids, special tokens and the 256 bytes included.
        special: special tokens; they take the first ids.
        add_bos: stored with the tokenizer; see `Tokenizer.add_bos`.

    Raises:
        DpgError: a vocabulary too small for the bytes, no special token, or texts so few that the
            vocabulary cannot be filled.
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
            f"the texts hold merges for {backend.get_vocab_size()} tokens only, not for the "
            f"{vocab_size} asked for: give more text or a smaller vocab_size"
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
    """The tokenizer as it comes back from a file, so that a saved one differs in nothing."""
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        backend.save(file.name)
        return tokenizers.Tokenizer.from_file(file.name)


def _content(token: Any) -> str | None:
    """A special token as a string: configurations hold strings or objects with `content`."""
    return token["content"] if isinstance(token, dict) else token


def _read_json(path: Path) -> dict:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise DpgError(f"{path} is not JSON: {error}") from error


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise_template_error(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    from datetime import datetime

    return datetime.now().strftime(pattern)
