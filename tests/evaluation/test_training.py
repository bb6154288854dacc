"""Training: the numbers of a loop written by hand, and the same ones after a kill."""

import math
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from dpg.errors import DpgError
from dpg.evaluation import training

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

pytestmark = pytest.mark.integration

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def rows(words):
    """Thirty rows of 2 to 16 tokens, none of padding."""
    rng = np.random.default_rng(0)
    return [rng.integers(1, words.vocab_size, size=2 + n % 15).tolist() for n in range(30)]


@pytest.fixture(scope="module")
def settings(downstream_settings):
    return downstream_settings.cpt.model_copy(
        update={"batch_size": 8, "microbatch": 8, "warmup": 0.3, "weight_decay": 0.1}
    )


def fit(base, rows, settings, out, **changes):
    return training.fit(
        base,
        rows,
        settings,
        **({"learning_rate": 3e-3, "epochs": 2, "seed": 5} | changes),
        step="continue_pretraining",
        out=out,
    )


def weights(directory):
    return transformers.AutoModelForCausalLM.from_pretrained(directory).state_dict()


def far(first, second):
    """The largest difference between two models' weights."""
    first, second = weights(first), weights(second)
    return max((first[name] - second[name]).abs().max().item() for name in first)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, model_dir, rows, settings):
    """A finished training; only to be read."""
    out = tmp_path_factory.mktemp("trained") / "model"
    return out, fit(model_dir, rows, settings, out)


def test_it_is_adamw_with_warm_up_and_cosine(model_dir, rows, settings, trained):
    """Against AdamW, the schedule and the loss written out, on the order that the seed gives."""
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    # Biases and norms have no weight decay in transformers; this model has no biases.
    decayed = [p for name, p in model.named_parameters() if "norm" not in name]
    plain = [p for name, p in model.named_parameters() if "norm" in name]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}],
        lr=3e-3,
        betas=(0.9, 0.95),
        eps=1e-8,
    )
    per_epoch, total = 4, 8  # 30 rows in batches of 8, two epochs
    warm = math.ceil(0.3 * total)
    losses = []
    for step in range(total):
        rate = step / warm if step < warm else None
        if rate is None:
            rate = 0.5 * (1 + math.cos(math.pi * (step - warm) / (total - warm)))
        for group in optimizer.param_groups:
            group["lr"] = 3e-3 * rate
        if step % per_epoch == 0:
            order = orders(rows, epoch=step // per_epoch)
        batch = [rows[i] for i in order[8 * (step % per_epoch) :][:8]]
        # Row by row, without any padding: the mean over all of the batch's own targets.
        summed = sum(
            torch.nn.functional.cross_entropy(
                model(torch.tensor([row])).logits[0, :-1], torch.tensor(row[1:]), reduction="sum"
            )
            for row in batch
        )
        loss = summed / sum(len(row) - 1 for row in batch)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        losses.append(loss.item())
    out, record = trained
    assert record["losses"] == pytest.approx(losses, abs=2e-5)
    ours = weights(out)
    for name, tensor in model.state_dict().items():
        assert (ours[name] - tensor).abs().max() < 2e-6, name


def orders(rows, epoch):
    """The order in which the loader goes through the rows: its sampler, seeded as the Trainer's."""
    from accelerate.data_loader import SeedableRandomSampler

    sampler = SeedableRandomSampler(data_source=rows, data_seed=5)
    sampler.set_epoch(epoch)
    return list(sampler)


def test_the_record_counts_steps_and_tokens(trained, rows):
    _, record = trained
    assert record["steps"] == len(record["losses"]) == 8
    assert record["tokens"] == 2 * sum(map(len, rows))
    assert record["device"] == ("cuda" if torch.cuda.is_available() else "cpu")


def test_the_trained_directory_is_read_by_this_project_too(trained, model_dir, words):
    from dpg.models import load

    model, params, tokenizer = load(trained[0])
    before, first, _ = load(model_dir)
    assert tokenizer.same_ids(words)
    assert model.config == before.config
    assert set(params) == set(first)
    assert not np.allclose(params["embed"], first["embed"])


@pytest.mark.parametrize("microbatch", [1, 4])
def test_the_microbatch_changes_nothing(tmp_path, model_dir, rows, settings, trained, microbatch):
    smaller = settings.model_copy(update={"microbatch": microbatch})
    fit(model_dir, rows, smaller, tmp_path / "model")
    assert far(tmp_path / "model", trained[0]) < 2e-6


def test_a_finished_training_is_not_done_again(tmp_path, model_dir, rows, settings, trained):
    copy = tmp_path / "model"
    shutil.copytree(trained[0], copy)
    before = (copy / "model.safetensors").stat().st_mtime_ns
    fit(model_dir, rows, settings.model_copy(update={"checkpoint_every": 3}), copy)
    assert (copy / "model.safetensors").stat().st_mtime_ns == before
    fit(model_dir, rows, settings, copy, learning_rate=1e-3)
    assert (copy / "model.safetensors").stat().st_mtime_ns != before
    assert far(copy, trained[0]) > 1e-5


def test_a_training_that_failed_goes_on_to_the_same_weights(
    tmp_path, model_dir, rows, settings, trained, monkeypatch
):
    often = settings.model_copy(update={"checkpoint_every": 2})
    out = tmp_path / "model"
    collate, calls = training._collate, []

    def failing(features):
        calls.append(1)
        if len(calls) == 6:
            raise RuntimeError("a crash in step 6")
        return collate(features)

    monkeypatch.setattr(training, "_collate", failing)
    with pytest.raises(RuntimeError, match="step 6"):
        fit(model_dir, rows, often, out)
    assert not out.exists()
    left = sorted(path.name for path in (tmp_path / ".model.state").glob("checkpoint-*"))
    assert left == ["checkpoint-2", "checkpoint-4"]
    # As a kill during the write of the newest leaves it.
    (tmp_path / ".model.state" / "checkpoint-4" / "trainer_state.json").unlink()
    monkeypatch.setattr(training, "_collate", collate)
    record = fit(model_dir, rows, often, out)
    assert far(out, trained[0]) == 0
    assert record["losses"] == trained[1]["losses"]
    assert not (tmp_path / ".model.state").exists()


KILLED = """
import json, sys
from pathlib import Path
from dpg.config import CptSettings
from dpg.evaluation import training
base, out, rows, settings = sys.argv[1:]
settings = CptSettings.model_validate_json(settings)
how = {"learning_rate": 3e-3, "epochs": 40, "seed": 5, "step": "continue_pretraining"}
training.fit(base, json.loads(rows), settings, **how, out=out)
"""


@pytest.mark.slow
def test_a_killed_process_goes_on_to_the_same_weights(tmp_path, model_dir, rows, settings):
    import json

    often = settings.model_copy(update={"checkpoint_every": 10})
    fit(model_dir, rows, often, tmp_path / "whole", epochs=40)
    command = [sys.executable, "-c", KILLED, str(model_dir), str(tmp_path / "killed")]
    command += [json.dumps(rows), often.model_dump_json()]
    kills = 0
    for _ in range(20):
        process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
        state = tmp_path / ".killed.state"
        seen = len(list(state.glob("checkpoint-*"))), max_step(state)
        deadline = time.monotonic() + 60
        # Killed twice, each time when it has got a checkpoint further.
        while process.poll() is None and time.monotonic() < deadline:
            if kills < 2 and max_step(state) > seen[1] + 10:
                os.killpg(process.pid, signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.02)
        process.wait()
        if process.returncode == 0:
            break
    assert process.returncode == 0
    assert kills >= 1
    assert far(tmp_path / "killed", tmp_path / "whole") == 0


def max_step(state):
    steps = [int(path.name.split("-")[1]) for path in state.glob("checkpoint-*")]
    return max(steps, default=0)


def test_checkpoints_of_another_training_are_not_taken_up(tmp_path, model_dir, rows, settings):
    folder = tmp_path / ".model.state" / "checkpoint-2"
    folder.mkdir(parents=True)
    (folder / "trainer_state.json").write_text("{}")
    fit(model_dir, rows[:8], settings, tmp_path / "model", epochs=1)
    assert (tmp_path / "model" / training.RECORD).exists()
    (aside,) = tmp_path.glob(".model.state-*")  # nothing is deleted
    assert (aside / "checkpoint-2" / "trainer_state.json").exists()


def test_a_loss_that_is_not_finite_stops_the_training(tmp_path, model_dir, rows, settings):
    with pytest.raises(DpgError, match=r"model: the loss at step \d+ is (nan|inf)"):
        fit(model_dir, rows, settings, tmp_path / "model", learning_rate=1e30)
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize("missing", ["tokenizer.json", "config.json"])
def test_a_directory_without_its_files_is_named(tmp_path, model_dir, rows, settings, missing):
    copy = tmp_path / "base"
    shutil.copytree(model_dir, copy)
    (copy / missing).unlink()
    with pytest.raises(DpgError, match=rf"base has no {missing}"):
        fit(copy, rows, settings, tmp_path / "model")


def test_rows_that_do_not_fit_are_named(tmp_path, model_dir, rows, settings):
    with pytest.raises(DpgError, match=r"row 1 has 17 tokens, expected 2 to the context of 16"):
        fit(model_dir, [rows[0], list(range(17))], settings, tmp_path / "model")
    with pytest.raises(DpgError, match=r"row 0 has 1 tokens"):
        fit(model_dir, [[3]], settings, tmp_path / "model")
    with pytest.raises(DpgError, match="nothing to train on"):
        fit(model_dir, [], settings, tmp_path / "model")


def test_damaged_weights_are_named(tmp_path, model_dir, rows, settings):
    copy = tmp_path / "base"
    shutil.copytree(model_dir, copy)
    path = copy / "model.safetensors"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DpgError, match=r"base cannot be loaded as a causal language model"):
        fit(copy, rows, settings, tmp_path / "model")
