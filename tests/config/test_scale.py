"""Scale files: those of the repository, and what they may not say."""

import pytest

from dpg import config
from dpg.config import ConfigError, ScaleFile


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("hidden_size: 96", "hidden_size: 95", ["hidden_size = 95", "multiple of heads = 4"]),
        ("layers: 1,", "layers: 1, kv_heads: 4,", ["heads = 2", "multiple of kv_heads = 4"]),
        ("en-wiki: 0.84", "en-wiki: 0.8", ["pretraining.mixture", "sum to 0.96, expected 1"]),
        ("middle: 4", "middle: 3", ["horizons", "divide long"]),
        ("middle: 4", "middle: 9", ["horizons", "middle = 9", "expected long > middle > short"]),
        ("seeds: [0]", "seeds: [0, 0]", ["seeds", "expected each value once, got [0, 0]"]),
    ],
)
def test_sizes_that_do_not_fit_together_are_refused(load, old, new, says):
    with pytest.raises(ConfigError) as error:
        load((old, new))
    for part in says:
        assert part in str(error.value)


def test_a_trained_model_needs_a_recipe(load, scale_text):
    start, end = scale_text.index("pretraining:"), scale_text.index("horizons:")
    with pytest.raises(ConfigError, match=r"'gpt2' has source 'trained'.*`pretraining` is missing"):
        load((scale_text[start:end], ""))


FINISHED = (
    "{source: trained, architecture: llama, layers: 1, hidden_size: 8, heads: 2, seed: 2}",
    "{source: finished, base: gpt2, steps: 3, learning_rate: 0.1, mixture: {it-story: 1}, seed: 4}",
)


def test_a_finished_model_has_the_shape_of_its_base(load):
    scale = load(FINISHED).scale
    assert scale.shape("llama-instruct") == scale.models["gpt2"]
    assert scale.shape("gpt2") == scale.models["gpt2"]
    assert scale.shape("none") is None


def test_a_finished_model_needs_a_trained_base(load):
    itself = (FINISHED[0], FINISHED[1].replace("base: gpt2", "base: llama-instruct"))
    with pytest.raises(
        ConfigError, match=r"llama-instruct\.base is 'llama-instruct'.*'trained'; there are: gpt2"
    ):
        load(itself)


def test_only_verl_takes_several_machines(load):
    nodes = ("scale: mine", "scale: mine\nneeds: {nodes: 2}")
    with pytest.raises(
        ConfigError, match=r"needs\.nodes = 2 with engine 'jax'.*`engine: trl` or `engine: verl`"
    ):
        load(nodes)
    for engine in ("trl", "verl"):
        taken = load(nodes, ("scale: mine", f"scale: mine\nengine: {engine}"))
        assert taken.scale.needs.nodes == 2


def test_only_trl_without_gpus_takes_several_processes(load):
    two = ("scale: mine", "scale: mine\nneeds: {processes: 2}")
    with pytest.raises(ConfigError, match=r"needs\.processes = 2 with engine 'jax'"):
        load(two)
    trl = ("scale: mine", "scale: mine\nengine: trl")
    assert load(two, trl).scale.needs.processes == 2
    with pytest.raises(
        ConfigError, match=r"needs\.processes = 2 .* needs\.gpus x needs\.nodes = 4"
    ):
        load((two[0], two[1].replace("processes: 2", "processes: 2, gpus: 4")), trl)


def test_a_horizon_by_its_name():
    horizons = config.Horizons(long=8, middle=4, short=1)
    assert [horizons.steps(name) for name in ("long", "middle", "short")] == [8, 4, 1]


def test_a_dump_keeps_what_the_file_says_in_its_order(root):
    scale = config.load(root / "config/tiny.yaml").scale
    dumped = scale.model_dump(mode="json", exclude_unset=True)
    assert list(dumped["experiments"]["sixseven"]) == [
        "metric",
        "generator",
        "learner",
        "validation",
        "variants",
    ]
    assert dumped["experiments"]["sixseven"]["variants"]["adam-long"] is None
    assert list(dumped["defaults"]["learner"]) == [
        "microbatch",
        "example_length",
        "order",
        "order_seed",
    ]


def test_where_the_experiments_are_is_no_setting(load):
    scale = load(("scale: mine", "scale: mine\nexperiments_file: config/experiments.yaml")).scale
    assert isinstance(scale, ScaleFile)
    assert str(scale.experiments_file) == "config/experiments.yaml"
    assert "experiments_file" not in scale.model_dump()


def test_prices_of_a_judge_are_two_numbers_that_are_not_negative(load):
    judge = "judge: {kind: openai, model: other, prices: %s}"
    scale = load(("scale: mine", "scale: mine\n" + judge % "[0.5, 2]")).scale
    assert scale.judge.prices == (0.5, 2.0)
    for wrong in ("[0.5]", "[0.5, -2]", "[1, 2, 3]", "much"):
        with pytest.raises(ConfigError, match=r"judge\.prices"):
            load(("scale: mine", "scale: mine\n" + judge % wrong))
