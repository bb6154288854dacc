"""The whole of a verl run: what surrounds it, and, where its environment is, verl itself.

The environment is looked for in `.environments/verl-<digest of its lock>`, or where
DPG_VERL_ENVIRONMENT says.
"""

import json
import subprocess
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy
from engine_runs import Runs, assert_same_run, check_two_steps, environment_of, needs, scale

from dpg import artifacts, config, environments
from dpg.errors import DpgError
from dpg.generators import remote, sampling
from dpg.generators.advantages import group_advantages
from dpg.generators.engine import MIN_TOKENS
from dpg.generators.jax.grpo import policy_loss, token_weights
from dpg.generators.verl import engine, overrides
from dpg.models import LanguageModel, save
from dpg.models.llama import LlamaConfig
from dpg.run_folder import RunFolder, RunState

ENVIRONMENT = environment_of("verl")
SCRIPT = Path(__file__).with_name("verl_script.py")

needs_easydel = pytest.mark.skipif(
    not environments.python_of("easydel").exists(),
    reason="no environment of EasyDeL: `dpg environment easydel` makes it",
)


needs_verl = needs("verl", 1800)  # up to three runs with verl; one takes four minutes at worst


@pytest.fixture(scope="module")
def study(world):
    return scale(world, "verl", "verl")


@pytest.fixture(scope="module")
def runs(world):
    return Runs(engine, world)


def test_prompts_are_those_of_the_jax_engine(study):
    run = study.run("sixseven", "adam-T4", 0)
    order = remote.prompt_order(run, 40)
    for step in range(2):
        expected = sampling.prompt_indices(40, run.prompts_per_step, step, seed=0)
        size = run.prompts_per_step
        assert order[step * size : (step + 1) * size].tolist() == expected.tolist()


def test_a_missing_environment_is_named(study, runs, tmp_path):
    run = study.run("sixseven", "adam-T4", 0)
    with pytest.raises(DpgError, match=r"nowhere/bin/python.*dpg environment verl"):
        runs.make(study, run, tmp_path, environment=tmp_path / "nowhere")
    assert not RunFolder(tmp_path).state.path.exists()


def test_verls_processes_see_of_our_packages_this_one_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", "/elsewhere")
    found = engine.worker_environment(RunState(tmp_path), gpus=0)
    assert found["PYTHONPATH"] == str(tmp_path / "python")
    assert [path.name for path in (tmp_path / "python").iterdir()] == ["dpg"]
    assert (tmp_path / "python" / "dpg" / "generators" / "verl" / "worker.py").exists()
    assert found["OMP_NUM_THREADS"] == "1"


def test_the_log_is_put_together_in_the_order_of_events(study, tmp_path):
    run = study.run("sixseven", "adam-T4", 0)
    state = RunFolder(tmp_path).state
    under_way = remote.UnderWay.open(run, state, {"prompts": "0" * 64}, engine.TRAINER)
    for step in range(2):
        for kind in ("reward", "update"):
            artifacts.write_json(state.numbers(kind, step), {kind: step})
    for step in range(3):
        artifacts.write_json(state.numbers("validation", step), {"metric": -step})
    assert under_way.updates() == 2
    assert list(under_way.lines()) == [
        {"step": 0, "phase": "validation", "metric": 0},
        {"step": 0, "phase": "train", "reward": 0, "update": 0},
        {"step": 1, "phase": "validation", "metric": -1},
        {"step": 1, "phase": "train", "reward": 1, "update": 1},
        {"step": 2, "phase": "validation", "metric": -2},
    ]


# --- with verl -----------------------------------------------------------------------------------


@pytest.fixture
def by_verl(tmp_path):
    """Runs a function of the script in verl's environment; our package is found as in a run."""
    found = engine.worker_environment(RunState(tmp_path / "worker"), gpus=0)

    def run(what, *arguments):
        command = [str(ENVIRONMENT / "bin" / "python"), str(SCRIPT), what, *map(str, arguments)]
        subprocess.run(command, check=True, timeout=600, env=found)

    def parity(given, mode="token-mean", rows="", norm="true"):
        safetensors.numpy.save_file(given, tmp_path / "given.safetensors")
        paths = (tmp_path / "given.safetensors", tmp_path / "found.safetensors")
        run("parity", *paths, mode, rows, norm)
        return safetensors.numpy.load_file(paths[1])

    run.parity = parity
    return run


def some_rollouts():
    """What the script takes, and of it the mask, the old and the new log-probabilities."""
    rng = np.random.default_rng(0)
    N, R = 32, 12
    lengths = rng.integers(2, R + 1, N)
    mask = np.arange(R) < lengths[:, None]
    groups = np.repeat(np.arange(N // 4), 4)
    rewards = rng.normal(0, 1, N)
    advantages = group_advantages(rewards, groups, 1e-6)
    old = -rng.exponential(2, (N, R)).astype(np.float32)
    new = (old + rng.normal(0, 0.4, (N, R))).astype(np.float32)  # many ratios beyond both clips
    given = {
        "rewards": rewards,
        "groups": groups,
        "mask": mask,
        "eps": np.array(1e-6),
        "advantages": advantages.astype(np.float32),
        "old_logprobs": old,
        "logprobs": new,
    }
    return given, mask, old, new


@needs_verl
def test_advantages_and_loss_equal_verls_own(by_verl):
    given, mask, old, new = some_rollouts()
    advantages = group_advantages(given["rewards"], given["groups"], 1e-6)
    found = by_verl.parity(given)

    def loss(logprobs):
        ours = policy_loss(
            logprobs, jnp.array(old), jnp.array(advantages, jnp.float32), jnp.array(mask)
        )
        return ours.loss, ours

    gradient, ours = jax.grad(loss, has_aux=True)(jnp.array(new))
    np.testing.assert_allclose(advantages, found["advantages"], rtol=1e-5, atol=1e-6)
    assert 0.05 < float(ours.clip_fraction) < 0.95
    for name in ("loss", "clip_fraction", "approximate_kl"):
        assert float(getattr(ours, name)) == pytest.approx(found[name].item(), rel=1e-5), name
    np.testing.assert_allclose(gradient, found["gradient"], rtol=1e-5, atol=1e-8)


@needs_verl
@pytest.mark.parametrize(("eps", "deviation"), [(1e-6, 1e-3), (0.0, 1.0)])
def test_the_update_sees_the_advantages_that_the_epsilon_asks_for(
    by_verl, tmp_path, eps, deviation
):
    """Rewards of 1e-9 through verl's own function, as each reading's overrides have it called."""
    N = 256
    groups = np.repeat(np.arange(N // 4), 4)
    ours = group_advantages(1e-9 * np.random.default_rng(1).normal(0, 1, N), groups, eps)
    given = {
        "rewards": ours.astype(np.float32),
        "groups": groups,
        "mask": np.ones((N, 3), bool),
        "eps": np.array(1e-6),
        "advantages": np.zeros(N, np.float32),
        "old_logprobs": np.zeros((N, 3), np.float32),
        "logprobs": np.zeros((N, 3), np.float32),
    }
    paths = overrides.Paths(*(tmp_path / name for name in ("m", "prompts", "val", "checks")))
    seen = {}
    for reading in ("text", "code"):
        run = config.load("config/paper.yaml", reading=reading).run("lambada-es", "adam", 0)
        told = overrides.settings(run, paths, gpus=8)
        norm = told["algorithm.norm_adv_by_std_in_grpo"]
        seen[reading] = by_verl.parity(given, norm=str(norm).lower())["advantages"]
        np.testing.assert_allclose(seen[reading], ours, rtol=1e-4, atol=1e-6 * deviation)
        assert 0.7 * deviation < seen[reading].std() < 1.1 * deviation
    # Normalised a second time they would have a standard deviation of about 1, whatever is set.
    twice = by_verl.parity(given, norm="true")["advantages"]
    assert 0.7 < twice.std() < 1.1


@needs_verl
@pytest.mark.parametrize(
    ("loss_mean", "loss_rollouts", "mode", "rows"),
    [
        ("responses", None, "seq-mean-token-mean", ""),
        ("responses", None, "seq-mean-token-mean", 8),
        ("tokens", 4, "token-mean", 4),
    ],
)
def test_the_mean_of_the_loss_equals_verls_own(
    by_verl, tmp_path, loss_mean, loss_rollouts, mode, rows
):
    given, mask, old, new = some_rollouts()
    found = by_verl.parity(given, mode, rows)
    weights = token_weights(jnp.array(mask), loss_mean, loss_rollouts)

    def loss(logprobs):
        advantages = jnp.array(given["advantages"])
        return policy_loss(
            logprobs, jnp.array(old), advantages, jnp.array(mask), weights=weights
        ).loss

    value, gradient = jax.value_and_grad(loss)(jnp.array(new))
    assert float(value) == pytest.approx(found["loss"].item(), rel=1e-5)
    np.testing.assert_allclose(gradient, found["gradient"], rtol=1e-5, atol=1e-8)


@needs_verl
def test_rollouts_are_those_of_the_policy_that_is_trained(by_verl, tmp_path):
    # Weights well above the usual, so that a token's position decides what follows it.
    model = LanguageModel(LlamaConfig(64, 32, 2, 4, 2, 8, 64, 64, eos_id=0))
    params = jax.tree.map(lambda x: 8 * x, model.init(jax.random.key(0)))
    save(tmp_path / "model", model, params)
    rng = np.random.default_rng(0)
    P, R, N = 6, 12, 16
    mask = np.arange(P) >= rng.integers(0, P, N)[:, None]
    prompts = np.where(mask, rng.integers(1, 64, (N, P)), 0).astype(np.int32)
    given = {"prompts": prompts, "mask": mask, "length": np.array(R)}
    safetensors.numpy.save_file(given, tmp_path / "given.safetensors")
    by_verl("sample", *(tmp_path / x for x in ("model", "given.safetensors", "found.safetensors")))
    tokens = safetensors.numpy.load_file(tmp_path / "found.safetensors")["tokens"]
    assert tokens.shape == (N, R)  # one answer a prompt: the trainer has repeated the prompts
    before = np.cumsum(tokens == 0, 1) == 0  # a response's own tokens, before its end
    both = np.concatenate([prompts, tokens], 1)
    logits = model.logits(params, both, np.concatenate([mask, np.ones_like(before)], 1))
    logits = np.array(logits)[:, P - 1 : -1]
    logits[..., 0] = np.where(np.arange(R) < MIN_TOKENS, -np.inf, logits[..., 0])
    lost = logits.max(-1) - np.take_along_axis(logits, tokens[..., None], -1)[..., 0]
    assert np.ptp(logits[np.isfinite(logits)]) > 5
    assert lost[before].max() < 0.2  # verl computes in half precision: near ties may differ


@needs_verl
def test_the_papers_runs_pass_verls_own_checks(by_verl, tmp_path):
    paths = overrides.Paths(*(tmp_path / name for name in ("m", "prompts", "val", "checks")))
    wanted = {
        f"{reading}/{run.path}": overrides.settings(run, paths, gpus=8)
        for reading in ("text", "code")
        for run in config.load("config/paper.yaml", reading=reading).runs
    }
    source, result = tmp_path / "runs.json", tmp_path / "composed.json"
    source.write_text(json.dumps({k: overrides.overrides(v) for k, v in wanted.items()}))
    by_verl("compose", source, result)
    composed = json.loads(result.read_text())
    assert set(composed) == set(wanted)
    for name, values in wanted.items():
        for key, value in values.items():
            found = composed[name]
            for part in key.lstrip("+").split("."):
                found = found[part]
            assert found == value, (name, key)


def targets_in_easydel(world, study):
    text = study.path.read_text()
    assert text.count("  learner:\n") == 1
    path = world.root / "verl-easydel.yaml"
    path.write_text(text.replace("  learner:\n", "  learner:\n    implementation: easydel\n"))
    return config.load(path)


@needs_verl
@pytest.mark.parametrize("implementation", ["native", pytest.param("easydel", marks=needs_easydel)])
@pytest.mark.parametrize(
    ("experiment", "variant"), [("sixseven", "adam-T4"), ("lambada-es", "adam")]
)
def test_two_steps_with_verl(world, study, runs, tmp_path, experiment, variant, implementation):
    if implementation == "easydel":
        study = targets_in_easydel(world, study)
    run = study.run(experiment, variant, 0)
    runs.make(study, run, tmp_path, seconds=900)
    check_two_steps(world, run, tmp_path, ("loss", "gradient_norm"))


OWN_VALUES = """
    advantage_eps: 0.0
    loss_mean: tokens
  learner:
    batch_size: 8
    learning_rate: 1e-3
    example_length: response
    order: prompts
    order_seed: null
"""


@needs_verl
@pytest.mark.parametrize(
    ("reading", "experiment", "variant"),
    [
        ("text", "lambada-es", "adam"),
        ("code", "lambada-es", "adam"),
        ("code", "sixseven", "adam-T4"),
    ],
)
def test_two_steps_of_each_reading(world, study, runs, tmp_path, reading, experiment, variant):
    """A tiny model, and every value of the reading but the number of microbatches."""
    text = study.path.read_text()
    assert OWN_VALUES in text
    parts = "\n    microbatches: 4" if reading == "code" else ""
    values = f"\n  learner:\n    batch_size: 8\n    learning_rate: 1e-3{parts}\n"
    text = text.replace(OWN_VALUES, values).replace("engine:", f"reading: {reading}\nengine:")
    path = world.root / f"verl-{reading}.yaml"
    path.write_text(text)
    own = config.load(path)
    run = own.run(experiment, variant, 0)
    assert run.generator.advantage_eps == 1e-6
    assert run.learner.loss == {"text": "own_tokens", "code": "all_positions"}[reading]
    runs.make(own, run, tmp_path, seconds=900)
    log = artifacts.read_lines(tmp_path / "metrics.jsonl")
    train = [line for line in log if line["phase"] == "train"]
    assert [line["step"] for line in train] == [0, 1]
    for line in train:
        assert line["reward_std"] > 0
        assert line["informative"] > 0.9
        assert np.isfinite(line["loss"])
        assert 0 < line["gradient_norm"] < np.inf
    assert all(np.isfinite(line["metric"]) for line in log if line["phase"] == "validation")


@needs_verl
def test_a_killed_run_goes_on_to_the_same_numbers(study, runs, tmp_path, wait_until):
    run = study.run("sixseven", "adam-T4", 0)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    runs.make(study, run, whole)
    named = RunFolder(killed).state.checkpoints / "latest_checkpointed_iteration.txt"
    runs.killed(study, run, killed, named, wait_until)
    assert named.read_text() == "1"
    runs.make(study, run, killed)
    assert_same_run(killed, whole)


@needs_verl
def test_a_reward_server_that_is_killed_ends_the_run_with_its_log(world, runs, tmp_path):
    # Steps take milliseconds and the engine looks twice a second: more of them, to be amid them.
    changes = {"grpo_steps: 5": "grpo_steps: 12", "every: 2": "every: 12"}
    study = scale(world, "verl", "longer", **changes)
    run = study.run("lambada-es", "adam", 0)
    runs.without_its_reward_server(study, run, tmp_path)
    runs.make(study, run, tmp_path, seconds=900)
    log = artifacts.read_lines(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in log if line["phase"] == "train"] == list(range(12))
