"""Algorithm 1 end to end on random models: what it writes, and that it survives interruption."""

import json
import signal
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

from dpg import artifacts
from dpg.errors import DpgError
from dpg.generators.engine import OutOfTimeError
from dpg.generators.jax import algorithm
from dpg.generators.jax.engine import run_generator
from dpg.generators.started_from import from_files
from dpg.models import load
from dpg.rewards.protocol import Rewards
from dpg.run_folder import RunFolder
from dpg.state import lock_of

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
    log = artifacts.read_lines(finished.metrics)
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
    assert record["inputs"] == from_files(run, world.inputs(run))
    _, params, tokenizer = load(finished.generator)
    before = load(world.root / "llama")[1]
    assert tokenizer is not None
    assert not np.array_equal(params["embed"], before["embed"])
    assert not finished.state.path.exists()
    assert not lock_of(finished.state.path).exists()


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


def test_other_prompts_start_the_run_anew_and_the_message_names_them(world, tmp_path, capsys):
    run = world.study.run(*RUN)
    inputs = world.inputs(run)
    with pytest.raises(OutOfTimeError):
        run_generator(run, inputs, RunFolder(tmp_path / "run"), seconds=1e-9)
    articles = artifacts.read_table(inputs.articles)
    articles.loc[3, "text"] = " ".join(reversed(articles.text[3].split()))  # a training article
    artifacts.write_table(tmp_path / "articles.parquet", articles)
    other = replace(inputs, articles=tmp_path / "articles.parquet")
    with pytest.raises(OutOfTimeError):
        run_generator(run, other, RunFolder(tmp_path / "run"), seconds=1e-9)
    said = capsys.readouterr().err
    assert "it was made with other settings or inputs: inputs.prompts.train changed. " in said
    assert len(list((tmp_path / "run").glob("state-*"))) == 1


def test_a_state_of_an_earlier_version_is_named_and_not_touched(world, tmp_path, capsys):
    run = world.study.run(*RUN)
    (tmp_path / "progress").mkdir()
    (tmp_path / "progress" / "metrics.jsonl").write_text("{}\n")
    with pytest.raises(OutOfTimeError):
        run_generator(run, world.inputs(run), RunFolder(tmp_path), seconds=1e-9)
    (line,) = [one for one in capsys.readouterr().err.splitlines() if "progress" in one]
    assert line == (
        f"{tmp_path / 'progress'}: an unfinished run of an earlier version of dpg. It is not used, "
        "because this version keeps state/. You can delete it"
    )
    assert (tmp_path / "progress" / "metrics.jsonl").read_text() == "{}\n"


def test_rewards_that_are_all_zero_are_said_once(world, tmp_path, capsys, monkeypatch):
    def no_rewards(*_, **__):
        return lambda batch: Rewards(np.zeros(len(batch)), batch.groups)

    monkeypatch.setattr("dpg.rewards.build", no_rewards)
    run = world.study.run(*RUN)
    run_generator(run, world.inputs(run), RunFolder(tmp_path))
    said = [line for line in capsys.readouterr().err.splitlines() if "reward" in line]
    assert len(said) == 1
    assert said[0].startswith("step 0: every reward is zero, so the step teaches nothing")


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
    with pytest.raises(DpgError, match=r"found 40.*expected 64.*text\.articles"):
        run_generator(run, world.inputs(run), RunFolder(tmp_path))


@pytest.fixture
def command(world, tmp_path):
    """`dpg generate` of the run, into a folder of its own."""
    return [
        *(sys.executable, "-m", "dpg", "generate", "-c", str(world.root / "test.yaml")),
        *("--experiment", RUN[0], "--variant", RUN[1], "--out", str(tmp_path / "run")),
        *world.options(world.study.run(*RUN)),
    ]


def assert_same_bytes(folder, finished):
    for name in ("metrics.jsonl", "validation.parquet", "pattern.json"):
        assert (folder.path / name).read_bytes() == (finished.path / name).read_bytes(), name


@pytest.mark.slow
def test_a_killed_process_goes_on_to_the_same_bytes(world, finished, tmp_path, command, wait_until):
    folder = RunFolder(tmp_path / "run")
    process = subprocess.Popen(command, cwd=world.root)
    wait_until(folder.state.checkpoint.exists, process=process)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert folder.state.checkpoint.exists()
    assert not folder.is_finished
    again = subprocess.run(command, cwd=world.root, check=True, capture_output=True, text=True)
    assert f"the lock of a process that has ended: process {process.pid}" in again.stderr
    assert_same_bytes(folder, finished)


@pytest.mark.slow
def test_an_orphan_is_named_by_the_next_call_and_its_log_stays_whole(
    world, finished, tmp_path, command, wait_until
):
    folder = RunFolder(tmp_path / "run")
    # As a Snakemake that is killed: its job lives on.
    starter = f"import subprocess, time; subprocess.Popen({command!r}); time.sleep(600)"
    parent = subprocess.Popen([sys.executable, "-c", starter], cwd=world.root)
    lock = lock_of(folder.state.path)
    wait_until(lambda: lock.exists() and lock.read_text().endswith("\n"), process=parent)
    parent.kill()
    parent.wait()
    number = json.loads(lock.read_text())["who"]["process"]
    second = subprocess.run(command, cwd=world.root, capture_output=True, text=True)
    assert second.returncode == 2
    assert f"another process works on this state: process {number} on" in second.stderr
    assert "The process that had started it has ended" in second.stderr
    wait_until(lambda: folder.is_finished and not lock.exists())
    assert_same_bytes(folder, finished)
