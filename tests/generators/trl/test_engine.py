"""The whole of a TRL run: what surrounds it, and, where its environment is, TRL itself.

The environment is looked for in `.environments/trl-<digest of its lock>`, or where
DPG_TRL_ENVIRONMENT says.
"""

import dataclasses
import os
import signal
import socket
import subprocess
import threading
import time
from pathlib import Path

import jax
import numpy as np
import pytest
import safetensors.numpy
from engine_runs import Runs, assert_same_run, check_two_steps, environment_of, needs, scale

from dpg import artifacts
from dpg.errors import DpgError
from dpg.generators import remote
from dpg.generators.advantages import group_advantages
from dpg.generators.jax.policy import JaxGenerator
from dpg.generators.jax.update import response_logprobs
from dpg.generators.prompts import prompts_of
from dpg.generators.trl import engine, settings
from dpg.generators.trl.run import WHOLE, checkpoint_of
from dpg.models import LanguageModel, load, save
from dpg.models.decode import Rollouts
from dpg.rewards.protocol import RewardError
from dpg.run_folder import RunFolder, RunState

SCRIPT = Path(__file__).with_name("trl_script.py")
ENVIRONMENT = environment_of("trl")
needs_trl = needs("trl", 900)  # up to three runs with TRL; one takes half a minute


@pytest.fixture(scope="module")
def study(world):
    return scale(world, "trl", "trl")


@pytest.fixture(scope="module")
def runs(world):
    return Runs(engine, world)


@needs_trl
@pytest.mark.parametrize(
    ("experiment", "variant"), [("sixseven", "adam-T4"), ("lambada-es", "adam")]
)
def test_two_steps_with_trl(world, study, runs, tmp_path, experiment, variant):
    run = study.run(experiment, variant, 0)
    told = []
    runs.make(study, run, tmp_path, seconds=600, on_step=lambda *what: told.append(what))
    assert [step for step, _ in told] == [1, 2]
    check_two_steps(world, run, tmp_path, ("loss", "gradient_norm", "logprob"))
    assert artifacts.read_json(tmp_path / "run.json")["engine"] == "trl"


# --- rollouts and rewards as given ----------------------------------------------------------------


def changed(run, **values):
    """The run with some settings of its generator changed, those of the optimizer among them."""
    optimizer = run.generator.optimizer.model_copy(update=values.pop("optimizer", {}))
    generator = run.generator.model_copy(update=values | {"optimizer": optimizer})
    return run.model_copy(update={"generator": generator})


class Given:
    """A folder for `trl_script.py`: a run with rewards, and where wanted rollouts, as given."""

    def __init__(self, world, run, folder, processes=1, *, rollouts=True):
        self.run, self.folder = run, folder
        inputs = world.inputs(run)
        self.model, self.params, self.tokenizer = load(inputs.generator)
        self.prompts = prompts_of(run, inputs.articles, self.tokenizer, "train")
        unseen = prompts_of(run, inputs.articles, self.tokenizer, "validation")
        self.state = RunState(folder / "state")
        self.state.path.mkdir(parents=True)
        self.shape = settings.shape_of(run, processes)
        self.order = remote.prompt_order(run, len(self.prompts.articles))
        remote.write_prompts(self.state.prompts, self.prompts, self.order)
        places = np.arange(len(unseen.articles))
        remote.write_prompts(self.state.validation_prompts, unseen, places)
        told = engine.described(
            run, self.shape, self.state, inputs.generator, self.tokenizer, gpus=0
        )
        told.write(self.state.worker)
        rng = np.random.default_rng(0)
        G, R = run.generator.group_size, run.generator.response_tokens
        count = len(self.order)
        self.lengths = rng.integers(2, R + 1, (count, G))
        self.tokens = rng.integers(5, self.tokenizer.vocab_size, (count, G, R)).astype(np.int32)
        for place, member in np.ndindex(count, G):
            if self.lengths[place, member] < R:  # a response that ends has its end of text
                self.tokens[place, member, self.lengths[place, member] - 1] = self.tokenizer.eos_id
        self.rewards = 1e-9 * rng.normal(0, 1, (count, G))
        self.arrays = {"rewards": self.rewards}
        if rollouts:
            self.arrays |= {"tokens": self.tokens, "lengths": self.lengths}

    def start(self, **popen):
        """Start the script, with torchrun where it takes several processes."""
        safetensors.numpy.save_file(self.arrays, self.folder / "given.safetensors")
        command = [str(ENVIRONMENT / "bin" / "python")]
        if self.shape.processes > 1:
            command += ["-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1"]
            command += [f"--nproc-per-node={self.shape.processes}"]
        command += [str(SCRIPT), str(self.state.worker)]
        command += [str(self.folder / name) for name in ("given.safetensors", "new.safetensors")]
        environment = engine.worker_environment(self.state, gpus=0)
        return subprocess.Popen(command, env=environment, cwd=self.folder, **popen)

    def train(self):
        """Train; returns the weights by name, and the numbers of every step's update."""
        process = self.start()
        assert process.wait(600) == 0
        return safetensors.numpy.load_file(self.folder / "new.safetensors"), self.numbers()

    def numbers(self):
        steps = range(self.shape.steps)
        return [artifacts.read_json(self.state.numbers("update", step)) for step in steps]

    def by_jax(self):
        """The same steps by the JAX engine: its parameters, and the numbers of its updates."""
        generator = JaxGenerator(
            self.model, self.params, self.run.generator, self.tokenizer.eos_ids
        )
        U, G, R = self.run.prompts_per_step, *self.tokens.shape[1:]
        found = []
        for step in range(self.shape.steps):
            rows = slice(step * U, (step + 1) * U)
            prompts = self.prompts.take(self.order[rows])
            tokens = self.tokens[rows].reshape(U * G, R)
            mask = np.arange(R) < self.lengths[rows].reshape(-1, 1)
            old = response_logprobs(
                self.model,
                generator.params,
                prompts.tokens,
                prompts.mask,
                tokens,
                self.run.generator.temperature,
            )
            rollouts = Rollouts(tokens, mask, np.asarray(old))
            advantages = group_advantages(
                self.rewards[rows].reshape(-1),
                np.repeat(np.arange(U), G),
                self.run.generator.advantage_eps,
            )
            rate = self.run.generator.rate(step)
            log = generator.update(
                prompts.tokens, prompts.mask, rollouts, advantages, f"step {step}", rate
            )
            found.append(log._asdict())
        return generator.params, found

    def trained(self):
        """The last checkpoint, read as the engine reads it."""
        last = checkpoint_of(self.state.checkpoints, self.shape.steps * self.shape.updates)
        return load(last)[1]


def largest_difference(one, other):
    """Over all leaves of two trees."""
    return max(
        float(np.abs(np.asarray(a, np.float64) - np.asarray(b, np.float64)).max())
        for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    )


def relative_difference(one, other, start):
    """The norm of the difference of two trained trees, over the norm of what training changed."""

    def norm(a, b):
        pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
        squares = (
            np.square(np.asarray(x, np.float64) - np.asarray(y, np.float64)) for x, y in pairs
        )
        return float(np.sqrt(sum(square.sum() for square in squares)))

    return norm(one, other) / norm(one, start)


SETTINGS = {
    "responses": {"loss_mean": "responses"},
    "tokens": {"loss_mean": "tokens", "dual_clip": 1.3, "schedule": "linear"},
    "tokens in microbatches": {"loss_mean": "tokens", "update_microbatch": 2},
    "tokens of some rollouts": {"loss_mean": "tokens", "loss_rollouts": 4, "dual_clip": None},
}
# A larger epsilon than the usual: where a gradient is nearly zero, Adam's step is its rounding.
SMOOTH = {"epochs": 2, "learning_rate": 0.01, "optimizer": {"eps": 1e-3}}


@needs_trl
@pytest.mark.parametrize("name", SETTINGS)
def test_loss_and_update_are_those_of_the_jax_engine(world, study, tmp_path, name):
    """In float32, as both are used; what differs is the rounding of two programs."""
    run = changed(study.run("sixseven", "adam-T4", 0), **SMOOTH | SETTINGS[name])
    given = Given(world, run, tmp_path)
    _, theirs = given.train()
    params, ours = given.by_jax()
    compare(ours, theirs, 1e-5)
    moved = largest_difference(params, given.params)
    assert moved > 0.02
    assert relative_difference(params, given.trained(), given.params) < 3e-5


def compare(ours, theirs, tolerance):
    """The numbers of both steps of both engines; the clip is active."""
    assert len(ours) == len(theirs) == 2
    for one, other in zip(ours, theirs, strict=True):
        assert one["clip_fraction"] > 0.02
        for key, value in one.items():
            assert other[key] == pytest.approx(value, rel=tolerance, abs=tolerance), key


@needs_trl
@pytest.mark.parametrize("name", ["responses", "tokens"])
def test_two_processes_train_as_one(world, study, tmp_path, name):
    run = changed(study.run("sixseven", "adam-T4", 0), **SMOOTH | SETTINGS[name])
    one, two = (Given(world, run, tmp_path / str(count), count) for count in (1, 2))
    weights, numbers = one.train()
    shared, theirs = two.train()
    assert set(weights) == set(shared)
    for key, value in weights.items():
        np.testing.assert_allclose(shared[key], value, atol=1e-5, err_msg=key)
    for here, there in zip(numbers, theirs, strict=True):
        assert there == pytest.approx(here, rel=1e-5, abs=1e-5)
    for step in range(2):
        here, there = (artifacts.read_json(x.state.numbers("reward", step)) for x in (one, two))
        assert here == there


# --- runs that are cut off, and what ends them ----------------------------------------------------


@needs_trl
@pytest.mark.parametrize("processes", [1, 2])
def test_a_killed_trainer_goes_on_to_the_same_bytes(world, study, tmp_path, wait_until, processes):
    run = study.run("sixseven", "adam-T4", 0)
    run = changed(run, grpo_steps=4)
    whole, killed = (
        Given(world, run, tmp_path / name, processes, rollouts=False) for name in ("a", "b")
    )
    expected, _ = whole.train()
    process = killed.start(start_new_session=True)
    mark = checkpoint_of(killed.state.checkpoints, 2 * killed.shape.updates) / WHOLE
    wait_until(mark.exists, 300, process)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert not (killed.folder / "new.safetensors").exists()
    found, _ = killed.train()
    assert set(found) == set(expected)
    for name, value in expected.items():
        assert found[name].tobytes() == value.tobytes(), name
    for path in sorted((whole.state.path / "steps").iterdir()):
        assert (killed.state.path / "steps" / path.name).read_bytes() == path.read_bytes()


@needs_trl
def test_a_reward_that_is_not_finite_ends_every_rank_with_its_own_words(world, study, tmp_path):
    run = study.run("sixseven", "adam-T4", 0)
    given = Given(world, run, tmp_path, 2)
    given.arrays["rewards"] = given.rewards.copy()
    given.arrays["rewards"][-1, 0] = np.nan  # of the second step
    process = given.start(stderr=subprocess.PIPE, text=True)
    log = process.communicate(timeout=600)[1]
    assert process.returncode == 1
    words = "step 1: the metagradients are not finite, says the test"
    assert log.count(f"RewardError: {words}") >= 2  # of both ranks
    assert artifacts.read_json(given.state.failure)["message"] == words
    assert checkpoint_of(given.state.checkpoints, given.shape.updates).exists()


@needs_trl
def test_a_killed_run_goes_on_to_the_same_numbers(study, runs, tmp_path, wait_until):
    run = study.run("sixseven", "adam-T4", 0)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    runs.make(study, run, whole)
    shape = settings.shape_of(run, 1)
    mark = checkpoint_of(RunFolder(killed).state.checkpoints, shape.updates) / WHOLE
    runs.killed(study, run, killed, mark, wait_until)
    runs.make(study, run, killed)
    assert_same_run(killed, whole)


@needs_trl
def test_a_reward_server_that_is_killed_ends_the_run_with_its_log(world, runs, tmp_path):
    changes = {"grpo_steps: 5": "grpo_steps: 40", "every: 2": "every: 40"}
    study = scale(world, "trl", "longer", **changes)
    runs.without_its_reward_server(study, study.run("lambada-es", "adam", 0), tmp_path)


@needs_trl
def test_two_processes_make_a_run(study, runs, tmp_path):
    run = study.run("sixseven", "adam-T4", 0)
    runs.make(study, run, tmp_path, processes=2, seconds=600)
    log = artifacts.read_lines(tmp_path / "metrics.jsonl")
    assert len(log) == 5
    assert artifacts.read_json(tmp_path / "run.json")["engine"] == "trl"


@needs_trl
def test_two_machines_make_the_run_of_two_processes_on_one(study, runs, tmp_path, monkeypatch):
    """Two torchruns of one process each, joined as on two machines: the same bytes."""
    run = study.run("sixseven", "adam-T4", 0)
    one, two = tmp_path / "one", tmp_path / "two"
    runs.make(study, run, one, processes=2, seconds=600)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        master = f"127.0.0.1:{probe.getsockname()[1]}"
    monkeypatch.setenv("DPG_MASTER", master)
    state = RunFolder(two).state
    link = state.path / "python" / "dpg"
    second = [str(ENVIRONMENT / "bin" / "python"), "-m", "dpg.generators.trl.launch"]
    second += [str(state.worker), "--node", "1", "--master", master]
    there = []

    def start_the_second():
        while not link.exists():
            time.sleep(0.2)
        variables = engine.worker_environment(RunState(tmp_path / "elsewhere"), gpus=0)
        there.append(subprocess.Popen(second, env=variables))

    thread = threading.Thread(target=start_the_second, daemon=True)
    thread.start()
    runs.make(study, run, two, nodes=2, seconds=600)
    thread.join(60)
    assert there[0].wait(60) == 0
    assert_same_run(two, one)


@needs_trl
def test_a_rank_that_dies_is_named(study, runs, tmp_path, monkeypatch):
    """Rank 1 kills itself when it is started, as the system does for want of memory."""
    fake = tmp_path / "site"
    fake.mkdir()
    (fake / "sitecustomize.py").write_text(
        "import os, signal\nif os.environ.get('RANK') == '1': os.kill(os.getpid(), signal.SIGKILL)"
    )
    plain = engine.worker_environment

    def with_site(state, gpus):
        found = plain(state, gpus)
        return found | {"PYTHONPATH": f"{found['PYTHONPATH']}:{fake}"}

    monkeypatch.setattr(engine, "worker_environment", with_site)
    run = study.run("lambada-es", "adam", 0)
    with pytest.raises(engine.TrlError, match=r"status 1: rank 1 ended by signal 9"):
        runs.make(study, run, tmp_path / "run", processes=2)


@needs_trl
def test_tokens_that_the_tokenizer_does_not_know_are_an_error(world, study, tmp_path):
    """A model whose vocabulary is larger than its tokenizer's, as padded ones are."""
    model, _, tokenizer = load(world.root / "llama")
    wide = dataclasses.replace(model.config, vocab_size=4 * tokenizer.vocab_size)
    model = LanguageModel(wide)
    save(tmp_path / "wide", model, model.init(jax.random.key(0)), tokenizer)
    run = study.run("lambada-es", "adam", 0)
    inputs = dataclasses.replace(world.inputs(run), generator=tmp_path / "wide")
    folder = RunFolder(tmp_path / "run")
    with pytest.raises(RewardError, match=r"step 0: .*tokens that the tokenizer does not know"):
        engine.run_generator(
            run, inputs, folder, config=study.path, gpus=0, environment=ENVIRONMENT
        )


# --- without TRL ----------------------------------------------------------------------------------


def test_a_missing_environment_is_named(study, runs, tmp_path):
    run = study.run("sixseven", "adam-T4", 0)
    with pytest.raises(DpgError, match=r"nowhere/bin/python.*dpg environment trl"):
        runs.make(study, run, tmp_path, environment=tmp_path / "nowhere")
    assert not RunFolder(tmp_path).state.path.exists()


def test_trls_processes_see_of_our_packages_this_one_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    monkeypatch.setenv("RANK", "3")
    monkeypatch.setenv("ACCELERATE_USE_FSDP", "true")
    found = engine.worker_environment(RunState(tmp_path), gpus=0)
    assert found["PYTHONPATH"] == str(tmp_path / "python")
    assert [path.name for path in (tmp_path / "python").iterdir()] == ["dpg"]
    assert not {"RANK", "ACCELERATE_USE_FSDP"} & set(found)
    assert found["HF_HUB_DISABLE_TELEMETRY"] == found["HF_HUB_OFFLINE"] == "1"
    assert found["OMP_NUM_THREADS"] == "1"
