"""Run by test_spread.py in a separate process: compare one device with four."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

from dpg.config import GeneratorSettings
from dpg.generators.jax.policy import JaxGenerator
from dpg.learner import metagradient
from dpg.learner.devices import spread
from dpg.metrics import pattern_metric, sixseven
from dpg.models import LanguageModel, untie
from dpg.models.gpt2 import Gpt2Config
from dpg.models.llama import LlamaConfig

SHAPES = {
    "gpt2": Gpt2Config(
        vocab_size=67, hidden_size=32, layers=1, heads=2, context=16, intermediate_size=64
    ),
    "llama": LlamaConfig(
        vocab_size=64,
        hidden_size=32,
        layers=1,
        heads=4,
        kv_heads=2,
        head_size=8,
        context=16,
        intermediate_size=88,
    ),
}


OPTIMIZER = optax.adamw(1e-3, eps_root=1e-9)
SETTINGS = GeneratorSettings(
    model="x",
    learning_rate=1e-3,
    grpo_steps=1,
    group_size=2,
    prompt_tokens=5,
    response_tokens=6,
    temperature=1.0,
    mini_batch_prompts=8,
    epochs=1,
    clip=0.2,
    dual_clip=3.0,
    kl_coefficient=0,
    advantage_eps=0.0,
    schedule="constant",
)
METRIC = pattern_metric(sixseven(), scale=20.0, parameter="lm_head", row=0, column=0)


def check(config, size: int, **options) -> None:
    """Compare the rewards of three steps of `size` examples on one device and on four."""
    model = LanguageModel(config)
    params = untie(model.init(jax.random.key(0), jnp.float64))
    loss = jax.tree_util.Partial(LanguageModel.per_example_loss, model.with_tied(False))
    tokens = jax.random.randint(jax.random.key(1), (3, size, 9), 0, config.vocab_size)
    batches = {"tokens": np.asarray(tokens), "mask": np.ones(tokens.shape, bool)}
    one = metagradient(loss, METRIC, params, batches, OPTIMIZER)
    parts, divided = spread(params, loss, 4)
    head = parts["lm_head"]
    assert head.addressable_shards[0].data.size * 4 == head.size
    four = metagradient(divided, METRIC, parts, batches, OPTIMIZER, **options)
    np.testing.assert_allclose(four.metric, one.metric, rtol=1e-12)
    grad = np.asarray(one.weights_grad)
    error = np.abs(np.asarray(four.weights_grad) - grad).max() / np.abs(grad).max()
    assert error < 1e-9, (type(config).__name__, size, options, error)
    assert four.params["lm_head"].sharding == head.sharding
    np.testing.assert_allclose(four.params["lm_head"], one.params["lm_head"], rtol=1e-9)
    losses = divided(parts, jax.tree.map(lambda x: x[0], batches))
    shares = {shard.data.shape[0] for shard in losses.addressable_shards}
    assert shares == {size // 4 if size % 4 == 0 else size}
    print(type(config).__name__, size, "ok", flush=True)


def check_generator(prompts: int, **settings) -> None:
    """Compare rollouts and an update of the policy on one device with those on four."""
    config = SHAPES["llama"]
    model = LanguageModel(config)
    params = model.init(jax.random.key(0), jnp.float64)
    params = jax.tree.map(lambda x: 5 * x if x.ndim > 1 else x, params)
    rng = np.random.default_rng(0)
    asked = rng.integers(0, config.vocab_size, (prompts, 5)).astype(np.int32)
    mask = np.arange(5)[::-1] < rng.integers(1, 6, (prompts, 1))
    outcomes = []
    for count in (None, 4):
        chosen = SETTINGS.model_copy(update={"devices": count, **settings})
        generator = JaxGenerator(model, params, chosen, eos_id=7)
        rollouts = generator.rollout(asked, mask, jax.random.key(2), 1.0, group_size=2)
        for _ in range(2):
            log = generator.update(asked, mask, rollouts, np.arange(2.0 * prompts) - prompts)
        outcomes.append((generator, rollouts, log))
    (one, sampled, expected), (four, spread_out, log) = outcomes
    np.testing.assert_array_equal(spread_out.tokens, sampled.tokens)
    np.testing.assert_array_equal(spread_out.mask, sampled.mask)
    np.testing.assert_allclose(spread_out.logprobs, sampled.logprobs, rtol=1e-9)
    np.testing.assert_allclose(log, expected, rtol=1e-7)
    for leaf in jax.tree.leaves((four.params, four.state)):
        if leaf.ndim > 1:
            assert leaf.addressable_shards[0].data.size * 4 == leaf.size
    moved = four.arrays()
    for name, array in one.arrays().items():
        np.testing.assert_allclose(moved[name], array, rtol=1e-6, atol=1e-9, err_msg=name)
    four.restore(moved)
    head = four.params["lm_head"]
    assert head.addressable_shards[0].data.size * 4 == head.size
    print("generator", prompts, "ok", flush=True)


def main() -> None:
    assert len(jax.devices()) == 4
    state = 3 * 8 * 30_000  # of the GPT-2's parameters and moments, and a bit more
    check(SHAPES["gpt2"], 8, microbatch=4, memory=2 * state)
    check(SHAPES["gpt2"], 6)  # four devices do not divide it
    check(SHAPES["llama"], 8)
    check_generator(8, update_microbatch=8)
    check_generator(6, mini_batch_prompts=6, rollout_batch=4)  # four devices divide neither


if __name__ == "__main__":
    main()
