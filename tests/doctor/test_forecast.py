"""What a study will take, before anything is started."""

import numpy as np
import pytest
import safetensors.numpy

from dpg import config, doctor
from dpg.doctor import forecast
from dpg.evaluation.judge import PRICES
from dpg.study.layout import Layout


def test_the_papers_study(paper, layout):
    found = doctor.estimate(paper, layout)
    assert (found.runs, found.all_runs) == (48, 48)
    # 24 runs of 120 steps, a validation every 5 and one at the start, 256 rollouts kept.
    assert found.judged == 24 * 25 * 256
    # 48 generators of 1.2 billion float32 parameters are the largest part.
    assert 48 * 1.2358 * 4 < found.disk_gb < 2 * 48 * 1.2358 * 4 + 300
    assert 1 < found.judge_dollars < 20
    assert found.unknown == ()
    hours = found.gpu_hours
    assert hours.low < hours.high
    assert hours.low == pytest.approx(
        found.generator_hours.low + found.target_hours.low + found.downstream_hours.low
    )


def test_operations_of_a_run_by_hand(paper):
    run = paper.run("lambada-es", "adam", 0)
    n, prompt, response, steps = 1024, 1024, 128, 120
    step = (2 + 2 + 6) * 1e9 * n * (prompt + response)
    validation = 2e9 * n * (prompt + response)
    expected = steps * step + 25 * validation
    assert forecast.generator_operations(run, 10**9) == pytest.approx(expected)


def test_equal_rollouts_cost_the_target_alike_whatever_their_steps(paper):
    long, middle = (
        forecast.target_operations(paper.run("sixseven", f"adam-{T}", 0), 10**8)
        for T in ("T96", "T8")
    )
    assert long == pytest.approx(middle, rel=1e-6)


def test_a_reward_without_a_target_trains_it_for_validation_alone(paper):
    embedding = forecast.target_operations(paper.run("lambada-es", "embedding", 0), 10**9)
    adam = forecast.target_operations(paper.run("lambada-es", "adam", 0), 10**9)
    assert 0 < embedding < adam / 4


def test_what_is_made_is_not_counted_again(paper, layout):
    before = doctor.estimate(paper, layout)
    for run in paper.runs:
        folder = layout.run_of(run).path
        if run.experiment != "uuid":
            folder.mkdir(parents=True)
            (folder / "run.json").write_text("{}")
            (folder / "judged.parquet").write_text("")
    after = doctor.estimate(paper, layout)
    assert after.runs == 3
    assert after.judged == after.judge_dollars == 0
    assert 0 < after.gpu_hours.high < before.gpu_hours.high


def test_a_model_that_is_here_is_counted_by_its_tensors(paper, layout):
    folder = layout.model("gpt2")
    folder.mkdir(parents=True)
    tensors = {"a": np.zeros((3, 5), np.float32), "b": np.zeros(7, np.float16)}
    safetensors.numpy.save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert forecast.parameters(paper.scale.models["gpt2"], folder) == 22


def test_a_model_of_unknown_size_is_said(paper, layout):
    stranger = config.HubModel(source="hub", repository="someone/else")
    models = {**paper.scale.models, "gpt2": stranger}
    scale = paper.scale.model_copy(update={"models": models})
    study = config.Study(paper.path, scale, paper._runs, {}, paper.downstream, {})
    found = doctor.estimate(study, layout)
    assert found.unknown == ("gpt2",)
    assert "not before it is fetched: gpt2" in " ".join(doctor.costs(study, found)).replace(
        "known before", "before"
    )


def test_a_judge_without_a_price(paper, layout):
    judge = paper.scale.judge.model_copy(update={"model": "another"})
    scale = paper.scale.model_copy(update={"judge": judge})
    study = config.Study(paper.path, scale, paper._runs, {}, paper.downstream, {})
    assert doctor.estimate(study, layout).judge_dollars is None


def test_a_judge_with_a_price_of_its_own(paper, layout):
    def dollars(**judge):
        changed = paper.scale.judge.model_copy(update=judge)
        scale = paper.scale.model_copy(update={"judge": changed})
        study = config.Study(paper.path, scale, paper._runs, {}, paper.downstream, {})
        return doctor.estimate(study, layout).judge_dollars

    listed = dollars()
    assert dollars(model="another", prices=PRICES["gpt-4.1-nano"]) == listed
    assert dollars(prices=(0.2, 0.8)) == pytest.approx(2 * listed)


def test_no_gpu_hours_where_no_gpu_is_needed(tiny, tmp_path):
    found = doctor.estimate(tiny, Layout("tiny", tmp_path))
    assert found.gpu_hours is None
    assert found.judge_dollars == 0
    assert "none, the scale asks for no GPU" in "\n".join(doctor.costs(tiny, found))


def test_ranges():
    assert str(forecast.Range(1234.0, 5678.0)) == "1,200 to 5,700"
    assert str(forecast.Range(0.0, 0.0)) == "0"
