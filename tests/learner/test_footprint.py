"""What one step takes, by XLA's count: more with more examples at a time, and nothing computed."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from dpg.learner.footprint import step_bytes

D, B = 64, 32


def loss(params, batch):
    h = jnp.tanh(batch["x"] @ params["w"])
    return jnp.square(jnp.tanh(h @ params["w"])).mean((1, 2))


@pytest.mark.parametrize("steps", [1, 3])
def test_more_examples_at_a_time_take_more(steps):
    params = {"w": jax.ShapeDtypeStruct((D, D), np.float32)}
    batch = {"x": jax.ShapeDtypeStruct((B, 128, D), np.float32)}
    optimizer = optax.adam(1e-3, eps_root=1e-9)

    def of(microbatch):
        return step_bytes(loss, params, batch, optimizer, steps=steps, microbatch=microbatch)

    little, more, whole = of(1), of(8), of(None)
    given = 4 * (D * D + B * 128 * D)
    assert given < little < more < whole
    # One example's activations are small beside the batch and the parameters themselves.
    assert little < 3 * given
    assert whole - little > 4 * (B - 1) * 128 * D
