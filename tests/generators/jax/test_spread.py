"""A target, and a generator, spread over four devices give the numbers of one device."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from dpg import targets
from dpg.artifacts import read_table
from dpg.learner import metagradient
from dpg.learner.errors import LearnerError
from dpg.models import load


@pytest.mark.slow
def test_neither_rewards_nor_rollouts_nor_updates_depend_on_the_number_of_devices():
    flags = "--xla_force_host_platform_device_count=4 --xla_backend_optimization_level=0"
    environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu", "JAX_ENABLE_X64": "1"}
    root = Path(__file__).parents[3]
    path = os.pathsep.join([str(root), environment.get("PYTHONPATH", "")])
    run = subprocess.run(
        [sys.executable, Path(__file__).with_name("spread_script.py")],
        env=environment | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    targets = ["Gpt2Config 8 ok", "Gpt2Config 6 ok", "LlamaConfig 8 ok"]
    assert run.stdout.splitlines() == [*targets, "generator 8 ok", "generator 6 ok"]


def built(world, experiment, **learner):
    run = next(run for run in world.study.runs if run.experiment == experiment)
    run = run.model_copy(update={"learner": run.learner.model_copy(update=learner)})
    files = world.inputs(run)
    return targets.build(run, *load(files.target), read_table(files.passages))


@pytest.mark.slow
@pytest.mark.parametrize("experiment", ["sixseven", "lambada-es"])
def test_a_run_s_target_is_spread_where_the_setting_says_so(world, experiment):
    tokens = np.random.default_rng(0).integers(0, 256, (2, 8, 6), np.int32)
    batches = {"tokens": tokens, "mask": np.ones(tokens.shape, bool)}
    rewards = []
    for devices in (None, 1):
        goal = built(world, experiment, devices=devices)
        found = metagradient(
            goal.per_example_loss, goal.metric, goal.params, batches, goal.optimizer
        )
        rewards.append(np.asarray(found.weights_grad))
        assert goal.score(found.params)["metric"] == pytest.approx(float(found.metric), rel=1e-6)
    np.testing.assert_allclose(*rewards, rtol=1e-5, atol=1e-5 * np.abs(rewards[0]).max())


def test_more_devices_than_there_are(world):
    count = len(jax.local_devices()) + 1
    with pytest.raises(LearnerError, match=rf"JAX sees .* devices \(cpu\); expected {count}: set"):
        built(world, "sixseven", devices=count)
