"""Shared by the tests of TRL and verl: a study of two steps, and checks of a run's files."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from dpg import artifacts, config, environments
from dpg.errors import DpgError
from dpg.models import load
from dpg.run_folder import RunFolder


def environment_of(name):
    """An engine's environment: in `.environments`, or the path in DPG_<NAME>_ENVIRONMENT."""
    named = os.environ.get(f"DPG_{name.upper()}_ENVIRONMENT", environments.path_of(name))
    return Path(named).absolute()


def needs(name, seconds):
    """The marks of slow tests that start an engine in its environment."""
    folder = environment_of(name)

    def mark(test):
        missing = pytest.mark.skipif(
            not (folder / "bin" / "python").exists(),
            reason=f"{folder} is not there: `dpg environment {name}` makes it",
        )
        return missing(pytest.mark.slow(pytest.mark.timeout(seconds)(test)))

    return mark


def scale(world, engine, name, **changes):
    """The scale file of `world`, with this engine and two GRPO steps; `changes` replace lines."""
    text = (world.root / "test.yaml").read_text()
    text = text.replace("scale: test", f"scale: test\nengine: {engine}")
    changes = {"grpo_steps: 5": "grpo_steps: 2", "every: 2": "every: 1"} | changes
    changes = {"checkpoint_every: 2": "checkpoint_every: 1"} | changes
    for old, new in changes.items():
        assert old in text
        text = text.replace(old, new)
    path = world.root / f"{name}.yaml"
    path.write_text(text)
    return config.load(path)


class Runs:
    """Runs of one engine."""

    def __init__(self, engine, world):
        self.engine, self.world = engine, world
        self.name = engine.__name__.split(".")[-2]
        self.environment = environment_of(self.name)

    def make(self, study, run, out, environment=None, **options):
        """Carry out one run to its end."""
        self.engine.run_generator(
            run,
            self.world.inputs(run),
            RunFolder(out),
            config=study.path,
            gpus=0,
            environment=environment or self.environment,
            **options,
        )

    def killed(self, study, run, out, mark, wait_until):
        """Start the command of a run, and kill it as soon as a file exists."""
        command = [
            *(sys.executable, "-m", "dpg", "generate", "-c", str(study.path)),
            *("--experiment", run.experiment, "--variant", run.variant, "--out", str(out)),
            *("--environment", str(self.environment), *self.world.options(run)),
        ]
        process = subprocess.Popen(command, cwd=self.world.root)
        wait_until(mark.exists, 600, process)
        process.send_signal(signal.SIGKILL)
        process.wait()

    def without_its_reward_server(self, study, run, out):
        """Kill the reward server of a run after its first step; return the error that ends it."""

        def kill(step, record):
            connection = RunFolder(out).state.connection
            os.kill(artifacts.read_json(connection)["process"], signal.SIGKILL)

        steps = run.generator.grpo_steps
        says = rf"the reward server ended after \d+ of {steps} steps \(status -9"
        with pytest.raises(DpgError, match=says):
            self.make(study, run, out, on_step=kill)
        assert not (out / "run.json").exists()
        assert RunFolder(out).state.checkpoints.exists()


def check_two_steps(world, run, out, numbers):
    """Check that a run of two steps left all its files, and that its `numbers` are finite."""
    log = artifacts.read_lines(out / "metrics.jsonl")
    assert [(line["step"], line["phase"]) for line in log] == [
        (0, "validation"), (0, "train"), (1, "validation"), (1, "train"), (2, "validation"),
    ]  # fmt: skip
    for line in log:
        if line["phase"] == "train":
            assert line["reward_std"] > 0
            assert line["informative"] > 0.9
            assert np.isfinite([line[name] for name in numbers]).all()
            assert line["gradient_norm"] > 0
        else:
            assert np.isfinite(line["metric"])
        assert 2 <= line["response_length"] <= run.generator.response_tokens
    table = artifacts.read_table(out / "validation.parquet")
    assert table.groupby("step").size().to_dict() == dict.fromkeys(range(3), 4)
    assert (out / "pattern.json").exists() == (run.experiment == "sixseven")
    assert artifacts.read_json(out / "run.json")["config"] == run.model_dump(mode="json")
    before = load(world.root / "llama")[1]
    _, after, tokenizer = load(out / "generator")
    assert tokenizer is not None
    changes = [
        float(np.abs(np.asarray(new) - np.asarray(old)).max())
        for new, old in zip(jax.tree.leaves(after), jax.tree.leaves(before), strict=True)
    ]
    # Two steps of some mini-batches each, AdamW: no weight moves further than a rate per update.
    assert 0 < max(changes) < 16.5 * run.generator.learning_rate
    assert not RunFolder(out).state.path.exists()


def assert_same_run(one, other):
    """Check that log, rollouts, image and weights are equal byte for byte."""
    names = ("metrics.jsonl", "validation.parquet", "pattern.json", "generator/model.safetensors")
    for name in names:
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
