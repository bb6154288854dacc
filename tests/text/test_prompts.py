import subprocess
import sys

import numpy as np
import pytest

from dpg.errors import DpgError
from dpg.text.prompts import encode_prompts, long_enough, pad_left, paraphrase_prompt


class Bytes:
    """A tokenizer whose ids are bytes; its chat template puts 1, 2 before and 3, 4 after."""

    def encode(self, text):
        return [10 + byte for byte in text.encode()]

    def chat(self, messages):
        (message,) = messages
        assert message["role"] == "user"
        return [1, 2, *self.encode(message["content"]), 3, 4]

    def ends(self, text):
        return [n for n, character in enumerate(text, 1) for _ in character.encode()]


def test_the_prompt_of_appendix_g():
    assert paraphrase_prompt("Paris\n\nA city.") == (
        "Help read the following article and then rephrase it in different terms. Remember to "
        "keep the meaning and every content of the article intact, including the title, year, "
        "etc. Here is the article:\nParis\n\nA city."
    )


def test_prefix_takes_the_first_tokens():
    assert encode_prompts(["abcdef", "xyz"], Bytes(), style="prefix", max_tokens=3) == [
        Bytes().encode("abc"),
        Bytes().encode("xyz"),
    ]


def test_prefix_names_the_article_that_is_too_short():
    with pytest.raises(DpgError, match=r"article 1 has 2 tokens, fewer than the prompt's 3"):
        encode_prompts(["abc", "de"], Bytes(), style="prefix", max_tokens=3)


def test_of_a_paraphrase_the_article_is_cut():
    whole = [1, 2, *Bytes().encode(paraphrase_prompt("Paris")), 3, 4]
    encode = lambda n: encode_prompts(["Paris"], Bytes(), style="paraphrase", max_tokens=n)[0]  # noqa: E731
    assert encode(1000) == whole
    assert encode(len(whole)) == whole
    assert encode(len(whole) - 3) == [*whole[:-5], 3, 4]


@pytest.mark.parametrize("style", ["prefix", "paraphrase"])
def test_an_article_without_words(style):
    with pytest.raises(DpgError, match="article 1 has no words"):
        encode_prompts(["ab" * 200, " \n"], Bytes(), style=style, max_tokens=300)


def test_bad_settings():
    with pytest.raises(DpgError, match=r"'chat'.*'prefix' and 'paraphrase'"):
        encode_prompts(["a"], Bytes(), style="chat", max_tokens=2)
    with pytest.raises(DpgError, match="max_tokens is 0"):
        encode_prompts(["a"], Bytes(), style="prefix", max_tokens=0)


def test_long_enough():
    mask = long_enough(["abc", "ab", ""], Bytes(), 3)
    assert mask.dtype == bool
    assert mask.tolist() == [True, False, False]
    assert long_enough([], Bytes(), 3).shape == (0,)


def test_pad_left():
    tokens, mask = pad_left([[5, 6, 7], [8]], 4, 0)
    assert tokens.dtype == np.int32
    assert tokens.tolist() == [[0, 5, 6, 7], [0, 0, 0, 8]]
    assert mask.dtype == bool
    assert mask.tolist() == [[False, True, True, True], [False, False, False, True]]


@pytest.mark.parametrize("prompt", [[], [1, 2, 3]])
def test_pad_left_names_the_prompt_that_does_not_fit(prompt):
    with pytest.raises(DpgError, match=f"prompt 1 has {len(prompt)} tokens: allowed are 1 to 2"):
        pad_left([[1], prompt], 2, 0)


def test_the_import_is_light():
    heavy = "torch, transformers, datasets, pandas, jax"
    code = (
        "import sys, dpg.text.prompts\n"
        f"assert not {{*{heavy.split(', ')!r}}} & set(sys.modules), sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_packages_own_tokenizer_fits():
    from dpg.models.tokenizer import Tokenizer, train

    plain = train(["Paris is the capital of France."] * 20, vocab_size=270)
    template = "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<answer>"
    chatty = Tokenizer(plain._backend, {"chat_template": template, "eos_token": "<|endoftext|>"})
    (prefix,) = encode_prompts(["Paris is the capital"], plain, style="prefix", max_tokens=2)
    assert prefix == plain.encode("Paris is the capital")[:2]
    (asked,) = encode_prompts(["Paris"], chatty, style="paraphrase", max_tokens=1000)
    assert chatty.decode(asked) == f"<user>{paraphrase_prompt('Paris')}<answer>"
    assert long_enough(["Paris is the capital", "P"], plain, 2).tolist() == [True, False]
