"""Articles cut so that the whole prompt fits, beside a search over every place to cut."""

import numpy as np
import pytest
import tokenizers

from dpg.errors import DpgError
from dpg.models.tokenizer import Tokenizer
from dpg.text.prompts import encode_prompts, paraphrase_prompt, room_for_article

# As Llama 3 and ChatML write a conversation; and one in plain text, whose words may merge with the
# article's.
TEMPLATES = {
    "llama-3": (
        "{{ bos_token }}{% for m in messages %}{{ '<|start_header_id|>' + m.role + "
        "'<|end_header_id|>\n\n' + m.content | trim + '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
        "{% endif %}",
        "<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
    "chatml": (
        "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>' + '\n'"
        " }}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
        "<|im_end|>\n<|im_start|>assistant\n",
    ),
    "plain": (
        "{% for m in messages %}[INST]{{ m.content }}[/INST]{% endfor %}",
        "[/INST]",
    ),
    "merging": (
        "{% for m in messages %}{{ m.content }}ants say it anew: {% endfor %}",
        "ants say it anew: ",
    ),
}
SPECIAL = [
    "<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>", "<|im_start|>",
    "<|im_end|>",
]  # fmt: skip

LINES = [
    "The giants of the island spoke of elephants, pants and instants.",
    "Ŝi loĝis en Ĵaŭda strato; on the 3rd of May 1999 the café «À la Reine» closed.",
    "東京は日本の首都である。 人口は約一四〇〇万人。",
    "A note: 🙂🙃👩🏽‍🚀 are single signs of several bytes each.",
]
ARTICLE = "\n\n".join(LINES * 6)


def made(template: str, *, split_words: bool) -> Tokenizer:
    """A byte-level tokenizer of these texts: its tokens end at words, or cross every border."""
    backend = tokenizers.Tokenizer(tokenizers.models.BPE())
    backend.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(
        add_prefix_space=False, use_regex=split_words
    )
    backend.decoder = tokenizers.decoders.ByteLevel()
    backend.post_processor = tokenizers.processors.ByteLevel(trim_offsets=not split_words)
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=700,
        special_tokens=SPECIAL,
        initial_alphabet=tokenizers.pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    endings = [line[:k] + "ants say it anew: " for line in LINES for k in range(0, 60, 3)]
    backend.train_from_iterator([*LINES, paraphrase_prompt("The giants"), *endings], trainer)
    config = {"bos_token": "<|begin_of_text|>", "eos_token": "<|eot_id|>"}
    return Tokenizer(backend, {**config, "chat_template": template})


@pytest.fixture(params=TEMPLATES)
def named(request):
    return request.param


@pytest.fixture(params=[True, False], ids=["words", "no-words"])
def tokenizer(request, named):
    return made(TEMPLATES[named][0], split_words=request.param)


def asked(tokenizer: Tokenizer, article: str, size: int) -> list[int]:
    (ids,) = encode_prompts([article], tokenizer, style="paraphrase", max_tokens=size)
    return ids


def rendered(tokenizer: Tokenizer, article: str) -> list[int]:
    return tokenizer.chat([{"role": "user", "content": paraphrase_prompt(article)}])


def places(tokenizer: Tokenizer, article: str) -> list[int]:
    """Every place where a token of the article ends, from the last, found by decoding."""
    ids = tokenizer.encode(article)
    starts = (tokenizer.decode(ids[:n], skip_special=False) for n in range(len(ids), 0, -1))
    return [len(text) for text in starts if article.startswith(text)]


def sizes(tokenizer: Tokenizer) -> range:
    first, last = len(rendered(tokenizer, "The giants of")), len(rendered(tokenizer, ARTICLE))
    return range(first, last + 2, max(1, (last - first) // 25))


def test_it_is_the_longest_beginning_that_fits(tokenizer):
    ends = places(tokenizer, ARTICLE)
    lengths = [len(rendered(tokenizer, ARTICLE[:end])) for end in ends]
    tried = 0
    for size in sizes(tokenizer):
        fits = [end for end, length in zip(ends, lengths, strict=True) if length <= size]
        found = asked(tokenizer, ARTICLE, size)
        assert len(found) <= size
        assert tokenizer.decode(found) == tokenizer.decode(
            rendered(tokenizer, ARTICLE[: max(fits)])
        ), size
        tried += max(fits) < len(ARTICLE)
    assert tried >= 20


def test_every_prompt_opens_the_assistants_turn(tokenizer, named):
    for size in sizes(tokenizer):
        text = tokenizer.decode(asked(tokenizer, ARTICLE, size), skip_special=False)
        assert text.endswith(TEMPLATES[named][1])
        assert "�" not in text
        assert paraphrase_prompt("The giants"[:3]) in text


def test_a_prompt_that_fits_is_whole(tokenizer):
    whole = rendered(tokenizer, ARTICLE)
    assert asked(tokenizer, ARTICLE, len(whole)) == whole
    assert asked(tokenizer, ARTICLE, len(whole) + 100) == whole
    assert asked(tokenizer, ARTICLE, len(whole) - 1) != whole


def test_the_lines_of_an_article_survive(tokenizer):
    text = tokenizer.decode(asked(tokenizer, ARTICLE, len(rendered(tokenizer, ARTICLE))))
    assert ARTICLE in text
    cut = tokenizer.decode(asked(tokenizer, ARTICLE, len(rendered(tokenizer, "\n\n".join(LINES)))))
    assert "instants.\n\nŜi" in cut


def test_tokens_do_merge_across_the_border():
    tokenizer = made(TEMPLATES["merging"][0], split_words=False)
    apart = len(tokenizer.encode("The gi")) + len(tokenizer.encode("ants say it anew: "))
    assert len(tokenizer.encode("The giants say it anew: ")) < apart


def test_a_template_that_is_longer_than_the_prompt(tokenizer):
    empty = len(rendered(tokenizer, ""))
    assert room_for_article(tokenizer, empty) == 0
    with pytest.raises(DpgError, match=rf"{empty} tokens without an article.*= {empty - 1}"):
        asked(tokenizer, ARTICLE, empty - 1)


def test_an_article_that_would_be_cut_to_nothing():
    tokenizer = made(TEMPLATES["chatml"][0], split_words=True)
    empty = len(rendered(tokenizer, ""))
    with pytest.raises(DpgError, match=r"article en-7 would be cut to nothing.*prompt_tokens = "):
        encode_prompts([ARTICLE], tokenizer, style="paraphrase", max_tokens=empty, names=["en-7"])
    # What is left would be white space.
    with pytest.raises(DpgError, match="article 0 would be cut to nothing"):
        asked(tokenizer, "\n" * 40 + " \t" * 30 + ARTICLE, empty + 2)


def test_the_ends_of_tokens_are_ends_of_characters(tokenizer):
    ends = tokenizer.ends(ARTICLE)
    assert len(ends) == len(tokenizer.encode(ARTICLE))
    assert np.all(np.diff(ends) >= 0)
    assert ends[-1] == len(ARTICLE)
    assert set(places(tokenizer, ARTICLE)) <= set(ends)
