"""A run's values: those of the paper's tables, and which values fit together."""

import pytest

from dpg import config
from dpg.config import ConfigError

# Tables 7 to 10 and 13, value by value: (generator learning rate, prompts per step by T, M by T,
# learner's rate by optimizer, val temperature).
TABLES = {
    "qr": (5e-6, {96: 24576}, {96: 200}, {"adam": 5e-6}, 1.0),
    "sixseven": (
        5e-6,
        {1: 256, 8: 2048, 96: 24576},
        {1: 3840, 8: 480, 96: 40},
        {"adam": 5e-6, "sgd": 5.12e-4, "naive": 2.56e-4},
        1.0,
    ),
    "norm": (
        5e-6,
        {1: 256, 8: 2048, 96: 24576},
        {1: 960, 8: 120, 96: 10},
        {"adam": 5e-6, "sgd": 1.28e-4, "naive": 1e-6},
        1.0,
    ),
    **{
        f"lambada-{code}": (
            1e-6,
            {1: 256},
            {1: 120},
            {"adam": 1e-6, "sgd": 6.4e-5, "naive": 6.4e-5},
            1.0,
        )
        for code in ("de", "es", "fr", "it")
    },
    "uuid": (1e-6, {1: 256}, {1: 360}, {"adam": 1e-6, "sgd": 6.4e-5, "naive": 6.4e-5}, 0.0),
}


def test_the_paper_scale_has_the_values_of_the_papers_tables(paper):
    for run in paper.runs:
        rate, prompts, steps, target_rates, temperature = TABLES[run.experiment]
        T = run.learner.steps
        method = run.variant.split("-")[0]
        assert run.generator.learning_rate == rate, run.path
        assert run.prompts_per_step == prompts[T], run.path
        assert run.generator.grpo_steps == steps[T], run.path
        if method in target_rates:
            assert run.learner.learning_rate == target_rates[method], run.path
        assert run.validation.temperature == temperature, run.path
        assert run.validation_steps == max(prompts), run.path
        assert run.learner.batch_size == 1024, run.path
        assert run.generator.group_size == 4, run.path
        assert (run.generator.prompt_tokens, run.generator.response_tokens) == (1024, 128)
        assert run.generator.kl_coefficient == 0, run.path
        assert run.generator.temperature == 1.0, run.path
        adam = (run.learner.b1, run.learner.b2, run.learner.eps, run.learner.eps_root)
        assert adam == (0.9, 0.95, 1e-8, 1e-9), run.path
        assert run.learner.weight_decay == 1e-4, run.path
        assert run.learner.optimizer == ("sgd" if method == "sgd" else "adam"), run.path


def test_the_naive_reward_never_batches_across_groups(paper):
    naive = [run for run in paper.runs if run.reward.kind == "naive"]
    assert naive
    assert not any(run.reward.cross_group_batching for run in naive)


def test_the_rate_is_swept_for_sgd_and_for_the_naive_reward(paper):
    swept = {run.variant.split("-")[0] for run in paper.runs if run.rate_is_swept}
    assert swept == {"sgd", "naive"}


@pytest.mark.parametrize(("schedule", "rates"), [("constant", [1, 1]), ("linear", [1, 0.9])])
def test_the_schedule_of_the_learning_rate(load, schedule, rates):
    override = ("prompt_tokens: 16", f"prompt_tokens: 16, grpo_steps: 10, schedule: {schedule}")
    generator = load(override).runs[0].generator
    assert [generator.rate(0), generator.rate(1)] == rates


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("batch_size: 64", "batch_size: 63", ["126 prompts", "mini_batch_prompts = 16", "divisor"]),
        ("long: 8, middle: 4", "long: 3, middle: 2", ["middle and short must divide long"]),
        ("kept: 64", "kept: 100000", ["validation.kept = 100000", "512 rollouts", "at most 512"]),
        (
            "learner: {",
            "reward: {cross_group_batching: false}\n  learner: {batch_size: 2, ",
            ["key given twice: batch_size"],
        ),
        (
            "column: 300}",
            "column: 300}\n    learner: {batch_size: 2}\n"
            "    reward: {cross_group_batching: false}\n    generator: {mini_batch_prompts: 4}",
            ["learner.batch_size = 2 is not a multiple of generator.group_size = 4"],
        ),
        (
            "column: 300}",
            "column: 300}\n    reward: {kind: naive}",
            ["the naive reward never uses cross-group batching", "cross_group_batching: false}"],
        ),
        ("column: 300", "kind: pattern, pattern: qr", ["metric", "needs `payload`"]),
        ("column: 300", "pattern: image", ["metric", "needs `image`"]),
        (
            "column: 300}",
            "column: 300}\n    reward: {kind: custom}",
            ["kind 'custom' needs `path`"],
        ),
        (
            "column: 300}",
            "column: 300}\n    reward: {path: 'a:b'}",
            ["kind 'metagradient' takes no `path`"],
        ),
        (
            "prompt_tokens: 16",
            "prompt_tokens: 16, min_response_tokens: 500",
            ["generator.min_response_tokens = 500 is above", "expected at most"],
        ),
        (
            "prompt_tokens: 16",
            "prompt_tokens: 16, kl_coefficient: 0.1",
            ["generator.kl_coefficient: expected 0", "got 0.1"],
        ),
        (
            "prompt_tokens: 16",
            "prompt_tokens: 16, rollout_batch: some",
            ["generator.rollout_batch: expected an integer > 0, 'auto'", "got 'some'"],
        ),
    ],
)
def test_values_that_do_not_fit_together_are_refused(load, old, new, says):
    with pytest.raises(ConfigError) as error:
        load((old, new))
    for part in says:
        assert part in str(error.value)


def test_a_coefficient_of_zero_is_recorded_as_it_is_written(load):
    for written, recorded in (("0", int), ("0.0", float)):
        override = ("prompt_tokens: 16", f"prompt_tokens: 16, kl_coefficient: {written}")
        run = load(override).runs[0]
        assert type(run.model_dump(mode="json")["generator"]["kl_coefficient"]) is recorded


def test_overrides_hold_what_the_file_sets_and_nothing_else():
    from dpg.config.run import RunOverrides

    layer = {"learner": {"steps": 3}, "checkpoint_every": 2}
    assert RunOverrides.model_validate(layer).layer() == layer
    assert RunOverrides().layer() == {}


def test_no_override_of_one_scale_reaches_another():
    before = config.load("config/paper.yaml").run("sixseven", "adam-T96", 0)
    config.load("config/tiny.yaml")
    assert config.load("config/paper.yaml").run("sixseven", "adam-T96", 0) == before
