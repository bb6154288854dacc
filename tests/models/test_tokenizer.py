"""Tokenizers: round trips, determinism, agreement with transformers, chat templates."""

import json

import pytest

from dpg.errors import DpgError
from dpg.models import Tokenizer, tokenizer

TEXTS = [
    "The quick brown fox jumps over the lazy dog. " * 3,
    "El perro corre por la calle; el niño salta.",
    "Où est l'été? Naïve façade, groß und größer.",
]
TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}"
    "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
CHAT = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "The dog?"}]


@pytest.fixture(scope="module")
def bpe():
    return tokenizer.train(TEXTS, vocab_size=300)


def test_round_trip_of_any_text(bpe):
    for text in [*TEXTS, "日本語 \t\n  x", ""]:
        assert bpe.decode(bpe.encode(text)) == text
    assert bpe.decode_batch([bpe.encode(t) for t in TEXTS]) == TEXTS
    assert bpe.encode_batch(TEXTS) == [bpe.encode(t) for t in TEXTS]


def test_trained_tokenizer(bpe):
    assert bpe.vocab_size == 300
    assert (bpe.bos_id, bpe.eos_id, bpe.pad_id, bpe.add_bos) == (0, 0, 0, False)
    assert 0 not in bpe.encode("The dog")
    assert max(bpe.encode(" ".join(TEXTS))) < 300
    assert bpe.decode([0, *bpe.encode("dog"), 0]) == "dog"
    assert bpe.decode([*bpe.encode("dog"), 0], skip_special=False) == "dog<|endoftext|>"


def test_training_is_deterministic(tmp_path, bpe):
    bpe.save(tmp_path / "a")
    tokenizer.train(iter(TEXTS), vocab_size=300).save(tmp_path / "b")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_save_and_load(tmp_path):
    first = tokenizer.train(TEXTS, vocab_size=300, special=("<|eot|>", "<|x|>"), add_bos=True)
    first.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again.add_bos is True
    assert (again.bos_id, again.eos_id, again.pad_id, again.vocab_size) == (0, 0, 0, 300)
    assert again.encode("dog<|x|>")[-1] == 1
    again.save(tmp_path / "again")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


def test_sizes_that_cannot_be_are_named():
    with pytest.raises(DpgError, match="need 257"):
        tokenizer.train(TEXTS, vocab_size=256)
    with pytest.raises(DpgError, match="5000"):
        tokenizer.train(TEXTS, vocab_size=5000)
    with pytest.raises(DpgError, match="end of text"):
        tokenizer.train(TEXTS, vocab_size=300, special=())


def test_missing_and_damaged_files_are_named(tmp_path):
    with pytest.raises(DpgError, match=r"tokenizer\.json does not exist"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(DpgError, match=r"tokenizer\.json is not a tokenizer"):
        Tokenizer.load(tmp_path)


def test_transformers_reads_it_alike(bpe, tmp_path):
    transformers = pytest.importorskip("transformers")
    bpe.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    for text in [*TEXTS, "日本語 <|endoftext|> x"]:
        assert theirs(text)["input_ids"] == bpe.encode(text)
    assert (theirs.bos_token_id, theirs.eos_token_id, theirs.pad_token_id) == (0, 0, 0)


@pytest.mark.parametrize("place", ["config", "file"])
def test_chat_is_that_of_transformers(tmp_path, place):
    transformers = pytest.importorskip("transformers")
    special = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
    tokenizer.train(TEXTS, vocab_size=300, special=special).save(tmp_path)
    path = tmp_path / "tokenizer_config.json"
    if place == "file":
        (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    else:
        path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": TEMPLATE}))
    ours, theirs = Tokenizer.load(tmp_path), transformers.AutoTokenizer.from_pretrained(tmp_path)
    for prompt in (True, False):
        expected = theirs.apply_chat_template(
            CHAT, add_generation_prompt=prompt, tokenize=True, return_dict=False
        )
        assert ours.chat(CHAT, add_generation_prompt=prompt) == expected
    assert ours.chat(CHAT)[0] == 0
    ours.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again").chat(CHAT) == ours.chat(CHAT)


def test_chat_without_a_template_or_against_it(bpe, tmp_path):
    assert not bpe.has_chat_template
    with pytest.raises(DpgError, match="no chat template"):
        bpe.chat(CHAT)
    bpe.save(tmp_path)
    refusal = "{% if messages|length > 1 %}{{ raise_exception('one only') }}{% endif %}x"
    (tmp_path / "chat_template.jinja").write_text(refusal)
    with pytest.raises(DpgError, match="one only"):
        Tokenizer.load(tmp_path).chat(CHAT)


def test_bos_of_a_post_processor_is_seen(bpe, tmp_path):
    import tokenizers

    bpe.save(tmp_path)
    backend = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    backend.post_processor = tokenizers.processors.TemplateProcessing(
        single="<|endoftext|> $A", special_tokens=[("<|endoftext|>", 0)]
    )
    backend.save(str(tmp_path / "tokenizer.json"))
    names = dict.fromkeys(("bos_token", "eos_token"), "<|endoftext|>")
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(names))
    loaded = Tokenizer.load(tmp_path)
    assert loaded.add_bos is True
    assert loaded.pad_id == 0
    assert loaded.encode("dog") == bpe.encode("dog")
