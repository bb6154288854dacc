"""Instruct models have several ends of text: each ends a response, and none is part of it."""

import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from dpg.evaluation.corpora import jax_engine
from dpg.generators.validation import without_end
from dpg.models import LanguageModel, load, save, tokenizer
from dpg.models.llama import LlamaConfig

ENDS = ("<|end_of_text|>", "<|eot|>")


@pytest.fixture(scope="module")
def instruct(tmp_path_factory):
    """A folder whose configurations list two ends of text, while its tokenizer names the first."""
    folder = tmp_path_factory.mktemp("instruct") / "model"
    made = tokenizer.train(
        ["The quick brown fox jumps over the lazy dog."], vocab_size=270, special=ENDS
    )
    shape = LlamaConfig(270, 16, 1, 2, 1, 8, 256, 32, bos_id=0, eos_id=(0, 1))
    model = LanguageModel(shape)
    params = jax.tree.map(np.zeros_like, model.init(jax.random.key(0)))  # every token as likely
    save(folder, model, params, made)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [0, 1]}))
    return folder


def test_a_corpus_ends_at_each_of_them(instruct):
    assert load(instruct)[2].eos_ids == (0, 1)
    write = jax_engine(instruct, response_tokens=200, temperature=1.0, seed=0, batch=64)
    rows = write(np.full((64, 4), 5, np.int32), np.ones((64, 4), bool), 0)
    lasts = {row[-1] for row in rows if len(row) < 200}
    assert lasts == {0, 1}
    assert not any({0, 1} & set(row[:-1]) for row in rows)


def test_no_end_is_part_of_a_response():
    tokens = np.array([[5, 6, 1, 1], [5, 0, 0, 0], [5, 6, 7, 8]])
    mask = np.array([[1, 1, 1, 0], [1, 1, 0, 0], [1, 1, 1, 1]], bool)
    own = without_end(tokens, mask, (0, 1))
    assert own.sum(1).tolist() == [2, 1, 4]
    assert without_end(tokens, mask, ()).tolist() == mask.tolist()


def test_verls_batches_leave_each_of_them_out():
    torch = pytest.importorskip("torch")
    from dpg.generators.verl.rewards import rollouts

    tokens = torch.tensor([[5, 6, 1, 3], [5, 0, 3, 3]])
    data = SimpleNamespace(
        batch={
            "responses": tokens,
            "attention_mask": torch.tensor([[1, 1, 1, 1, 0], [1, 1, 1, 0, 0]]),
        }
    )
    found = rollouts(data, np.arange(2), np.zeros(2, int), 0, [0, 1])
    assert found.mask.tolist() == [[True, True, False, False], [True, False, False, False]]
