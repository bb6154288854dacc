"""What fits a GPU's memory, against what an H200 measured."""

import pytest

from dpg import doctor
from dpg.doctor import cards, forecast, rates
from dpg.study.layout import Layout

GPT2 = cards._PUBLISHED["openai-community/gpt2"]


def target(run, steps, **learner):
    """The run with a target of T steps of 64 x 128 tokens, as it was measured."""
    generator = run.generator.model_copy(update={"response_tokens": 128})
    learner = {"steps": steps, "batch_size": 64, "remat": None, "memory": None} | learner
    settings = run.learner.model_copy(update=learner)
    return run.model_copy(update={"generator": generator, "learner": settings})


@pytest.mark.parametrize(("steps", "measured_gb"), [(4, 38.75), (16, 62.65)])
def test_the_metagradient_of_gpt2_s_shape_needs_what_was_measured(gpu, steps, measured_gb):
    run = target(gpu.run("norm", "adam-T96", 0), steps)
    held = cards._target_held(run, GPT2)
    counted = held + 64 * cards._of_example(run, GPT2) + cards._logits(64 * 128, GPT2)
    assert counted / 1e9 == pytest.approx(measured_gb, rel=0.1)


def test_a_kept_step_costs_what_was_measured(gpu):
    run = gpu.run("norm", "adam-T96", 0)
    held = [cards._target_held(target(run, steps), GPT2) for steps in (4, 16)]
    assert (held[1] - held[0]) / 1e9 == pytest.approx(62.65 - 38.75, rel=0.01)


def test_a_budget_for_stored_states_bounds_them(gpu):
    run = gpu.run("norm", "adam-T96", 0)
    whole = cards.fit(target(run, 96), cards.SMOLLM2, GPT2, 80)
    bounded = cards.fit(target(run, 96, memory=16 * 10**9), cards.SMOLLM2, GPT2, 80)
    assert whole.examples == 0
    assert whole.least_gb > 190
    assert "learner.memory" in cards.reason(whole)
    assert bounded.examples > 0


def test_a_larger_card_takes_no_less(gpu):
    for run in gpu.runs:
        small, large = (cards.fit(run, cards.SMOLLM2, cards.SMOLLM2, size) for size in (24, 80))
        assert 0 < small.rollouts <= large.rollouts, run.path
        assert small.examples <= large.examples, run.path


def test_the_doctor_says_it_of_both_scales(gpu, paper, tmp_path):
    for study in (gpu, paper):
        layout = Layout(study.scale.scale, tmp_path)
        said = doctor.costs(study, doctor.estimate(study, layout))
        assert any(line.startswith("24 GB card: ") for line in said), said
        assert any(line.startswith("80 GB card: ") for line in said), said
    small = [line for line in said if line.startswith("24 GB card: ")]
    assert any("too small for the target's metagradient" in line for line in small)  # Llama's


def test_hours_follow_the_configured_precision(gpu, tmp_path):
    run = gpu.run("lambada-es", "adam", 0)
    assert rates.of_target(run) == 50e12
    fast = run.model_copy(
        update={"learner": run.learner.model_copy(update={"matmul_precision": "default"})}
    )
    assert rates.of_target(fast) == 110e12
    sizes = {"llama-instruct": 10**8}
    slow_hours, fast_hours = (forecast._hours_of_targets([one], sizes, 1) for one in (run, fast))
    assert slow_hours.low == slow_hours.high
    assert slow_hours.low / fast_hours.low == pytest.approx(110 / 50)
    expected = forecast.target_operations(run, 10**8) / 50e12 / 3600
    assert slow_hours.low == pytest.approx(expected)
