"""A run's rewards from another process are those of this one, to the last bit."""

import os
import subprocess
import sys

import numpy as np
import pytest

from dpg import artifacts
from dpg.generators.reward_service import body_limit, check_tokens, in_order
from dpg.generators.run import build_judge, prompts
from dpg.generators.validation import assess
from dpg.models import Tokenizer
from dpg.rewards import exchange
from dpg.rewards.client import RewardClient, RewardServerError
from dpg.rewards.protocol import RewardError, RolloutBatch

pytestmark = pytest.mark.integration

RUN = ("sixseven", "adam-T4", 0)


def rollouts(run, vocabulary: int, step: int, *, validation: bool = False) -> RolloutBatch:
    rng = np.random.default_rng(step)
    count = run.validation_prompts if validation else run.rollouts_per_step
    tokens = rng.integers(1, vocabulary, (count, run.generator.response_tokens), dtype=np.int32)
    lengths = rng.integers(2, run.generator.response_tokens + 1, count)
    mask = np.arange(run.generator.response_tokens) < lengths[:, None]
    groups = np.arange(count) if validation else np.arange(count) // run.generator.group_size
    return RolloutBatch(tokens, mask, groups, step)


class Service:
    """`dpg reward-server` in a process of its own."""

    def __init__(self, world, folder):
        self.run = world.study.run(*RUN)
        self.file, self.out = folder / "rewards.json", folder / "progress"
        paths = world.keywords(self.run)
        self.paths = paths
        options = [x for name, path in paths.items() for x in (f"--{name}", str(path))]
        experiment, variant, _ = RUN
        self.command = [
            *(sys.executable, "-m", "dpg", "reward-server", "-c", str(world.root / "test.yaml")),
            *("--experiment", experiment, "--variant", variant, *options),
            *("--connection", str(self.file), "--out", str(self.out), "--with-parent"),
        ]
        self.log = folder / "log"
        self.start()

    def start(self):
        environment = {**os.environ, "NPROC": "1"}
        with self.log.open("a") as log:
            self.process = subprocess.Popen(self.command, stderr=log, env=environment)
        RewardClient(self.file, patience=180).health()

    def kill(self):
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def service(world, tmp_path_factory):
    one = Service(world, tmp_path_factory.mktemp("service"))
    yield one
    one.kill()


@pytest.fixture(scope="module")
def judge(world):
    run = world.study.run(*RUN)
    paths = world.keywords(run)
    tokenizer = Tokenizer.load(paths["generator"])
    return build_judge(run, tokenizer, target=paths["target"], passages=paths["passages"])


def test_rewards_are_those_of_this_process_at_every_call(service, judge):
    client = RewardClient(service.file)
    for step in (0, 1, 0):  # the third finds the target as the first did
        batch = rollouts(service.run, 300, step)
        here, there = judge.reward(batch), client(batch)
        np.testing.assert_array_equal(there.values, here.values)
        np.testing.assert_array_equal(there.groups, here.groups)
        assert there.log == here.log
        assert np.ptp(there.values) > 0


def test_a_validation_is_that_of_the_other_engine_in_whatever_order_it_comes(service, judge):
    run = service.run
    batch = rollouts(run, 300, 2, validation=True)
    tokenizer = Tokenizer.load(service.paths["generator"])
    asked = prompts(run, service.paths["articles"], tokenizer, "validation")
    here = assess(run, batch, tokenizer, asked, judge.examples, judge.target)
    mixed = np.random.default_rng(0).permutation(len(batch))
    shuffled = RolloutBatch(batch.tokens[mixed], batch.mask[mixed], batch.groups[mixed], 2)
    assert RewardClient(service.file).validate(shuffled).log == here.record
    table = artifacts.read_table(service.out / "validation-000002.parquet")
    assert table.response.tolist() == here.rollouts.response.tolist()
    assert artifacts.read_json(service.out / "image-000002.json") == here.image.tolist()


def test_rollouts_of_another_generator_are_refused(service):
    batch = rollouts(service.run, 300, 3)
    batch.tokens[5, 0] = 70_000
    with pytest.raises(RewardError, match=r"step 3: rollouts \[5\] .*such as 70000"):
        RewardClient(service.file)(batch)
    short = rollouts(service.run, 300, 3, validation=True)
    short = RolloutBatch(short.tokens[:-1], short.mask[:-1], short.groups[:-1], 3)
    with pytest.raises(RewardError, match="one response to each of 32 prompts, got 31"):
        RewardClient(service.file).validate(short)


@pytest.mark.slow
def test_a_server_killed_between_two_steps_and_started_again_changes_no_reward(
    world, judge, tmp_path
):
    service = Service(world, tmp_path)
    try:
        run = service.run
        RewardClient(service.file)(rollouts(run, 300, 0))
        service.kill()
        with pytest.raises(RewardServerError, match="step 1, train: no answer"):
            RewardClient(service.file, patience=1)(rollouts(run, 300, 1))
        service.start()
        batch = rollouts(run, 300, 1)
        found = RewardClient(service.file, patience=60)(batch)
        np.testing.assert_array_equal(found.values, judge.reward(batch).values)
    finally:
        service.kill()


def test_a_token_beyond_the_vocabulary_is_found_where_it_counts(world):
    tokenizer = Tokenizer.load(world.root / "llama")
    batch = rollouts(world.study.run(*RUN), 300, 0)
    batch.tokens[~batch.mask] = -1  # padding is of no meaning
    check_tokens(batch, tokenizer)
    batch.tokens[3, 0] = tokenizer.vocab_size
    with pytest.raises(RewardError, match=r"step 0: rollouts \[3\]"):
        check_tokens(batch, tokenizer)


def test_two_responses_to_one_prompt_are_no_validation():
    tokens, mask = np.ones((4, 2), np.int32), np.ones((4, 2), bool)
    ordered = in_order(RolloutBatch(tokens, mask, np.array([3, 1, 0, 2]), 0), 4)
    assert ordered.groups.tolist() == [0, 1, 2, 3]
    with pytest.raises(RewardError, match="got 4 to 3 prompts"):
        in_order(RolloutBatch(tokens, mask, np.array([0, 1, 1, 2]), 0), 4)


def test_the_limit_holds_a_step_of_the_paper():
    from dpg import config

    run = config.load("config/paper.yaml").run("sixseven", "adam-T96", 0)
    size = len(exchange.pack_call("train", rollouts(run, 300, 0)))
    assert 98_304 * 128 * 5 < size <= body_limit(run) < 1.1 * size
