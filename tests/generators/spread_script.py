"""Run by test_spread.py in a process of its own: a target's rewards on one and on four devices."""

import jax
import jax.numpy as jnp
import numpy as np
import optax

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


def main() -> None:
    assert len(jax.devices()) == 4
    state = 3 * 8 * 30_000  # of the GPT-2's parameters and moments, and a bit more
    check(SHAPES["gpt2"], 8, microbatch=4, memory=2 * state)
    check(SHAPES["gpt2"], 6)  # four devices do not divide it
    check(SHAPES["llama"], 8)


if __name__ == "__main__":
    main()
