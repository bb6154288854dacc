"""Every error names the file, the key, what was expected and what was found."""

import pytest

from dpg.config import ConfigError
from dpg.config.explain import nearest


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("hidden_size: 96", "hiden_size: 96", ["models.gpt2.hiden_size", "'hidden_size'"]),
        ("prompt_tokens:", "prompt_tokns:", ["generator.prompt_tokns", "'prompt_tokens'"]),
        ("column: 300", "colum: 300", ["metric.colum", "'column'"]),
        ("defaults:", "default:", [": default: unknown key", "'defaults'"]),
        ("  generator: {", "  generatr: {", [": defaults.generatr: unknown", "'generator'"]),
        ("metric: {", "metrik: {", [": experiments.sixseven.metrik: unknown key", "'metric'"]),
        (
            "{adam-long: }",
            "{adam-long: {seed: [1]}}",
            [": experiments.sixseven.variants.adam-long.seed: unknown key", "'seeds'"],
        ),
        (
            "source: wheel",
            "source: weel",
            ["text.articles.source: expected one of 'wheel', 'hub', 'folder', got 'weel'"],
        ),
        (
            "source: wheel, ",
            "",
            ["text.articles.source: missing; expected one of 'wheel', 'hub', 'folder'"],
        ),
        ("{source: debian}", "debian", ["text.passages: expected a mapping, got 'debian'"]),
        ("seeds: [0]", "seeds: []", ["seeds: expected at least 1, got 0"]),
        ("seeds: [0]", "seeds: [-1]", ["seeds.0: expected a number >= 0, got -1"]),
        ("seeds: [0]", "seeds: 3", ["seeds: expected a list, got 3"]),
        ("layers: 2", "layers: two", ["models.gpt2.layers: expected an integer, got 'two'"]),
        ("layers: 2", "layers: 2.5", ["models.gpt2.layers: expected an integer, got 2.5"]),
        ("layers: 2", "layers: ", ["models.gpt2.layers: expected an integer, got null"]),
        ("layers: 2, ", "", ["models.gpt2.layers: missing; it has no default"]),
        ("  gpt2:", "  g t:", ["models.g t: expected text that matches"]),
        (
            "de-story: 0.16",
            "nl-wiki: 0.16",
            ["pretraining.mixture.nl-wiki: expected 'en-wiki', 'en-story'", "'nl-wiki'"],
        ),
        (
            "learning_rate: 1.0e-4",
            "learning_rate: -1e-4",
            ["learner.learning_rate: expected a number > 0, got -0.0001"],
        ),
        (
            "learning_rate: 1.0e-4",
            "learning_rate: fast",
            ["learner.learning_rate: expected a number, got 'fast'"],
        ),
        (
            "learner: {learning_rate: 1.0e-4, batch_size: 64}",
            "learner: 3",
            ["mine.yaml: defaults.learner: expected a mapping, got 3"],
        ),
        ("validation: {kept: 64}", "checkpoint_every: often", ["checkpoint_every", "'often'"]),
        (
            "prompt_tokens: 16",
            "prompt_tokens: 16, dual_clip: {a: 1}",
            ["mine.yaml: sixseven/adam-T8: generator.dual_clip: expected a number, got a mapping"],
        ),
        (
            "prompt_tokens: 16",
            "prompt_tokens: 16, optimizer: {1: 2}",
            ["mine.yaml: sixseven/adam-T8: generator.optimizer.1"],
        ),
        (
            "scale: mine",
            "scale: mine\ndownstream: {targets: [gpt2], corpus: {vllm: {a: [1]}}}",
            ["downstream.corpus.vllm.a: expected"],
        ),
        ("scale: mine", "[1, 2", ["not valid YAML"]),
        ("scale: mine", "scale: mine\nscale: x", ["key given twice: scale"]),
    ],
)
def test_an_error_names_the_file_and_the_key(load, old, new, says):
    with pytest.raises(ConfigError) as error:
        load((old, new))
    message = str(error.value)
    assert "mine.yaml" in message
    for part in says:
        assert part in message


def test_each_problem_is_a_line(load):
    with pytest.raises(ConfigError) as error:
        load(("layers: 2", "layers: two"), ("seeds: [0]", "seeds: []"))
    lines = str(error.value).splitlines()
    assert len(lines) == 2
    assert all("mine.yaml" in line for line in lines)


def test_the_nearest_word_is_suggested_and_no_far_one():
    assert nearest("adm", ["adam", "sgd"]) == " (did you mean 'adam'?)"
    assert nearest("zzz", ["adam", "sgd"]) == ""
