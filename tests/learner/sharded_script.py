"""Run by test_sharding.py in a separate process: the same training on 1, 2 and 4 CPU devices."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from learner_tasks import reference, regression, relative_error

from dpg.learner import metagradient, train


def lay_out(task, data: int, model: int):
    """Shard batches over the data axis, and every array parameter over the parameter axis."""
    mesh = Mesh(np.array(jax.devices()[: data * model]).reshape(data, model), ("data", "model"))

    def put(spec):
        return lambda x: jax.device_put(x, NamedSharding(mesh, spec(x)))

    def by_last_axis(x):
        whole = x.ndim == 0 or x.shape[-1] % model
        return P() if whole else P(*[None] * (x.ndim - 1), "model")

    params = jax.tree.map(put(by_last_axis), task.params)
    batches = jax.tree.map(put(lambda x: P(None, "data")), task.batches)
    return task._replace(params=params, batches=batches)


def main() -> None:
    assert len(jax.devices()) == 4
    task = regression(T=4, B=4)
    optimizer = optax.adamw(2e-2, eps_root=1e-9)
    w = jax.random.uniform(jax.random.key(1), (4, 4), jnp.float64, 0.2, 1.8)
    grad, value, _ = reference(task, optimizer, w)
    state_bytes = 4 * 8 * 43  # parameters, two moments, some slack
    for data, model in [(1, 1), (2, 1), (4, 1), (1, 2), (2, 2)]:
        laid = lay_out(task, data, model)
        for options in ({}, {"memory": state_bytes, "microbatch": 2, "host_memory": True}):
            result = metagradient(
                *laid[:2], laid.params, laid.batches, optimizer, weights=w, **options
            )
            error = relative_error(result.weights_grad, grad)
            np.testing.assert_allclose(result.metric, value, rtol=1e-12)
            assert error < 1e-9, (data, model, options, error)
        kept = jax.tree.map(
            lambda a, b: a.sharding.is_equivalent_to(b.sharding, a.ndim), result.params, laid.params
        )
        assert all(jax.tree.leaves(kept)), kept
        plain = train(task.loss, laid.params, laid.batches, optimizer, weights=w)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-12), plain.params, result.params
        )
        print(data, model, "ok")


if __name__ == "__main__":
    sys.exit(main())
