"""The target: portions from memory and layers computed again leave its rewards as they are."""

from pathlib import Path

import jax
import numpy as np
import pytest

from dpg import artifacts, targets
from dpg.errors import DpgError
from dpg.models import load
from dpg.targets import memory, metric, portion
from dpg.targets.memory import DeviceMemoryError

pytestmark = pytest.mark.integration  # target, learner and model together


@pytest.fixture(scope="module")
def build(world):
    """A target of the language run, with some of the learner's settings changed."""
    run = world.study.run("lambada-es", "adam", 0)
    files = world.inputs(run)
    model, params, tokenizer = load(files.target)
    passages = artifacts.read_table(files.passages)

    def built(metric=None, **changes):
        learner = run.learner.model_copy(update=changes)
        wanted = run.metric.model_copy(update=metric or {})
        changed = run.model_copy(update={"learner": learner, "metric": wanted})
        return targets.build(changed, model, params, tokenizer, passages)

    return built


@pytest.fixture(scope="module")
def batches():
    tokens = np.random.default_rng(0).integers(0, 300, (1, 8, 6)).astype(np.int32)
    return {"tokens": tokens, "mask": np.ones(tokens.shape, bool)}


def rewards(goal, batches):
    return np.asarray(goal.metagradient(batches).weights_grad)


def same(found, wanted):
    """Equal to float32's rounding, which is of the size of the largest reward."""
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * np.abs(wanted).max())


@pytest.fixture(scope="module")
def plain(build, batches):
    return rewards(build(), batches)


def test_layers_computed_again_give_the_same_rewards(build, batches, plain):
    goal = build(remat=True)
    assert goal.per_example_loss.args[0].remat
    same(rewards(goal, batches), plain)


@pytest.mark.slow
def test_all_examples_are_taken_at_a_time_where_they_fit(build, monkeypatch):
    monkeypatch.setattr(memory, "device_bytes", lambda: 10**12)
    assert build(microbatch="auto").settings.microbatch == 8


def test_a_microbatch_is_chosen_from_the_memory_that_is_there(build, batches, plain, monkeypatch):
    asked = []

    def step_bytes(*arguments, steps, microbatch):
        asked.append(microbatch)
        return 100 * microbatch

    monkeypatch.setattr(portion, "step_bytes", step_bytes)
    kept = portion._kept_bytes(build().settings, build().params)
    monkeypatch.setattr(memory, "device_bytes", lambda: kept + 399)
    goal = build(microbatch="auto")
    assert goal.settings.microbatch == 2
    assert asked == [8, 1, 2]
    same(rewards(goal, batches), plain)


def test_a_device_too_small_for_one_example_says_so(build, monkeypatch):
    monkeypatch.setattr(memory, "device_bytes", lambda: 1000)
    with pytest.raises(DeviceMemoryError, match=r"a training step of the target.*learner\.memory"):
        build(microbatch="auto")


def test_what_the_learner_keeps_is_every_state_or_its_budget(build):
    params = build().params
    size = sum(x.nbytes for x in jax.tree.leaves(params))
    settings = build().settings.model_copy(update={"steps": 5})
    assert portion._kept_bytes(settings, params) == 5 * 4 * size  # Adam's two moments, the gradient
    sgd = settings.model_copy(update={"optimizer": "sgd"})
    assert portion._kept_bytes(sgd, params) == 5 * 2 * size
    budget = settings.model_copy(update={"memory": 7 * size})
    assert portion._kept_bytes(budget, params) == 7 * size


def test_on_a_cpu_the_precision_changes_no_bit(build, batches, plain):
    goal = build(matmul_precision="default")
    assert goal.per_example_loss.keywords["precision"] == "default"
    np.testing.assert_array_equal(rewards(goal, batches), plain)


def test_a_metric_of_the_last_word_is_lm_evals_loglikelihood(world, build, tmp_path):
    """Through lm-eval's own model and its template of LAMBADA's task."""
    pytest.importorskip("lm_eval")
    import lm_eval
    import yaml
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM
    from lm_eval.utils import apply_template

    stock = Path(lm_eval.__file__).parent / "tasks/lambada_multilingual/lambada_mt_en.yaml"
    task = yaml.safe_load(stock.read_text())
    table = artifacts.read_table(world.root / "passages.parquet")
    pairs = [
        tuple(apply_template(task[key], {"text": text}) for key in ("doc_to_text", "doc_to_target"))
        for text in table.text
    ]
    model = HFLM(pretrained=str(world.root / "llama"), device="cpu", dtype="float32")
    requests = [Instance("loglikelihood", {}, pair, i) for i, pair in enumerate(pairs)]
    expected = np.mean([found[0] for found in model.loglikelihood(requests, disable_tqdm=True)])
    goal = build(metric={"score": "last_word", "positions": 1})
    assert goal.value(goal.params) == pytest.approx(expected, rel=1e-5)
    # The authors' code divides the sum by its 128 positions.
    of_many = build(metric={"score": "last_word", "positions": 128})
    assert of_many.value(goal.params) == pytest.approx(expected / 128, rel=1e-5)


def test_padding_counts_in_the_loss_of_examples_alone(build):
    plain, padded = build(), build(loss="all_positions")
    assert padded.value(padded.params) == plain.value(plain.params)
    tokens = np.random.default_rng(0).integers(1, 300, (1, 8, 6)).astype(np.int32)
    batches = {"tokens": tokens, "mask": np.broadcast_to(np.arange(6) < 3, tokens.shape)}
    own, all_of_them = (goal.train(batches).losses for goal in (plain, padded))
    assert not np.allclose(own, all_of_them)


def test_a_passage_without_a_last_word_is_named(build, monkeypatch):
    monkeypatch.setattr(metric, "train_passages", lambda *_: ["two words", "one"])
    with pytest.raises(DpgError, match=r"train passage 1 in 'es' has no last word: 'one'"):
        build(metric={"score": "last_word"})


def test_passages_that_lose_their_last_word_are_counted(build, capsys):
    with pytest.raises(DpgError, match=r"none of the 12 passages keeps .* within 4 tokens"):
        build(metric={"score": "last_word", "context": 4})
    whole = build(metric={"score": "last_word"})
    batch = whole.metric.args[1]
    lengths, words = batch["mask"].sum(1), (batch["weights"] > 0).sum(1)
    assert "lose" not in capsys.readouterr().err
    shorter = int((lengths - words).max())
    cut = build(metric={"score": "last_word", "context": shorter})
    weights = cut.metric.args[1]["weights"]
    lost = int((~weights.any(1)).sum())
    assert 0 < lost < len(lengths)
    said = capsys.readouterr().err
    assert f"{lost} of 12 passages lose their last word at metric.context = {shorter}" in said
