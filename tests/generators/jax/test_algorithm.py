"""Algorithm 1 end to end on random models: what it writes, and that it survives interruption."""

import signal
import subprocess
import sys

import numpy as np
import pytest

from dpg import artifacts
from dpg.errors import DpgError
from dpg.generators.engine import OutOfTimeError
from dpg.generators.jax import algorithm
from dpg.generators.jax.engine import run_generator
from dpg.models import load
from dpg.run_folder import RunFolder

pytestmark = pytest.mark.integration

RUN = ("sixseven", "adam-T4", 0)


@pytest.fixture(scope="module")
def finished(world, tmp_path_factory):
    """One uninterrupted run."""
    folder = RunFolder(tmp_path_factory.mktemp("finished"))
    run = world.study.run(*RUN)
    run_generator(run, world.inputs(run), folder)
    return folder


def test_a_run_leaves_its_log_its_rollouts_its_images_and_its_generator(world, finished):
    run = world.study.run(*RUN)
    log = artifacts.read_linesfinished.metrics
    train = [row for row in log if row["phase"] == "train"]
    validation = [row for row in log if row["phase"] == "validation"]
    assert [row["step"] for row in train] == list(range(5))
    assert [row["step"] for row in validation] == [0, 2, 4, 5]
    assert all(np.isfinite(row["reward_std"]) and row["reward_std"] > 0 for row in train)
    assert all(0 <= row["pixels_right"] <= 1 for row in validation)
    rollouts = artifacts.read_table(finished.rollouts)
    assert rollouts.groupby("step").size().to_dict() == {0: 4, 2: 4, 4: 4, 5: 4}
    assert rollouts.groupby("row").article.nunique().eq(1).all()
    pattern = artifacts.read_json(finished.pattern)
    assert np.shape(pattern["pattern"]) == (6, 7)
    assert set(pattern["images"]) == {"0", "2", "4", "5"}
    for row in validation:
        image = np.array(pattern["images"][str(row["step"])])
        assert row["pixels_right"] == pytest.approx(np.mean(image == pattern["pattern"]))
    record = artifacts.read_json(finished.record)
    assert record["config"] == run.model_dump(mode="json")
    _, params, tokenizer = load(finished.generator)
    before = load(world.root / "llama")[1]
    assert tokenizer is not None
    assert not np.array_equal(params["embed"], before["embed"])
    assert not finished.state.path.exists()


def test_a_run_that_is_stopped_ends_with_the_same_bytes(world, finished, tmp_path):
    run = world.study.run(*RUN)
    stops = 0
    for _ in range(10):  # a limit that every step exceeds: one step a call
        try:
            run_generator(run, world.inputs(run), RunFolder(tmp_path), seconds=1e-9)
            break
        except OutOfTimeError:
            stops += 1
    assert stops == 5
    for name in ("metrics.jsonl", "validation.parquet", "pattern.json"):
        assert (tmp_path / name).read_bytes() == (finished.path / name).read_bytes(), name
    weights = "generator/model.safetensors"
    assert (tmp_path / weights).read_bytes() == (finished.path / weights).read_bytes()


def test_an_error_in_the_reward_stops_the_run_and_keeps_what_was_done(world, finished, tmp_path):
    run = world.study.run(*RUN)
    real = algorithm.grpo_step

    def broken(run, step, *rest):
        if step == 3:
            raise DpgError("step 3: the reward is out of order")
        return real(run, step, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(algorithm, "grpo_step", broken)
        with pytest.raises(DpgError, match="step 3"):
            run_generator(run, world.inputs(run), RunFolder(tmp_path))
    assert not (tmp_path / "run.json").exists()
    assert RunFolder(tmp_path).state.checkpoint.exists()
    run_generator(run, world.inputs(run), RunFolder(tmp_path))
    assert (tmp_path / "metrics.jsonl").read_bytes() == finished.metrics.read_bytes()


def test_another_configuration_does_not_take_up_an_old_state(world, finished, tmp_path, capsys):
    run = world.study.run(*RUN)
    with pytest.raises(OutOfTimeError):
        run_generator(run, world.inputs(run), RunFolder(tmp_path), seconds=1e-9)
    learner = run.learner.model_copy(update={"learning_rate": 5e-4})
    other = run.model_copy(update={"learner": learner})
    run_generator(other, world.inputs(run), RunFolder(tmp_path))
    said = capsys.readouterr().err
    assert "run.learner.learning_rate was 0.001, is 0.0005" in said
    (kept,) = tmp_path.glob("state-*")  # and nothing is lost
    assert kept.name in said
    assert (kept / "checkpoint.safetensors").exists()
    assert artifacts.read_json(tmp_path / "run.json")["config"]["learner"]["learning_rate"] == 5e-4
    assert (tmp_path / "metrics.jsonl").read_bytes() != finished.metrics.read_bytes()


@pytest.mark.parametrize(
    ("experiment", "variant", "keys"),
    [
        ("sixseven", "naive-T4", {"pixels_right"}),
        ("lambada-es", "adam", set()),
        pytest.param("sixseven", "adam-T4-nogroups", {"pixels_right"}, marks=pytest.mark.slow),
        pytest.param("sixseven", "sgd-T4", {"pixels_right"}, marks=pytest.mark.slow),
        pytest.param("norm", "adam-T4", {"norm_difference"}, marks=pytest.mark.slow),
        pytest.param("uuid", "adam", {"exact", "soft"}, marks=pytest.mark.slow),
    ],
)
def test_every_kind_of_run_works(world, tmp_path, experiment, variant, keys):
    run = world.study.run(experiment, variant, 0)
    run_generator(run, world.inputs(run), RunFolder(tmp_path))
    log = artifacts.read_lines(tmp_path / "metrics.jsonl")
    validation = [row for row in log if row["phase"] == "validation"]
    assert keys | {"metric"} <= set(validation[-1])
    assert (tmp_path / "pattern.json").exists() == (experiment == "sixseven")
    if variant.startswith("naive"):
        first = next(row for row in log if row["phase"] == "train")
        assert first["informative"] == 1.0


def test_too_few_articles_for_validation_names_the_key(world, tmp_path):
    run = world.study.run(*RUN)
    learner = run.learner.model_copy(update={"batch_size": 16})
    run = run.model_copy(update={"learner": learner})
    with pytest.raises(DpgError, match=r"needs 64 articles.*found 40.*text\.articles"):
        run_generator(run, world.inputs(run), RunFolder(tmp_path))


@pytest.mark.slow
def test_a_killed_process_goes_on_to_the_same_bytes(world, finished, tmp_path, wait_until):
    command = [
        *(sys.executable, "-m", "dpg", "generate", "-c", str(world.root / "test.yaml")),
        *("--experiment", RUN[0], "--variant", RUN[1], "--out", str(tmp_path)),
    ]
    command += world.options(world.study.run(*RUN))
    process = subprocess.Popen(command, cwd=world.root)
    checkpoint = RunFolder(tmp_path).state.checkpoint
    wait_until(checkpoint.exists, process=process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert checkpoint.exists()
    assert not (tmp_path / "run.json").exists()
    subprocess.run(command, cwd=world.root, check=True)
    for name in ("metrics.jsonl", "validation.parquet"):
        assert (tmp_path / name).read_bytes() == (finished.path / name).read_bytes(), name
