"""What runs inside verl, with stand-ins for verl's batch and for the reward server."""

import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from dpg import artifacts
from dpg.generators.advantages import group_advantages
from dpg.generators.verl import cpu, rewards, worker
from dpg.generators.verl.prompts import PromptDataset
from dpg.generators.verl.run import RUN_VARIABLE, Run
from dpg.rewards.protocol import RewardError, Rewards
from dpg.run_folder import RunState

EOS = 0


def batch(places, validation=False, length=5):
    """A batch as verl has it: a left-padded prompt of 3, a response that ends early in odd rows."""
    rng = np.random.default_rng(1)
    count = len(places)
    responses = rng.integers(5, 90, (count, length))
    responses[:, 0] = 100 + np.asarray(places)
    mask = np.ones((count, length), np.int64)
    responses[1::2, 3] = EOS
    mask[1::2, 4:] = 0
    prompts = np.ones((count, 3), np.int64)
    return SimpleNamespace(
        batch={
            "responses": torch.from_numpy(responses),
            "attention_mask": torch.from_numpy(np.concatenate([prompts, mask], 1)),
        },
        non_tensor_batch={"place": np.array(places, dtype=object)},
        meta_info={"validate": True} if validation else {},
    )


class Server:
    """Rewards a rollout by its first token, which names its place, and its own noise."""

    def __init__(self, all_one_group=False):
        self.asked, self.all_one_group, self.validated = [], all_one_group, []

    def __call__(self, rollouts):
        self.asked.append(rollouts)
        if rollouts.step == 7:
            raise RewardError(
                "step 7: rollouts [0]: in the target's training, the metagradient of step 0 is not "
                "finite for 1 of 4 examples (2)"
            )
        values = 1e-9 * (rollouts.tokens.sum(1) % 17 - rollouts.tokens[:, 1])
        groups = np.zeros(len(values), int) if self.all_one_group else rollouts.groups
        return Rewards(values, groups, {"metric": -0.5})

    def validate(self, rollouts):
        self.validated.append(rollouts)
        return Rewards(np.full(len(rollouts), -0.25), rollouts.groups, {"metric": -0.25})


@pytest.fixture
def make(tmp_path, monkeypatch):
    """A reward manager over a stand-in of the server, in a run of 3 prompts a step."""

    def made(server):
        run = Run([], "server.json", str(tmp_path), 0, EOS, 3, 0.0, 0, 1)
        artifacts.write_json(tmp_path / "worker.json", run._asdict())
        monkeypatch.setenv(RUN_VARIABLE, str(tmp_path / "worker.json"))
        monkeypatch.setattr(rewards, "RewardClient", lambda connection: server)
        monkeypatch.setattr(rewards.Done, "steps", None)
        return rewards.RewardManager()

    return made


SHUFFLED = [7, 6, 8, 6, 7, 8, 7, 8, 6]  # the third step's three prompts, three responses each


def test_rows_are_put_in_the_order_of_their_prompts_and_answered_in_verls(make, tmp_path):
    server = Server()
    manager = make(server)
    data = batch(SHUFFLED)
    answer = manager(data, return_dict=True)
    (asked,) = server.asked
    assert asked.step == 2
    assert asked.groups.tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert (asked.tokens[:, 0] - 100).tolist() == [6, 6, 6, 7, 7, 7, 8, 8, 8]
    # The end-of-text is no part of a rollout, and verl's own mask has it.
    assert sorted(asked.mask.sum(1).tolist()) == [3] * 4 + [5] * 5
    given = server(asked)
    expected = dict(
        zip(
            map(tuple, asked.tokens.tolist()),
            group_advantages(given.values, given.groups),
            strict=True,
        )
    )
    tensor = answer["reward_tensor"]
    for row, place in enumerate(SHUFFLED):
        tokens = tuple(data.batch["responses"][row].tolist())
        last = 3 if row % 2 else 4
        assert tensor[row, last].item() == pytest.approx(expected[tokens], rel=1e-6)
        assert torch.count_nonzero(tensor[row]).item() <= 1
        assert answer["reward_extra_info"]["uid"][row] == str(place - 6)
    record = artifacts.read_json(RunState(tmp_path).numbers("reward", 2))
    assert record["metric"] == -0.5
    assert record["reward_mean"] == pytest.approx(given.values.mean())
    assert record["informative"] == 1.0


def test_the_naive_reward_compares_all_rollouts_as_one_group(make):
    manager = make(Server(all_one_group=True))
    answer = manager(batch(SHUFFLED), return_dict=True)
    assert set(answer["reward_extra_info"]["uid"]) == {"0"}
    values = answer["reward_tensor"].sum(1).numpy()
    assert values.mean() == pytest.approx(0, abs=1e-6)
    assert values.std(ddof=1) == pytest.approx(1, abs=1e-6)


def test_an_error_is_raised_again_at_verls_second_call_and_kept_for_the_engine(make, tmp_path):
    server = Server()
    manager = make(server)
    data = batch([21, 22, 23])
    for _ in range(2):
        with pytest.raises(RewardError, match=r"step 7: rollouts \[0\]"):
            manager(data, return_dict=True)
    assert len(server.asked) == 1
    failure = artifacts.read_json(tmp_path / "failure.json")
    assert failure["kind"] == "RewardError"
    assert "step 7" in failure["message"]
    assert "Traceback" in failure["traceback"]


def test_a_validation_is_named_after_the_training_steps_before_it(make, tmp_path):
    server = Server()
    manager = make(server)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "latest_checkpointed_iteration.txt").write_text("4")
    answer = manager(batch([2, 0, 1], validation=True), return_dict=True)
    assert server.validated[0].step == 4
    assert server.validated[0].groups.tolist() == [0, 1, 2]
    assert (server.validated[0].tokens[:, 0] - 100).tolist() == [0, 1, 2]
    assert answer["reward_tensor"].sum(1).tolist() == [-0.25] * 3
    manager(batch([12, 13, 14]))
    manager(batch([0, 1, 2], validation=True))
    assert server.validated[1].step == 5
    path = RunState(tmp_path).numbers("validation", 5)
    assert artifacts.read_json(path) == {"metric": -0.25}


def test_prompts_come_in_the_order_of_the_file(tmp_path):
    tokens = np.array([[0, 0, 5], [0, 6, 7]], np.int32)
    arrays = {"tokens": tokens, "mask": tokens > 0, "order": np.array([1, 0, 1], np.int64)}
    artifacts.save_arrays(tmp_path / "prompts.safetensors", arrays)
    dataset = PromptDataset(str(tmp_path / "prompts.safetensors"))
    assert len(dataset) == 3
    first = dataset[0]
    assert first["raw_prompt_ids"] == [6, 7]
    assert first["input_ids"].tolist() == [0, 6, 7]
    assert first["attention_mask"].tolist() == [0, 1, 1]
    assert first["position_ids"].tolist() == [0, 0, 1]
    assert [dataset[i]["place"] for i in range(3)] == [0, 1, 2]
    assert dataset[1]["raw_prompt_ids"] == [5]


def test_a_calls_random_numbers_depend_on_seed_purpose_and_step_alone():
    def seed(run=0, **info):
        return cpu.rollout_seed(run, info)

    assert seed(global_steps=3) == seed(global_steps=3)
    assert seed(validate=True, global_steps=3) == seed(validate=True, global_steps=5)
    different = {seed(global_steps=3), seed(global_steps=4), seed(1, global_steps=3)}
    assert len(different | {seed(validate=True, global_steps=3)}) == 4


def test_an_update_that_is_not_finite_ends_the_run(make, tmp_path):
    make(Server())
    written = []
    run = Run.read()
    log = worker._also_to_files(lambda *arguments: written.append(arguments), run)
    numbers = dict.fromkeys(worker.NUMBERS.values(), 0.5)
    log(None, numbers, 3)
    log(None, {"val-core/dpg/reward": 1.0}, 3)
    assert len(written) == 2
    path = RunState(tmp_path).numbers("update", 2)
    assert artifacts.read_json(path)["gradient_norm"] == 0.5
    with pytest.raises(ValueError, match=r"step 4: .*not finite.*learning_rate"):
        log(None, numbers | {"actor/grad_norm": float("nan")}, 5)
    assert artifacts.read_json(tmp_path / "failure.json")["kind"] == "DpgError"


@pytest.mark.integration
def test_the_worker_needs_no_jax():
    code = (
        "import sys\nfor name in ('jax', 'optax', 'pydantic', 'yaml', 'fastapi', 'typer'): "
        "sys.modules[name] = None\nimport dpg.generators.verl.worker"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
