"""Layers: each leaf is the last one laid, with its source; and what the two files make together."""

import pytest

from dpg import config
from dpg.config import ConfigError
from dpg.config.merge import Layers


@pytest.fixture
def layers():
    made = Layers(whole="the whole")
    below = {"a": {"x": 1, "y": 2}, "metric": {"kind": "norm", "parameter": "p"}}
    made.add(below, "below", {"a.y": "Table 1"})
    return made


def test_the_last_layer_wins_leaf_by_leaf(layers):
    layers.add({"a": {"x": 3}}, "above")
    assert layers.values["a"] == {"x": 3, "y": 2}
    assert layers.sources["a.x"] == "above"
    assert layers.sources["a.y"] == "Table 1"


def test_layers_are_not_changed_by_what_is_laid_over_them():
    below, made = {"a": {"x": 1}}, Layers(whole="")
    made.add(below, "below")
    made.add({"a": {"x": 2}}, "above")
    assert below == {"a": {"x": 1}}


def test_another_kind_starts_afresh_and_forgets_its_sources(layers):
    layers.add({"metric": {"kind": "string", "text": "ab"}}, "above")
    assert layers.values["metric"] == {"kind": "string", "text": "ab"}
    assert "metric.parameter" not in layers.sources


def test_the_same_kind_or_none_is_merged(layers):
    layers.add({"metric": {"kind": "norm"}}, "above")
    layers.add({"metric": {"parameter": "q"}}, "above")
    assert layers.values["metric"] == {"kind": "norm", "parameter": "q"}


def test_arguments_are_replaced_as_a_whole():
    made = Layers(whole="")
    made.add({"reward": {"arguments": {"a": 1}}}, "below")
    made.add({"reward": {"arguments": {"b": 2}}}, "above")
    assert made.values["reward"]["arguments"] == {"b": 2}
    assert made.sources == {"reward.arguments": "above"}


def test_a_section_may_replace_a_value_and_a_value_a_section(layers):
    layers.add({"a": 5}, "above")
    assert layers.values["a"] == 5
    assert [name for name in layers.sources if name.startswith("a")] == ["a"]
    layers.add({"a": {"z": 1}}, "top")
    assert layers.values["a"] == {"z": 1}
    assert {k: v for k, v in layers.sources.items() if k.startswith("a")} == {"a.z": "top"}


def test_where_a_key_is_from(layers):
    assert layers.where_is("a.y") == "Table 1"
    assert layers.where_is("a") == "Table 1"
    assert layers.where_is("a.x.deeper") == "below"
    layers.add({"a": {"x": 3}}, "above")
    assert layers.where_is("a.x") == layers.where_is("a") == "above"
    assert layers.where_is("other") == layers.where_is("") == "the whole"


def test_a_value_by_its_keys(layers):
    assert layers.value("a", "x") == 1
    assert layers.value("a", "x", "deeper") is None
    assert layers.value("b", "x") is None


def test_every_value_names_its_source(paper):
    run = paper.run("sixseven", "sgd-T8", 0)
    sources = paper.sources(run)
    assert sources["learner.learning_rate"] == "Table 8"
    assert sources["generator.grpo_steps"].startswith("Table 8, x 12")
    assert sources["generator.mini_batch_prompts"] == "authors' code"
    unsaid = [key for key in sources if "config/experiments.yaml" in sources[key]]
    # What has no better source than the file itself is a choice of ours, and few.
    assert set(unsaid) <= {"checkpoint_every", "learner.optimizer", "reward.kind"}


def test_the_scale_file_is_the_source_of_what_it_overrides(load):
    study = load()
    sources = study.sources(study.runs[0])
    assert sources["metric.column"].endswith("mine.yaml")
    assert sources["learner.steps"].endswith("mine.yaml: horizons.long")
    assert sources["metric.row"] == "Table 8"


def test_the_most_special_layer_wins(load):
    replaced = "{adam-long: {learner: {learning_rate: 0.5}}, adam-short: }"
    study = load(
        ("column: 300}", "column: 300}\n    learner: {learning_rate: 0.25}"),
        ("{adam-long: }", replaced),
    )
    assert [run.learner.learning_rate for run in study.runs] == [0.5, 0.25]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        (
            "sixseven:",
            "sixsevn:",
            ["experiments.sixsevn", "'sixseven'", "has: qr, ", "uuid"],
        ),
        ("adam-long:", "adam-lang:", ["variants.adam-lang: no such variant", "'adam-long'"]),
        ("  llama-instruct:", "  llama-instrct:", ["models", "'llama-instruct', the generator"]),
        ("  gpt2:", "  gpt3:", ["models", "'gpt2', the learner model", "did you mean 'gpt3'"]),
    ],
)
def test_a_name_that_there_is_not_is_refused(load, old, new, says):
    with pytest.raises(ConfigError) as error:
        load((old, new))
    for part in ("mine.yaml", *says):
        assert part in str(error.value)


def test_a_variant_without_a_horizon_keeps_its_name_and_steps():
    run = config.load("config/tiny.yaml").run("uuid", "sgd", 0)
    assert (run.learner.steps, run.validation_steps) == (1, 1)
