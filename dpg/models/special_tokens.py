"""Find the special tokens of a model directory, as transformers finds them.

Published directories name them in `tokenizer_config.json` or in `special_tokens_map.json`. If they
do not, the tokenizer's class has defaults. The ids that end a response are in
`generation_config.json` and `config.json`; often there are several.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dpg import artifacts
from dpg.errors import DpgError

_END_OF_TEXT = "<|endoftext|>"
CLASS_DEFAULTS: dict[str, dict[str, str]] = {
    "CodeLlamaTokenizer": {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
    "GPT2Tokenizer": dict.fromkeys(("unk_token", "bos_token", "eos_token"), _END_OF_TEXT),
    "GPTNeoXTokenizer": {
        **dict.fromkeys(("unk_token", "bos_token", "eos_token"), _END_OF_TEXT),
        "pad_token": "<|padding|>",
    },
    "GemmaTokenizer": {
        "unk_token": "<unk>",
        "bos_token": "<bos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "mask_token": "<mask>",
    },
    "LlamaTokenizer": {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>"},
    "Qwen2Tokenizer": dict.fromkeys(("unk_token", "eos_token", "pad_token"), _END_OF_TEXT),
}
"""Tokenizer class of transformers -> its default special tokens."""

_CLASS_OF_MODEL = {
    "gemma": "GemmaTokenizer",
    "gemma2": "GemmaTokenizer",
    "gpt2": "GPT2Tokenizer",
    "gpt_neox": "GPTNeoXTokenizer",
    "qwen3": "Qwen2Tokenizer",
}
"""`model_type` -> its tokenizer class, for directories that name no class."""


def written(directory: Path) -> dict[str, Any]:
    """The tokenizer's configuration in a directory's own files.

    It is that of `tokenizer_config.json`. If that file has no `added_tokens_decoder`, an older
    transformers wrote it; then the entries of `special_tokens_map.json` override it.

    Raises:
        DpgError: a file that is not a JSON object; names the file.
    """
    config = read(directory / "tokenizer_config.json")
    if "added_tokens_decoder" in config:
        return config
    return {**config, **read(directory / "special_tokens_map.json")}


def defaults(directory: Path, config: Mapping[str, Any], *, byte_level: bool) -> dict[str, str]:
    """The default special tokens of a directory's tokenizer, for those that its files do not name.

    Args:
        directory: of a model or a tokenizer.
        config: the result of `written`.
        byte_level: whether the tokenizer works on bytes. If a directory calls such a tokenizer a
            LlamaTokenizer, it means transformers' general class, which has no defaults.

    Raises:
        DpgError: a `config.json` that is not a JSON object.
    """
    of_model = read(directory / "config.json")
    named = config.get("tokenizer_class") or of_model.get("tokenizer_class")
    if named is None:
        named = _CLASS_OF_MODEL.get(of_model.get("model_type", ""), "")
    name = str(named).removesuffix("Fast")
    if name == "LlamaTokenizer" and byte_level:
        return {}
    return CLASS_DEFAULTS.get(name, {})


def read(path: Path) -> dict[str, Any]:
    """The object in a JSON file; an empty object if there is no file.

    Raises:
        DpgError: the file is not JSON, or not an object.
    """
    if not path.is_file():
        return {}
    content = artifacts.read_json(path)
    if not isinstance(content, dict):
        raise DpgError(f"{path} holds a {type(content).__name__}; expected a JSON object")
    return content


def named(config: Mapping[str, Any]) -> dict[str, str]:
    """The special tokens by their names in chat templates, as transformers' `special_tokens_map`.

    They are all keys that end in `_token`, and the entries of `extra_special_tokens` if it is an
    object.
    """
    extra = config.get("extra_special_tokens")
    own = {key: value for key, value in config.items() if key.endswith("_token")}
    own |= extra if isinstance(extra, dict) else {}
    contents = {key: content(value) for key, value in own.items()}
    return {key: text for key, text in contents.items() if text is not None}


def content(token: Any) -> str | None:
    """A special token as a string: configurations hold strings, or objects with `content`."""
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else None


def listed(config: Mapping[str, Any]) -> dict[str, bool]:
    """The added tokens of a configuration, in order -> whether each is special.

    Usually `tokenizer.json` has them already. Transformers adds the missing ones, and so do we.

    Raises:
        DpgError: an `added_tokens_decoder` that is not an object of tokens by id.
    """
    decoder = config.get("added_tokens_decoder") or {}
    try:
        tokens = [token for _, token in sorted(decoder.items(), key=lambda item: int(item[0]))]
        found = {str(one["content"]): bool(one.get("special", False)) for one in tokens}
    except (AttributeError, KeyError, TypeError, ValueError):
        raise DpgError(
            f"added_tokens_decoder is {decoder!r:.80}; expected an object of tokens by id"
        ) from None
    special = [*named(config).values()]
    for key in ("additional_special_tokens", "extra_special_tokens"):
        more = config.get(key)
        texts = map(content, more) if isinstance(more, list) else ()
        special += [text for text in texts if text is not None]
    return found | dict.fromkeys(special, True)


def ends(directory: Path) -> tuple[int, ...]:
    """The ids that end a response: from `generation_config.json`, then from `config.json`.

    Raises:
        DpgError: an `eos_token_id` that is neither an id nor a list of ids; names the file.
    """
    found: dict[int, None] = {}
    for name in ("generation_config.json", "config.json"):
        found |= dict.fromkeys(_ids(directory / name))
    return tuple(found)


def _ids(path: Path) -> list[int]:
    value = read(path).get("eos_token_id")
    ids = [] if value is None else value if isinstance(value, list) else [value]
    if not all(type(i) is int and i >= 0 for i in ids):
        raise DpgError(f"{path}: eos_token_id is {value!r}; expected an id, or a list of ids")
    return ids


def chat_templates(directory: Path, config: Mapping[str, Any]) -> str | dict[str, str] | None:
    """The chat template of a directory, or several by name, or None.

    Files (`chat_template.jinja`, `additional_chat_templates/NAME.jinja`) replace what
    `tokenizer_config.json` has, as in transformers.

    Raises:
        DpgError: a `chat_template` that is neither text, nor a list of {name, template}, nor an
            object.
    """
    found = {}
    if (directory / "chat_template.jinja").is_file():
        found["default"] = (directory / "chat_template.jinja").read_text(encoding="utf-8")
    for path in sorted((directory / "additional_chat_templates").glob("*.jinja")):
        found[path.stem] = path.read_text(encoding="utf-8")
    if found:
        return found["default"] if set(found) == {"default"} else found
    return by_name(config.get("chat_template"))


def by_name(template: Any) -> str | dict[str, str] | None:
    """A configuration's `chat_template`, with a list of {name, template} turned into an object.

    Raises:
        DpgError: neither text, nor such a list, nor an object.
    """
    if template is None or isinstance(template, str):
        return template
    try:
        if isinstance(template, list):
            template = {str(one["name"]): str(one["template"]) for one in template}
        return {str(name): str(text) for name, text in template.items()}
    except (AttributeError, KeyError, TypeError):
        raise DpgError(
            f"chat_template is {template!r:.80}; expected text, or a list of objects with name and "
            "template"
        ) from None
