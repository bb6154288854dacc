"""What verl is told, beside the paper's tables."""

import pytest

from dpg import config
from dpg.errors import DpgError
from dpg.generators.engine import MIN_TOKENS
from dpg.generators.verl.overrides import Paths, overrides, settings

READINGS = {name: config.load("config/paper.yaml", reading=name) for name in ("text", "code")}
PATHS = Paths(*(f"/data/{name}" for name in ("model", "prompts", "validation", "checkpoints")))
ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"

# Tables 7 to 10 and 13: learning rate, prompts a step, GRPO steps, validation temperature.
TABLES = [
    ("qr/adam-T96", 5e-6, 24576, 200, 1.0),
    ("sixseven/adam-T1", 5e-6, 256, 3840, 1.0),
    ("sixseven/adam-T8", 5e-6, 2048, 480, 1.0),
    ("sixseven/adam-T96", 5e-6, 24576, 40, 1.0),
    ("norm/sgd-T1", 5e-6, 256, 960, 1.0),
    ("norm/naive-T8", 5e-6, 2048, 120, 1.0),
    ("norm/adam-T96", 5e-6, 24576, 10, 1.0),
    ("lambada-es/adam", 1e-6, 256, 120, 1.0),
    ("uuid/adam", 1e-6, 256, 360, 0.0),
]


def paper(run="sixseven/adam-T96", reading="text", **changes):
    return READINGS[reading].run(*run.split("/"), 0).model_copy(update=changes)


def changed(run, section, **values):
    return run.model_copy(update={section: getattr(run, section).model_copy(update=values)})


def told(run, gpus=8, **more):
    """The settings without the sign of a key that verl's files do not have."""
    return {key.lstrip("+"): v for key, v in settings(run, PATHS, gpus=gpus, **more).items()}


@pytest.mark.parametrize(("name", "rate", "prompts", "steps", "temperature"), TABLES)
def test_the_papers_tables(name, rate, prompts, steps, temperature):
    found = told(paper(name))
    assert found[f"{ACTOR}.optim.lr"] == rate
    assert found["data.train_batch_size"] == prompts  # "Rollout Batch Size / G"
    assert found["trainer.total_training_steps"] == steps
    assert found[f"{ROLLOUT}.val_kwargs.temperature"] == temperature
    assert found[f"{ROLLOUT}.val_kwargs.do_sample"] == (temperature > 0)
    # The same in all tables.
    assert found["data.max_prompt_length"] == 1024
    assert found["data.max_response_length"] == 128
    assert found[f"{ROLLOUT}.n"] == 4
    assert found[f"{ROLLOUT}.temperature"] == 1.0
    assert found[f"{ACTOR}.use_kl_loss"] is False
    assert found["algorithm.use_kl_in_reward"] is False


def test_what_the_tables_leave_open_is_as_in_the_authors_code():
    found = told(paper("lambada-es/adam"))
    assert found[f"{ACTOR}.ppo_mini_batch_size"] == 32
    assert found[f"{ACTOR}.ppo_epochs"] == 1
    assert found["data.truncation"] == "right"
    assert found["trainer.test_freq"] == 5
    assert found["trainer.max_actor_ckpt_to_keep"] == 2
    assert found["algorithm.adv_estimator"] == "grpo"
    assert found[f"{ACTOR}.clip_ratio_low"] == found[f"{ACTOR}.clip_ratio_high"] == 0.2
    assert found[f"{ACTOR}.clip_ratio_c"] == 3.0
    assert found[f"{ACTOR}.optim.weight_decay"] == 0.01
    assert found[f"{ACTOR}.optim.betas"] == [0.9, 0.999]
    assert found[f"{ACTOR}.grad_clip"] == 1.0


@pytest.mark.parametrize("reading", READINGS)
def test_verl_does_not_normalise_a_second_time_and_keeps_two_checkpoints(reading):
    found = told(paper("lambada-es/adam", reading))
    assert found["algorithm.norm_adv_by_std_in_grpo"] is False
    assert found["trainer.max_actor_ckpt_to_keep"] == 2


def test_the_mean_of_the_loss_is_that_of_the_reading():
    text, code = (told(paper("lambada-es/adam", reading)) for reading in READINGS)
    assert text[f"{ACTOR}.loss_agg_mode"] == "seq-mean-token-mean"
    assert code[f"{ACTOR}.loss_agg_mode"] == "token-mean"
    # What verl averages over is what a device takes at a time.
    assert code[f"{ACTOR}.ppo_micro_batch_size_per_gpu"] == 4
    assert code["data.train_batch_size"] == text["data.train_batch_size"] == 256


def test_a_mean_over_tokens_that_verl_cannot_take_is_named():
    tokens = changed(paper(), "generator", loss_mean="tokens")
    with pytest.raises(
        DpgError, match=r"loss_mean 'tokens' over a mini-batch of 128 .* 16 rollouts"
    ):
        told(tokens)
    assert told(tokens, gpus=1)[f"{ACTOR}.ppo_micro_batch_size_per_gpu"] == 128
    code = paper(reading="code")
    with pytest.raises(DpgError, match=r"update_microbatch = 2: .*loss_rollouts = 4"):
        told(changed(code, "generator", update_microbatch=2))
    with pytest.raises(DpgError, match=r"generator\.loss_rollouts = 32 does not divide"):
        told(changed(code, "generator", loss_rollouts=32))


def test_eight_gpus_sample_with_vllm_and_share_a_mini_batch():
    found = told(paper())
    assert found[f"{ROLLOUT}.name"] == "vllm"
    assert found["trainer.n_gpus_per_node"] == 8
    assert found["trainer.device"] == "cuda"
    assert found[f"{ACTOR}.ppo_micro_batch_size_per_gpu"] == 32 * 4 // 8
    assert told(paper(), nodes=2)[f"{ACTOR}.ppo_micro_batch_size_per_gpu"] == 8
    smaller = changed(paper(), "generator", update_microbatch=4)
    assert told(smaller)[f"{ACTOR}.ppo_micro_batch_size_per_gpu"] == 4


def test_without_a_gpu_it_samples_with_transformers_in_float32():
    found = told(paper(), gpus=0)
    assert found[f"{ROLLOUT}.name"] == "hf"
    assert found["trainer.device"] == "cpu"
    assert found["trainer.n_gpus_per_node"] == 1
    assert found[f"{ACTOR}.strategy"] == "fsdp2"
    assert found["actor_rollout_ref.model.override_config._attn_implementation"] == "sdpa"
    assert found[f"{ACTOR}.fsdp_config.mixed_precision.param_dtype"] == "fp32"


def test_no_dual_clip_and_no_clip_norm_are_numbers_that_never_bind():
    run = changed(paper(), "generator", dual_clip=None)
    optimizer = run.generator.optimizer.model_copy(update={"clip_norm": None})
    found = told(changed(run, "generator", optimizer=optimizer))
    assert found[f"{ACTOR}.clip_ratio_c"] == found[f"{ACTOR}.grad_clip"] == 1e9


def test_what_verl_cannot_be_given_is_named():
    with pytest.raises(DpgError, match=r"generator\.schedule 'linear'"):
        told(changed(paper(), "generator", schedule="linear"))
    optimizer = paper().generator.optimizer.model_copy(update={"eps": 1e-6})
    with pytest.raises(DpgError, match=r"generator\.optimizer\.eps 1e-06"):
        told(changed(paper(), "generator", optimizer=optimizer))
    with pytest.raises(DpgError, match=r"mini-batch of 128 rollouts .* over 7 GPUs"):
        told(paper(), gpus=7)
    with pytest.raises(DpgError, match=r"generator\.update_microbatch = 5 does not divide"):
        told(changed(paper(), "generator", update_microbatch=5))


def test_overrides_are_written_in_hydras_grammar():
    values = {
        "a": True,
        "b": None,
        "+c": 1e-06,
        "d": [0.9, 0.999],
        "e": "/a folder/it's, {here}=1",
        "f": ["console"],
    }
    assert overrides(values) == [
        "a=true",
        "b=null",
        "+c=1e-06",
        "d=[0.9,0.999]",
        "e='/a folder/it\\'s, {here}=1'",
        "f=['console']",
    ]


def test_a_shortest_response_and_the_seed_reach_the_sampler():
    run = paper(seed=3)
    found = settings(run, PATHS, gpus=8)
    assert found[f"+{ROLLOUT}.min_tokens"] == MIN_TOKENS == 2
    assert found[f"+{ROLLOUT}.seed"] == 3
    longer = run.generator.model_copy(update={"min_response_tokens": 40})
    found = settings(run.model_copy(update={"generator": longer}), PATHS, gpus=8)
    assert found[f"+{ROLLOUT}.min_tokens"] == 40
