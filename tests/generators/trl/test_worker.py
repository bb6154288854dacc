"""What runs inside TRL, with stand-ins for the reward server and for the other processes."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from dpg import artifacts
from dpg.errors import DpgError
from dpg.generators.advantages import group_advantages
from dpg.generators.jax.grpo import policy_loss
from dpg.generators.trl import engine, launch, rewards, worker
from dpg.generators.trl.numbers import MiniBatches
from dpg.generators.trl.run import (
    WHOLE,
    Run,
    Shape,
    checkpoint_of,
    fault_of,
    last_checkpoint,
    mark_whole,
)
from dpg.generators.trl.trainer import Prompts, StepPrompts, seed_of
from dpg.rewards.protocol import RewardError, Rewards

SHAPE = Shape(2, 3, 2, 3, 1, 1, 6)


def a_run(folder, shape=SHAPE, **more):
    values = {
        "model": "model",
        "arguments": {"max_completion_length": 5},
        "shape": shape,
        "connection": "server.json",
        "state": str(folder),
        "seed": 0,
        "eos_ids": [2],
        "pad_id": 0,
        "advantage_eps": 0.0,
        "loss_rollouts": None,
        "schedule": "constant",
        "optimizer": {},
        "validation_every": 1,
        "validation_temperature": 1.0,
        "rollout_batch": None,
    }
    return Run(**values | more)


class Server:
    """Rewards a rollout by the sum of its tokens, of the size of metagradients."""

    def __init__(self, all_one_group=False):
        self.asked, self.validated, self.all_one_group = [], [], all_one_group

    def __call__(self, batch):
        self.asked.append(batch)
        if batch.step == 7:
            raise RewardError(
                "step 7: rollouts [0]: in the target's training, the metagradient of step 0 is not "
                "finite for 1 of 4 examples (2)"
            )
        values = 1.0 + 1e-9 * (batch.tokens * batch.mask).sum(1)  # lost in float32
        groups = np.zeros(len(values), int) if self.all_one_group else batch.groups
        return Rewards(values, groups, {"metric": -0.5})

    def validate(self, batch):
        self.validated.append(batch)
        return Rewards(np.full(len(batch), -0.25), batch.groups, {"metric": -0.25})


def test_the_runs_file_is_read_as_it_was_written(tmp_path):
    run = a_run(tmp_path)
    run.write(tmp_path / "worker.json")
    assert Run.read(tmp_path / "worker.json") == run


@pytest.mark.parametrize("all_one_group", [False, True])
def test_advantages_are_of_the_whole_step_in_float64(tmp_path, all_one_group):
    server = Server(all_one_group)
    scorer = rewards.Scorer(a_run(tmp_path), server)
    places = np.array([5, 5, 3, 3, 4, 4])  # the second step's prompts, as processes have them
    answers = [[9, 8, 2], [7, 6], [5, 4, 3, 9], [8, 8], [3, 3, 2], [30, 40]]
    found = scorer.advantages(places, answers)
    (asked,) = server.asked
    assert asked.step == 1
    assert asked.groups.tolist() == [0, 0, 1, 1, 2, 2]
    assert asked.tokens[0, :4].tolist() == [5, 4, 3, 9]
    sums = np.array([sum(i for i in answer if i != 2) for answer in answers])
    groups = np.zeros(6, int) if all_one_group else places
    np.testing.assert_allclose(found, group_advantages(1.0 + 1e-9 * sums, groups), rtol=1e-6)
    record = artifacts.read_json(scorer.run.files.numbers("reward", 1))
    assert record["metric"] == -0.5
    assert record["informative"] == 1.0


def test_a_validation_is_sent_in_the_order_of_its_prompts(tmp_path):
    server = Server()
    scorer = rewards.Scorer(a_run(tmp_path), server)
    scorer.validate(np.array([0, 2, 1]), [[5, 5], [7, 7], [6, 6]], 4)
    assert server.validated[0].step == 4
    assert server.validated[0].tokens[:, 0].tolist() == [5, 6, 7]
    path = scorer.run.files.numbers("validation", 4)
    assert artifacts.read_json(path) == {"metric": -0.25}


def test_what_ends_rank_0_ends_every_rank_with_the_same_words(tmp_path):
    run, sent = a_run(tmp_path), []

    def broadcast(value):
        if value is not None:
            sent.append(value)
        return sent[-1]

    def fail():
        raise RewardError("step 7: not finite")

    with pytest.raises(RewardError, match="step 7: not finite"):
        rewards.on_first(run, 0, broadcast, fail)
    with pytest.raises(RewardError, match="step 7: not finite"):
        rewards.on_first(run, 1, broadcast, lambda: pytest.fail("rank 1 asks nobody"))
    assert artifacts.read_json(tmp_path / "failure.json")["kind"] == "RewardError"
    assert rewards.on_first(run, 0, broadcast, lambda: np.arange(2.0)).tolist() == [0, 1]
    assert rewards.on_first(run, 1, broadcast, lambda: None).tolist() == [0, 1]


@pytest.mark.parametrize("version", ["1.15.2", "1.17.0", "2.0", "1.160.0"])
def test_another_version_of_trl_is_refused(version):
    with pytest.raises(DpgError, match=rf"found trl {version}, expected 1\.16\.x.*dpg environment"):
        worker.check_version(version)


def test_the_tested_version_of_trl_is_that_of_the_lock():
    from dpg.environments import locked_versions

    worker.check_version(locked_versions("envs/trl.txt")["trl"])
    worker.check_version("1.16")


def test_a_checkpoint_counts_once_all_of_it_is_there(tmp_path):
    for updates in (4, 8, 12):
        place = checkpoint_of(tmp_path, updates)
        place.mkdir()
        for name in ("model.safetensors", "optimizer.pt", "rng_state.pth", "trainer_state.json"):
            (place / name).write_bytes(b"x" * updates)
        if updates < 12:
            mark_whole(place)
    assert fault_of(checkpoint_of(tmp_path, 12)) == f"it has no {WHOLE}: its writing was cut off"
    assert last_checkpoint(tmp_path) == (8, checkpoint_of(tmp_path, 8))
    (checkpoint_of(tmp_path, 8) / "optimizer.pt").write_bytes(b"cut")
    assert "optimizer.pt has 3 bytes, expected 8" in fault_of(checkpoint_of(tmp_path, 8))
    assert last_checkpoint(tmp_path)[0] == 4
    (checkpoint_of(tmp_path, 4) / "rng_state.pth").unlink()
    assert fault_of(checkpoint_of(tmp_path, 4)) == "rng_state.pth is not there"
    assert last_checkpoint(tmp_path) == (0, None)


def test_prompts_come_by_their_places(tmp_path):
    tokens = np.array([[0, 0, 5], [0, 6, 7]], np.int32)
    arrays = {"tokens": tokens, "mask": tokens > 0, "order": np.array([1, 0, 1], np.int64)}
    artifacts.save_arrays(tmp_path / "prompts.safetensors", arrays)
    prompts = Prompts(tmp_path / "prompts.safetensors")
    assert len(prompts) == 3
    assert [prompts[i] for i in range(3)] == [[6, 7], [5], [6, 7]]
    rows = StepPrompts(Shape(2, 4, 2, 2, 1, 2, 2))
    assert [row["prompt"] for row in map(rows.__getitem__, range(len(rows)))] == [
        "0", "2", "1", "3", "4", "6", "5", "7",
    ]  # fmt: skip


def test_random_numbers_depend_on_seed_purpose_and_rank_alone():
    seeds = {
        seed_of(seed, purpose, rank)
        for seed in (0, 1)
        for purpose in ("rollouts 3", "rollouts 4", "validation")
        for rank in (0, 1)
    }
    assert len(seeds) == 12
    assert seed_of(0, "validation", 0) == seed_of(0, "validation", 0)


def test_the_numbers_of_an_update_are_those_of_the_jax_engine():
    """Two mini-batches in two backward passes each, against the JAX engine's function."""
    rng = np.random.default_rng(0)
    shape = Shape(1, 8, 4, 4, 1, 1, 8)
    numbers, expected = MiniBatches(shape), []
    for _ in range(2):
        mask = np.arange(6) < rng.integers(1, 7, 16)[:, None]
        old = -rng.exponential(2, (16, 6)).astype(np.float32)
        new = (old + rng.normal(0, 0.4, (16, 6))).astype(np.float32)
        advantages = rng.normal(0, 1, 16).astype(np.float32)
        whole = policy_loss(new, old, advantages, mask)
        expected.append([float(x) for x in whole])
        for part in (slice(8), slice(8, 16)):
            share = policy_loss(new[part], old[part], advantages[part], mask[part]).loss
            given = (new[part], old[part], advantages[part], mask[part])
            weight = mask[part].sum() / mask.sum()
            loss = torch.tensor(float(share) * weight)
            numbers.add(loss, *map(torch.from_numpy, given), clip=0.2)
        assert not numbers.are_complete
        numbers.end_mini_batch(0.5)
    assert numbers.are_complete
    found = numbers.record(lambda x: x)
    means = np.mean(expected, axis=0)
    for name, value in zip(("loss", "clip_fraction", "approximate_kl"), means, strict=True):
        assert found[name] == pytest.approx(value, rel=1e-5), name
    assert found["clip_fraction"] > 0.1
    assert found["gradient_norm"] == 0.5


def test_a_dead_rank_is_named_by_torchruns_report():
    log = """
Failures:
  <NO_OTHER_FAILURES>
------------------------------------------------------------
Root Cause (first observed failure):
[0]:
  time      : 2026-11-27_08:00:00
  host      : here
  rank      : 1 (local_rank: 1)
  exitcode  : -9 (pid: 1234)
  error_file: <N/A>
"""
    assert engine.dead_rank(log) == ": rank 1 ended by signal 9 (out of memory?)"
    assert engine.dead_rank(log.replace("-9", "1")) == ": rank 1 ended with status 1"
    assert engine.dead_rank("no report") == ""


def test_torchrun_is_told_the_number_of_processes(tmp_path):
    told = launch.torchrun_arguments(a_run(tmp_path, SHAPE._replace(processes=2)), "run.json")
    assert "--nproc-per-node=2" in told
    assert told[-3:] == ["--module", "dpg.generators.trl.worker", "run.json"]


@pytest.mark.integration
def test_the_worker_needs_no_jax():
    code = (
        "import sys\nfor name in ('jax', 'optax', 'pydantic', 'yaml', 'fastapi', 'typer'): "
        "sys.modules[name] = None\nimport dpg.generators.trl.launch"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
