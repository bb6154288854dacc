"""A run that its models do not fit says so before anything is computed."""

from dataclasses import replace

import numpy as np
import pytest

from dpg.errors import DpgError
from dpg.generators.jax.engine import run_generator
from dpg.generators.scorer import build_scorer
from dpg.models import Tokenizer
from dpg.rewards.protocol import RolloutBatch
from dpg.run_folder import RunFolder

RUN = ("lambada-es", "adam", 0)


def refused(world, tmp_path, style="prefix", **sizes):
    """The message with which a run of other sizes stops."""
    run = world.study.run(*RUN)
    generator = run.generator.model_copy(update=sizes)
    run = run.model_copy(update={"generator": generator, "prompt_style": style})
    with pytest.raises(DpgError) as error:
        run_generator(run, world.inputs(run), RunFolder(tmp_path / "run"))
    assert not (tmp_path / "run").exists()
    return str(error.value)


def test_prompt_and_response_longer_than_the_context_name_both_settings(world, tmp_path):
    said = refused(world, tmp_path, prompt_tokens=60, response_tokens=6)
    assert "llama: generator.prompt_tokens = 60 and generator.response_tokens = 6" in said
    assert "take 66 positions, the model has 64" in said


def test_a_model_without_a_chat_template_cannot_be_asked_to_paraphrase(world, tmp_path):
    said = refused(world, tmp_path, style="paraphrase")
    assert "llama: its tokenizer has no chat template" in said
    assert "prompt_style: prefix" in said


def test_a_target_of_a_shorter_context_than_its_examples_is_named(world, tmp_path):
    run = world.study.run(*RUN)
    generator = run.generator.model_copy(update={"response_tokens": 65})
    run = run.model_copy(update={"generator": generator})
    target = world.root / "llama"
    with pytest.raises(DpgError, match=r"response_tokens = 65 .*target model has 64 positions"):
        build_scorer(run, Tokenizer.load(target), replace(world.inputs(run), target=target))


@pytest.mark.parametrize(("length", "tokens"), [("response", 6), ("response_and_one", 7)])
def test_an_example_has_as_many_predicted_tokens_as_a_response(world, length, tokens):
    """The target's tokenizer adds no begin-of-text: the first token is predicted by nothing."""
    run = world.study.run("sixseven", "adam-T4", 0)
    learner = run.learner.model_copy(update={"example_length": length})
    run = run.model_copy(update={"learner": learner})
    scorer = build_scorer(run, Tokenizer.load(world.root / "llama"), world.inputs(run))
    assert not scorer.examples.target.add_bos
    assert scorer.examples.length == tokens
    # With begin-of-text both are one more than a response.
    assert learner.example_tokens(6, adds_start=True) == 7


def test_ids_are_passed_on_where_the_tokenizers_are_one(world):
    run = world.study.run("sixseven", "adam-T4", 0)
    own = Tokenizer.load(world.root / "llama")
    examples = build_scorer(run, own, world.inputs(run)).examples
    # Ids of single letters, which the tokenizer would merge if it read them as text.
    letters = [own.encode(letter)[0] for letter in "abcdef"]
    assert own.encode(own.decode(letters)) != letters
    tokens = np.array([letters], np.int32)
    made = examples(RolloutBatch(tokens, np.ones((1, 6), bool), np.zeros(1, int), 0))
    assert made["tokens"][0, :6].tolist() == letters
