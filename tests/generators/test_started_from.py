"""What a run starts from: each input has a digest of its own, and only what is read has one."""

import shutil
from dataclasses import replace

import pytest

from dpg import artifacts
from dpg.generators.started_from import from_files


@pytest.fixture
def spanish(world):
    return world.study.run("lambada-es", "adam", 0)


@pytest.fixture
def pattern(world):
    return world.study.run("sixseven", "adam-T4", 0)


def changed(run, inputs, other):
    """The inputs that differ."""
    then, now = from_files(run, inputs), from_files(run, other)
    return {name for name in then if then[name] != now[name]}


def test_equal_files_give_equal_digests(world, spanish, tmp_path):
    inputs = world.inputs(spanish)
    shutil.copytree(inputs.generator, tmp_path / "copy")
    assert changed(spanish, inputs, replace(inputs, generator=tmp_path / "copy")) == set()


def test_what_a_run_does_not_read_has_no_digest(world, spanish, pattern):
    assert from_files(spanish, world.inputs(spanish))["passages"] is not None
    found = from_files(pattern, world.inputs(pattern))
    assert found["passages"] is None
    assert found["reward_model"] is None
    assert found["chat_template"] is None  # prefix prompts have none


def test_another_article_changes_the_prompts_of_its_split_alone(world, pattern, tmp_path):
    inputs = world.inputs(pattern)
    articles = artifacts.read_table(inputs.articles)
    articles.loc[3, "text"] = " ".join(reversed(articles.text[3].split()))
    artifacts.write_table(tmp_path / "articles.parquet", articles)
    other = replace(inputs, articles=tmp_path / "articles.parquet")
    assert changed(pattern, inputs, other) == {"prompts"}
    then, now = from_files(pattern, inputs)["prompts"], from_files(pattern, other)["prompts"]
    assert then["validation"] == now["validation"]


def test_other_weights_and_another_model_are_told_apart(world, pattern):
    inputs = world.inputs(pattern)
    other = replace(inputs, target=inputs.generator)
    assert changed(pattern, inputs, other) == {"target"}
    then, now = (from_files(pattern, one)["target"] for one in (inputs, other))
    assert then["weights"] != now["weights"]
    assert then["tokenizer"] == now["tokenizer"]


def test_the_chat_template_is_recorded_with_the_date_that_it_is_told(world, pattern, tmp_path):
    run = pattern.model_copy(update={"prompt_style": "paraphrase"})
    generator = run.generator.model_copy(update={"prompt_tokens": 400})
    run = run.model_copy(update={"generator": generator})
    inputs = world.inputs(run)
    found = []
    for name, text in {"a": "{{ messages[0].content }}", "b": "{{messages[0].content}}"}.items():
        shutil.copytree(inputs.generator, tmp_path / name)
        (tmp_path / name / "chat_template.jinja").write_text(text)
        found.append(from_files(run, replace(inputs, generator=tmp_path / name)))
    assert {name for name in found[0] if found[0][name] != found[1][name]} == {"chat_template"}
    assert found[0]["chat_template"]["date"] == "2024-07-26"


def test_a_reward_model_is_read_whole(world, spanish, tmp_path):
    reward = spanish.reward.model_copy(update={"kind": "embedding"})
    run = spanish.model_copy(update={"reward": reward})
    folder = tmp_path / "model"
    (folder / "part").mkdir(parents=True)
    (folder / "part" / "weights").write_text("x")
    inputs = replace(world.inputs(run), reward_model=folder)
    then = from_files(run, inputs)["reward_model"]
    (folder / "part" / "weights").rename(folder / "part" / "renamed")
    assert from_files(run, inputs)["reward_model"] != then
    assert from_files(spanish, inputs)["reward_model"] is None
