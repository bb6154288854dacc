"""A run's rewards from another process are those of this one, to the last bit."""

import os
import subprocess
import sys

import numpy as np
import pytest

from dpg import artifacts
from dpg.generators.prompts import prompts_of
from dpg.generators.reward_service import body_limit, in_order
from dpg.generators.scorer import build_scorer
from dpg.generators.validation import assess
from dpg.models import Tokenizer
from dpg.rewards import exchange
from dpg.rewards.client import RewardClient, RewardServerError
from dpg.rewards.examples import check_tokens
from dpg.rewards.protocol import RewardError, RolloutBatch
from dpg.run_folder import RunFolder

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
        self.file, self.folder = folder / "rewards.json", RunFolder(folder / "run")
        self.inputs = world.inputs(self.run)
        options = world.options(self.run)
        experiment, variant, _ = RUN
        self.command = [
            *(sys.executable, "-m", "dpg", "reward-server", "-c", str(world.root / "test.yaml")),
            *("--experiment", experiment, "--variant", variant, *options),
            *("--connection", str(self.file), "--out", str(self.folder.path), "--with-parent"),
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
def scorer(world):
    run = world.study.run(*RUN)
    inputs = world.inputs(run)
    return build_scorer(run, Tokenizer.load(inputs.generator), inputs)


def test_rewards_are_those_of_this_process_at_every_call(service, scorer):
    client = RewardClient(service.file)
    for step in (0, 1, 0):  # the third finds the target as the first did
        batch = rollouts(service.run, 300, step)
        here, there = scorer.reward(batch), client(batch)
        np.testing.assert_array_equal(there.values, here.values)
        np.testing.assert_array_equal(there.groups, here.groups)
        assert there.log == here.log
        assert np.ptp(there.values) > 0


def test_a_validation_is_that_of_the_other_engine_in_whatever_order_it_comes(service, scorer):
    run = service.run
    batch = rollouts(run, 300, 2, validation=True)
    tokenizer = Tokenizer.load(service.inputs.generator)
    prompts = prompts_of(run, service.inputs.articles, tokenizer, "validation")
    here = assess(run, batch, tokenizer, prompts, scorer)
    mixed = np.random.default_rng(0).permutation(len(batch))
    shuffled = RolloutBatch(batch.tokens[mixed], batch.mask[mixed], batch.groups[mixed], 2)
    assert RewardClient(service.file).validate(shuffled).log == here.record
    table = artifacts.read_table(service.folder.state.validation(2))
    assert table.response.tolist() == here.rollouts.response.tolist()
    assert artifacts.read_json(service.folder.state.image(2)) == here.image.tolist()


def test_rollouts_of_another_generator_are_refused(service):
    batch = rollouts(service.run, 300, 3)
    batch.tokens[5, 0] = 70_000
    with pytest.raises(RewardError, match=r"step 3: rollouts \[5\] .*such as 70000"):
        RewardClient(service.file)(batch)
    short = rollouts(service.run, 300, 3, validation=True)
    short = RolloutBatch(short.tokens[:-1], short.mask[:-1], short.groups[:-1], 3)
    with pytest.raises(RewardError, match=r"found 31 responses .*expected one to each of the 32"):
        RewardClient(service.file).validate(short)


@pytest.mark.slow
def test_a_server_killed_between_two_steps_and_started_again_changes_no_reward(
    world, scorer, tmp_path
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
        np.testing.assert_array_equal(found.values, scorer.reward(batch).values)
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
    with pytest.raises(RewardError, match="found 4 responses to 3 prompts"):
        in_order(RolloutBatch(tokens, mask, np.array([0, 1, 1, 2]), 0), 4)


def test_the_limit_holds_a_step_of_the_paper():
    from dpg import config

    run = config.load("config/paper.yaml").run("sixseven", "adam-T96", 0)
    size = len(exchange.pack_call("train", rollouts(run, 300, 0)))
    assert 98_304 * 128 * 5 < size <= body_limit(run) < 1.1 * size
