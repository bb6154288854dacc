"""A run's prompts: whole in both engines, and made of the articles that the run says."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from dpg import artifacts
from dpg.config import PromptSettings
from dpg.errors import DpgError
from dpg.generators import outputs
from dpg.generators.jax.engine import run_generator
from dpg.generators.prompts import encode, prompts_of
from dpg.generators.remote import prompt_order, write_prompts
from dpg.generators.verl.prompts import PromptDataset
from dpg.models import Tokenizer, load, save
from dpg.run_folder import RunFolder

HEADER = "<|im_end|>\n<|im_start|>assistant\n"
CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)


@pytest.fixture
def run(world):
    return world.study.run("sixseven", "adam-T4", 0)


def sampled(run, articles, sample, shuffle=0):
    prompts = PromptSettings(articles=articles, sample=sample)
    return run.model_copy(update={"prompts": prompts, "prompt_shuffle": shuffle})


@pytest.fixture
def chatty(world, tmp_path):
    """The world's generator with a chat template, and its tokenizer."""
    model, params, plain = load(world.root / "llama")
    config = {"eos_token": "<|endoftext|>", "bos_token": "<|endoftext|>"}
    tokenizer = Tokenizer(plain._backend, {**config, "chat_template": CHATML})
    save(tmp_path / "chatty", model, params, tokenizer)
    return tmp_path / "chatty"


def long_articles(count):
    """Every second one is longer than a prompt can be, in several lines."""
    words = ["\n\n".join(["abcd efgh", f"hij {i}"] * (40 if i % 2 else 1)) for i in range(count)]
    return pd.DataFrame({"id": [f"a{i}" for i in range(count)], "text": words})


def test_every_prompt_of_both_engines_ends_with_the_assistants_header(chatty, run, tmp_path):
    tokenizer = Tokenizer.load(chatty)
    room = len(tokenizer.chat([{"role": "user", "content": ""}])) + 200
    prompts = encode(long_articles(8), tokenizer, style="paraphrase", size=room)
    header = tokenizer.encode(HEADER)
    assert prompts.tokens.shape == (8, room)
    assert prompts.tokens[:, -len(header) :].tolist() == [header] * 8
    assert prompts.mask[:, -len(header) :].all()
    assert set(prompts.mask.sum(1)[1::2]) <= set(range(room - 8, room + 1)), "cut, but not more"
    assert len(set(prompts.mask.sum(1)[::2])) < 8, "whole"
    assert "abcd efgh\n\nhij 1" in tokenizer.decode(prompts.tokens[1])

    torch = pytest.importorskip("torch")
    write_prompts(tmp_path / "prompts.safetensors", prompts, np.arange(8))
    dataset = PromptDataset(str(tmp_path / "prompts.safetensors"))
    for place in range(8):
        item = dataset[place]
        assert item["raw_prompt_ids"][-len(header) :] == header
        assert item["input_ids"][-len(header) :].tolist() == header
        assert torch.equal(item["attention_mask"], torch.from_numpy(prompts.mask[place]).long())


def test_a_template_without_room_is_named_before_anything_is_computed(world, run, chatty, tmp_path):
    run = run.model_copy(update={"prompt_style": "paraphrase"})
    generator = run.generator.model_copy(update={"prompt_tokens": 50})
    run = run.model_copy(update={"generator": generator})
    with pytest.raises(DpgError, match=r"tokens without an article.*prompt_tokens = 50"):
        run_generator(
            run, replace(world.inputs(run), generator=chatty), RunFolder(tmp_path / "run")
        )
    assert not (tmp_path / "run").exists()


def test_an_article_that_would_be_cut_to_nothing_is_named_by_its_id(chatty):
    tokenizer = Tokenizer.load(chatty)
    articles = long_articles(2).assign(text=["x", "b" * 900])
    (shortest,) = encode(articles[:1], tokenizer, style="paraphrase", size=999).mask.sum(1)
    with pytest.raises(DpgError, match="article a0 would be cut to nothing"):
        encode(articles, tokenizer, style="paraphrase", size=int(shortest) - 1)


def test_samples_are_disjoint_and_equal_in_size(world, run):
    articles = world.inputs(run).articles
    tokenizer = Tokenizer.load(world.root / "llama")
    whole = prompts_of(run, articles, tokenizer, "train").articles
    assert len(whole) == 40
    samples = [
        prompts_of(sampled(run, 13, k), articles, tokenizer, "train").articles for k in range(3)
    ]
    assert [article for sample in samples for article in sample] == whole[:39]
    # A validation answers the same prompts, whatever the generator was trained on.
    unseen = [
        prompts_of(one, articles, tokenizer, "validation").articles
        for one in (run, sampled(run, 13, 2))
    ]
    assert unseen[0] == unseen[1]
    with pytest.raises(DpgError, match=r"found 40 articles.*expected 52: raise text\.articles\.tr"):
        prompts_of(sampled(run, 13, 3), articles, tokenizer, "train")


def test_another_order_is_of_the_same_articles(run):
    orders = [prompt_order(sampled(run, None, None, shuffle), 40)[:40] for shuffle in (0, 1)]
    assert sorted(orders[0]) == sorted(orders[1]) == list(range(40))
    assert orders[0].tolist() != orders[1].tolist()


def test_too_few_articles_for_a_validation(world, run):
    articles = world.inputs(run).articles
    more = run.validation.model_copy(update={"steps": 999})
    with pytest.raises(DpgError, match=r"found 40 articles of at least 4 tokens, expected 7992.*"):
        prompts_of(
            run.model_copy(update={"validation": more}),
            articles,
            Tokenizer.load(world.root / "llama"),
            "validation",
        )


@pytest.mark.parametrize("engine", ["jax", "verl"])
def test_the_record_says_which_articles(world, run, tmp_path, monkeypatch, engine):
    monkeypatch.setattr(outputs, "gather", lambda *given: None)  # there is no validation here
    folder = RunFolder(tmp_path / "run")
    folder.state.path.mkdir(parents=True)
    folder.state.metrics.write_text("")
    model, params, tokenizer = load(world.root / "llama")
    outputs.write_outputs(
        sampled(run, 16, 1, 1),
        folder,
        model=model,
        params=params,
        tokenizer=tokenizer,
        seconds=0.0,
        inputs={},
        engine=engine,
    )
    record = artifacts.read_json(folder.record)
    said = "train articles 17 to 32 (sample 1, disjoint from the others), order 1"
    assert record["prompts"] == said
    assert record["config"]["prompts"] == {"articles": 16, "sample": 1}
