"""Special tokens and ends of a response in directories as the hub has them."""

import inspect
import json

import pytest

from dpg.errors import DpgError
from dpg.models import Tokenizer, special_tokens, tokenizer

END = "<|endoftext|>"
SPECIAL = (END, "<s>", "</s>", "<unk>", "<|eot|>", "<pad>")


@pytest.fixture
def folder(tmp_path):
    """A directory with `tokenizer.json` alone."""
    texts = ["The quick brown fox jumps over the lazy dog. " * 3]
    tokenizer.train(texts, vocab_size=270, special=SPECIAL).save(tmp_path)
    (tmp_path / "tokenizer_config.json").unlink()
    return tmp_path


def write(folder, **files):
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))


GPT2 = {"model_type": "gpt2", "vocab_size": 270}
LLAMA = {"model_type": "llama", "vocab_size": 270}
TOKEN = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False}
DECODER = {"5": {"content": "<pad>", "special": True, **TOKEN}}
FOLDERS = {
    "GPT-2 without a word of special tokens": {
        "config": GPT2,
        "tokenizer_config": {"model_max_length": 64},
    },
    "GPT-2 without tokenizer_config.json": {"config": GPT2},
    "GPT-2 by config.json's class": {
        "config": {**LLAMA, "tokenizer_class": "GPT2Tokenizer"},
        "tokenizer_config": {},
    },
    "a fast class": {"config": LLAMA, "tokenizer_config": {"tokenizer_class": "GPT2TokenizerFast"}},
    "a class's default taken back": {
        "config": GPT2,
        "tokenizer_config": {"tokenizer_class": "GPT2Tokenizer", "eos_token": "</s>"},
    },
    "the general class": {
        "config": LLAMA,
        "tokenizer_config": {"tokenizer_class": "PreTrainedTokenizerFast"},
    },
    "a byte-level LlamaTokenizer": {
        "config": LLAMA,
        "tokenizer_config": {"tokenizer_class": "LlamaTokenizer", "eos_token": "<|eot|>"},
    },
    "Qwen2's class": {
        "config": LLAMA,
        "tokenizer_config": {"tokenizer_class": "Qwen2Tokenizer", "bos_token": None},
    },
    "special_tokens_map.json alone": {
        "config": LLAMA,
        "special_tokens_map": {
            "bos_token": "<s>",
            "eos_token": {"content": "</s>", **TOKEN},
            "additional_special_tokens": ["<|eot|>"],
        },
    },
    "special_tokens_map.json against tokenizer_config.json": {
        "config": LLAMA,
        "tokenizer_config": {"eos_token": "<|eot|>", "pad_token": "<pad>"},
        "special_tokens_map": {"eos_token": "</s>"},
    },
    "special_tokens_map.json beside added_tokens_decoder": {
        "config": LLAMA,
        "tokenizer_config": {"eos_token": "<|eot|>", "added_tokens_decoder": DECODER},
        "special_tokens_map": {"eos_token": "</s>", "bos_token": "<s>"},
    },
    "a token that only tokenizer_config.json lists": {
        "config": {**LLAMA, "vocab_size": 320},
        "tokenizer_config": {
            "eos_token": "</s>",
            "pad_token": "[PAD]",
            "added_tokens_decoder": {
                "270": {"content": "<|new|>", "special": False, **TOKEN},
                **DECODER,
            },
        },
    },
}


@pytest.mark.parametrize("name", FOLDERS)
def test_special_tokens_are_those_of_transformers(folder, name):
    transformers = pytest.importorskip("transformers")
    write(folder, **FOLDERS[name])
    ours, theirs = Tokenizer.load(folder), transformers.AutoTokenizer.from_pretrained(folder)
    assert (ours.bos_id, ours.eos_id) == (theirs.bos_token_id, theirs.eos_token_id)
    pad = theirs.pad_token_id
    assert ours.pad_id == (pad if pad is not None else theirs.eos_token_id or 0)
    assert ours.vocab_size == max(theirs.get_vocab().values()) + 1
    named = special_tokens.named(ours._config)
    assert {k: v for k, v in named.items() if k in theirs.special_tokens_map} == (
        theirs.special_tokens_map
    )
    for text in ("The dog</s><|new|>[PAD] x", END):
        assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]


def test_defaults_of_classes_are_those_of_transformers():
    transformers = pytest.importorskip("transformers")
    for name, expected in special_tokens.CLASS_DEFAULTS.items():
        parameters = inspect.signature(getattr(transformers, name).__init__).parameters
        usual = ("bos_token", "eos_token", "unk_token", "pad_token", "mask_token")
        found = {key: parameters[key].default for key in usual if key in parameters}
        assert {k: v for k, v in found.items() if isinstance(v, str)} == expected, name


def test_a_saved_tokenizer_keeps_what_its_class_named(folder, tmp_path):
    write(folder, config=GPT2, tokenizer_config={})
    ours = Tokenizer.load(folder)
    ours.save(tmp_path / "alone")  # without config.json, which named the class
    again = Tokenizer.load(tmp_path / "alone")
    assert (again.bos_id, again.eos_id) == (ours.bos_id, ours.eos_id) == (0, 0)


def test_truncation_and_padding_of_tokenizer_json_are_not_for_encode(folder):
    import tokenizers

    plain = Tokenizer.load(folder)
    backend = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    backend.enable_truncation(3)
    backend.enable_padding(pad_id=5, pad_token="<pad>", length=64)
    backend.save(str(folder / "tokenizer.json"))
    ours = Tokenizer.load(folder)
    text = "The quick brown fox"
    assert ours.encode(text) == plain.encode(text)
    assert ours.encode_batch([text, "x"]) == [plain.encode(text), plain.encode("x")]
    assert ours.pad_id == 5


@pytest.mark.parametrize(
    ("tokens", "config", "generation", "expected"),
    [
        ("</s>", None, None, (2,)),
        ("</s>", 2, 2, (2,)),
        ("</s>", [0, 4], None, (2, 0, 4)),
        ("</s>", 2, [4, 2, 0], (2, 4, 0)),
        (None, [4, 2], None, (4, 2)),
        (None, None, 4, (4,)),
        ("</s>", 50256, [4], (2, 4)),  # an id that the tokenizer does not have
        (None, None, None, ()),
    ],
)
def test_every_end_of_a_response(folder, tokens, config, generation, expected):
    write(
        folder,
        tokenizer_config={"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": tokens},
        config={**LLAMA, "eos_token_id": config},
    )
    if generation is not None:
        write(folder, generation_config={"eos_token_id": generation})
    ours = Tokenizer.load(folder)
    assert ours.eos_ids == expected
    assert ours.eos_id == (expected[0] if expected else None)
    assert ours.pad_id == (expected[0] if expected else 0)


@pytest.mark.parametrize("bad", ["</s>", [1, None], -1, 2.0, True])
def test_ends_that_are_no_ids_are_named(folder, bad):
    write(folder, generation_config={"eos_token_id": bad})
    with pytest.raises(DpgError, match=r"generation_config\.json: eos_token_id is .*; expected"):
        Tokenizer.load(folder)


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({"tokenizer_config": [1]}, r"tokenizer_config\.json holds a list; expected a JSON object"),
        ({"tokenizer_config": {"added_tokens_decoder": {"x": 1}}}, "added_tokens_decoder is"),
        ({"tokenizer_config": {"add_bos_token": True}}, "add_bos_token: true and no bos_token"),
    ],
)
def test_files_that_say_nothing_sensible_are_named(folder, files, message):
    write(folder, **files)
    with pytest.raises(DpgError, match=message):
        Tokenizer.load(folder)
