"""Texts as tokens: which are predicted, and what does not fit is refused by name."""

import numpy as np
import pytest

from dpg.errors import DpgError
from dpg.models import Tokenizer
from dpg.score.examples import encode
from dpg.score.texts import Text

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


@pytest.fixture(scope="module")
def tokenizer(world):
    return Tokenizer.load(world.root / "llama")


def with_config(tokenizer, **config):
    return Tokenizer(tokenizer._backend, {**tokenizer._config, **config})


def encoded(texts, tokenizer, **options):
    return encode(texts, tokenizer, **{"length": 64, "what": "training", **options})


def test_all_tokens_but_the_first_are_predicted_and_count_alike(tokenizer):
    text = Text("a", "", "abcd efgh")
    ids = [*tokenizer.encode("abcd efgh"), tokenizer.eos_id]
    arrays = encoded([text, Text("b", "", "ab")], tokenizer).arrays
    assert arrays["tokens"][0].tolist() == ids
    assert arrays["mask"][1].sum() == len(tokenizer.encode("ab")) + 1
    assert arrays["weights"][0].tolist() == pytest.approx(
        [0, *[1 / (len(ids) - 1)] * (len(ids) - 1)]
    )
    assert arrays["weights"].sum(1) == pytest.approx(1, abs=1e-6)


def test_a_prompt_is_read_and_not_predicted(tokenizer):
    before, after = tokenizer.encode("abcd"), tokenizer.encode(" efgh")
    found = encoded([Text("a", "abcd", " efgh")], tokenizer, end=False)
    assert found.arrays["tokens"][0].tolist() == [*before, *after]
    weights = found.arrays["weights"][0]
    assert np.flatnonzero(weights).tolist() == list(range(len(before), len(before) + len(after)))
    assert found.predicted.tolist() == [len(after)]


def test_begin_and_end_of_text_stand_around_a_text(tokenizer):
    own = with_config(tokenizer, add_bos_token=True)
    ids = encoded([Text("a", "", "ab")], own).arrays["tokens"][0].tolist()
    assert ids == [own.bos_id, *own.encode("ab"), own.eos_id]
    found = encoded([Text("a", "", "ab")], own)
    assert found.predicted.tolist() == [len(ids) - 1]


def test_of_a_conversation_the_last_message_is_predicted(tokenizer):
    own = with_config(tokenizer, chat_template=TEMPLATE)
    chat = Text("a", ({"role": "user", "content": "ab"},), "cd")
    found = encoded([chat], own)
    before = own.encode("<user>ab<assistant>")
    assert found.arrays["tokens"][0].tolist() == before + own.encode("cd")
    assert found.arrays["weights"][0][: len(before)].tolist() == [0] * len(before)


def test_a_conversation_needs_a_template_that_adds_to_it(tokenizer):
    chat = Text("x.jsonl, line 3", ({"role": "user", "content": "ab"},), "cd")
    with pytest.raises(DpgError, match=r"x\.jsonl, line 3: this tokenizer has no chat template"):
        encoded([chat], tokenizer)
    backwards = "{% for m in messages | reverse %}{{ m.content }}{% endfor %}"
    with pytest.raises(DpgError, match=r"x\.jsonl, line 3: the chat template writes.*differently"):
        encoded([chat], with_config(tokenizer, chat_template=backwards))


def test_long_texts_are_refused_by_name_or_cut(tokenizer):
    texts = [Text("x, line 1", "", "ab"), Text("x, line 2", "", "abcd efgh ijab cdef")]
    with pytest.raises(
        DpgError, match=r"1 of 2 training texts are longer than 5 .*x, line 2.*--cut"
    ):
        encoded(texts, tokenizer, length=5)
    found = encoded(texts, tokenizer, length=5, cut=True)
    assert found.arrays["tokens"].shape == (2, 5)
    assert found.cut.tolist() == [False, True]


def test_a_text_without_a_token_to_predict_is_refused(tokenizer):
    single = tokenizer.decode([tokenizer.encode("a")[0]])
    with pytest.raises(DpgError, match=r"1 of 1 validation texts have no token to predict"):
        encoded([Text("x", "", single)], tokenizer, end=False, what="validation")
    long = Text("x, line 9", "abcd efgh ijab", "ab")
    with pytest.raises(DpgError, match=r"no token to predict within 3 tokens: x, line 9"):
        encoded([long], tokenizer, length=3, cut=True)
