"""The settings of Table 1: merged from both files, and refused where they do not fit."""

import pytest

from dpg.config import ConfigError, HubReplay, WheelReplay

SECTION = (
    "scale: mine",
    "scale: mine\ndownstream: {targets: [gpt2], replay: {source: wheel}, sft: {epochs: [2]}}",
)


def test_a_scale_without_the_section_has_no_table_1(load):
    study = load()
    assert study.downstream is None
    assert study.downstream_sources == {}


def test_overrides_leave_the_papers_other_values(load):
    study = load(SECTION)
    assert study.downstream.targets == ["gpt2"]
    assert study.downstream.sft.epochs == [2]
    assert study.downstream.sft.learning_rates == [1e-6, 1e-5]
    assert study.downstream_sources["sft.epochs"].endswith("mine.yaml")
    assert study.downstream_sources["sft.learning_rates"] == "Table 12"


def test_a_replay_of_another_source_starts_afresh(load):
    study = load(SECTION)
    assert study.downstream.replay == WheelReplay(source="wheel")
    assert "replay.dataset" not in study.downstream_sources
    same = load(SECTION, ("{source: wheel}, sft", "{revision: abc}, sft"))
    assert same.downstream.replay == HubReplay(source="hub", revision="abc")


@pytest.mark.parametrize(
    ("new", "says"),
    [
        (
            "sft: {epoch: [2]}",
            "downstream.sft.epoch: unknown key (did you mean 'epochs'",
        ),
        ("sources: {}", "mine.yaml: downstream.sources: unknown key"),
        ("sft: 3", "mine.yaml: downstream.sft: expected a mapping, got 3"),
        ("sft: {microbatch: 3}", "batch_size = 64 is not a multiple of microbatch = 3"),
        (
            "corpus: {tokens: 9}",
            "downstream: corpus.tokens = 9 is less than the 9,000,000",
        ),
    ],
)
def test_an_error_names_file_and_key(load, new, says):
    with pytest.raises(ConfigError) as error:
        load(SECTION, ("sft: {epochs: [2]}", new))
    assert says in str(error.value)


def test_a_target_is_one_of_the_models(load):
    with pytest.raises(ConfigError, match=r"models: 'gpt', a target of .*did you mean 'gpt2'"):
        load(SECTION, ("[gpt2]", "[gpt]"))
