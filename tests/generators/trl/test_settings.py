"""What TRL is told, how rollouts are divided, and what is refused."""

from pathlib import Path

import numpy as np
import pytest

from dpg import config
from dpg.config.scale import Requirements
from dpg.errors import DpgError
from dpg.generators.trl import settings
from dpg.generators.trl.order import as_batch, order_of, sorted_by_place
from dpg.generators.trl.run import Shape

PAPER = {name: config.load("config/paper.yaml", reading=name) for name in ("text", "code")}


def paper(run="lambada-es/adam", reading="text", **values):
    """A run of the paper's, some settings of its generator changed."""
    found = PAPER[reading].run(*run.split("/"), 0)
    return found.model_copy(update={"generator": found.generator.model_copy(update=values)})


def told(run, processes=8, gpus=8):
    shape = settings.shape_of(run, processes)
    return shape, settings.arguments(run, shape, Path("/checkpoints"), gpus=gpus)


@pytest.mark.parametrize(
    ("name", "prompts", "steps"),
    [("qr/adam-T96", 24576, 200), ("sixseven/adam-T8", 2048, 480), ("lambada-es/adam", 256, 120)],
)
def test_the_papers_tables(name, prompts, steps):
    shape, found = told(paper(name))
    assert shape.prompts == prompts
    assert shape.updates == prompts // 32  # mini-batches of 32 prompts, one epoch
    assert found["max_steps"] == steps * shape.updates
    assert found["num_generations"] == 4
    assert found["num_iterations"] == 1
    assert found["max_completion_length"] == 128
    assert found["temperature"] == 1.0
    assert found["beta"] == 0
    # One generation batch is one GRPO step.
    rows = found["per_device_train_batch_size"] * found["steps_per_generation"] * 8
    assert rows == 4 * prompts
    assert found["save_steps"] % shape.updates == 0


def test_each_loss_has_its_name_and_its_clips():
    _, text = told(paper())
    _, code = told(paper(reading="code"))
    assert (text["loss_type"], code["loss_type"]) == ("grpo", "bnpo")
    assert code["per_device_train_batch_size"] == 4  # loss_rollouts: a mean over four at a time
    assert text["epsilon"] == text["epsilon_high"] == 0.2
    assert text["delta"] == 3.0
    assert text["scale_rewards"] == "none"
    assert told(paper(dual_clip=None))[1]["delta"] is None


def test_a_gpu_samples_with_vllm_and_a_cpu_with_transformers_in_float32():
    _, gpu = told(paper())
    assert gpu["use_vllm"]
    assert gpu["vllm_mode"] == "colocate"
    assert gpu["vllm_max_model_length"] == 1024 + 128
    assert not gpu["vllm_importance_sampling_correction"]
    assert gpu["generation_kwargs"] == {"min_tokens": 2}
    assert gpu["bf16"]
    _, cpu = told(paper(), processes=1, gpus=0)
    assert cpu["use_cpu"]
    assert not cpu["use_vllm"]
    assert not cpu["bf16"]
    assert cpu["generation_kwargs"] == {"min_new_tokens": 2}
    _, longer = told(paper(min_response_tokens=40))
    assert longer["generation_kwargs"] == {"min_tokens": 40}


def test_nothing_is_shuffled_or_sent():
    _, found = told(paper())
    assert found["shuffle_dataset"] is False
    assert found["report_to"] == "none"
    assert found["save_only_model"] is False


def test_backward_passes_divide_a_mini_batch():
    shape, found = told(paper(update_microbatch=4))
    assert shape.microbatch == found["per_device_train_batch_size"] == 4
    assert shape.accumulation == found["gradient_accumulation_steps"] == 4
    assert found["steps_per_generation"] == 8 * 4


@pytest.mark.parametrize(
    ("values", "processes", "says"),
    [
        ({"dual_clip": 1.1}, 1, r"dual_clip = 1\.1: .*above 1 \+ generator\.clip = 1\.2"),
        ({}, 7, r"mini_batch_prompts = 32 does not divide over 7 processes"),
        ({"update_microbatch": 5}, 8, r"update_microbatch = 5 does not divide .* 16 rollouts"),
        ({"update_microbatch": "auto"}, 8, r"update_microbatch 'auto'"),
        ({"rollout_batch": "auto"}, 8, r"rollout_batch 'auto'"),
        ({"devices": 2}, 8, r"generator\.devices are of the jax engine"),
        (
            {"loss_mean": "tokens", "loss_rollouts": 4, "update_microbatch": 2},
            8,
            r"update_microbatch = 2: .*loss_rollouts = 4",
        ),
    ],
)
def test_what_trl_cannot_be_given_is_named(values, processes, says):
    with pytest.raises(DpgError, match=says):
        told(paper(**values), processes)


def test_processes_divide_over_machines():
    assert settings.shape_of(paper(), 16, nodes=2).nodes == 2
    with pytest.raises(DpgError, match=r"needs\.processes = 3 do not divide over needs\.nodes = 2"):
        settings.shape_of(paper(), 3, nodes=2)
    assert settings.processes_of(Requirements(gpus=8, nodes=2)) == 16
    assert settings.processes_of(Requirements(nodes=2)) == 2
    assert settings.processes_of(Requirements(processes=4)) == 4


def test_a_dual_clip_is_trls_bound_of_the_ratio():
    """On all ratios and both signs: the loss of one token, by both formulas."""
    ratio, clip, bound = np.linspace(0.0, 5.0, 501), 0.2, 1.3
    for advantage in (-1.7, 1.7):
        ours = np.maximum(-advantage * ratio, -advantage * ratio.clip(1 - clip, 1 + clip))
        if advantage < 0:
            ours = np.minimum(ours, -advantage * bound)
        first = np.minimum(ratio, bound) * advantage
        theirs = -np.minimum(first, ratio.clip(1 - clip, 1 + clip) * advantage)
        np.testing.assert_allclose(theirs, ours, rtol=1e-12)


# --- the order of prompts over processes ----------------------------------------------------------


@pytest.mark.parametrize("processes", [1, 2, 4])
def test_slices_of_all_processes_are_the_mini_batches_of_one(processes):
    shape = Shape(3, 24, 4, 8, 1, processes, 8)
    order = order_of(shape)
    assert sorted(order.tolist()) == list(range(24))
    if processes == 1:
        assert order.tolist() == list(range(24))
    parts = order.reshape(processes, shape.mini_batches, -1)  # what each process is given, cut
    for k in range(shape.mini_batches):
        assert sorted(parts[:, k].reshape(-1).tolist()) == list(range(8 * k, 8 * k + 8))


def test_rows_go_to_the_server_in_the_order_of_prompts_and_come_back():
    places = np.array([6, 6, 8, 8, 7, 7])
    order, back = sorted_by_place(places)
    assert places[order].tolist() == [6, 6, 7, 7, 8, 8]
    assert order.tolist() == [0, 1, 4, 5, 2, 3]  # responses to a prompt keep their order
    assert places[order][back].tolist() == places.tolist()


def test_the_end_of_text_is_no_part_of_a_response():
    answers = [[5, 6, 2], np.array([7, 8, 9, 4]), [5, 6]]
    batch = as_batch(answers, np.arange(3), 3, length=4, eos_ids=[2, 3], pad_id=0)
    assert batch.tokens.tolist() == [[5, 6, 2, 0], [7, 8, 9, 4], [5, 6, 0, 0]]
    assert batch.mask.sum(1).tolist() == [2, 4, 2]
    assert batch.tokens.dtype == np.int32
    assert batch.step == 3
