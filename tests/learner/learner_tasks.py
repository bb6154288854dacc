"""Small, unusual models, and the reference for the learner: jax.grad through the whole training.

Equal calls return the same task, so tests share the programs that are compiled for its functions.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax


class Task(NamedTuple):
    loss: object
    metric: object
    params: object
    batches: object


@functools.cache
def small_transformer(seed=0, T=4, B=6, L=5, V=11, D=8, layers=2, tied=True) -> Task:
    """Causal attention, GELU, a norm with a scale, and (if `tied`) tied embeddings."""
    rng = np.random.default_rng(seed)

    def normal(*shape):
        return jnp.asarray(0.3 * rng.normal(size=shape))

    params = {
        "embed": normal(V, D),
        "position": normal(L, D),
        "layers": {
            "qkv": normal(layers, D, 3 * D),
            "out": normal(layers, D, D),
            "up": normal(layers, D, 2 * D),
            "down": normal(layers, 2 * D, D),
            "scale": jnp.asarray(1 + 0.3 * rng.normal(size=(layers, D))),
        },
    }
    if not tied:
        params["lm_head"] = normal(D, V)
    tokens = jnp.asarray(rng.integers(0, V, (T, B, L)))
    mask = jnp.asarray(np.arange(L) < rng.integers(2, L + 1, (T, B, 1)))

    def norm(x, scale):
        x = x - x.mean(-1, keepdims=True)
        return scale * x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5)

    def loss(p, batch):
        x = p["embed"][batch["tokens"]] + p["position"]
        causal = jnp.tril(jnp.ones((L, L), bool))

        def block(x, layer):
            q, k, v = jnp.split(norm(x, layer["scale"]) @ layer["qkv"], 3, -1)
            scores = jnp.where(causal, jnp.einsum("bid,bjd->bij", q, k) / D**0.5, -1e9)
            x = x + jax.nn.softmax(scores) @ v @ layer["out"]
            return x + jax.nn.gelu(norm(x, layer["scale"]) @ layer["up"]) @ layer["down"], None

        x, _ = jax.lax.scan(block, x, p["layers"])
        head = p["lm_head"] if "lm_head" in p else p["embed"].T
        logp = jax.nn.log_softmax(x[:, :-1] @ head)
        nll = -jnp.take_along_axis(logp, batch["tokens"][:, 1:, None], -1)[..., 0]
        kept = batch["mask"][:, 1:]
        return jnp.sum(nll * kept, 1) / jnp.sum(kept, 1)

    target = normal(V, D)

    def metric(p, initial):
        change = p["embed"] - initial["embed"]
        return -jnp.mean(jax.nn.softplus(-20 * jnp.sign(target) * change))

    return Task(loss, metric, params, {"tokens": tokens, "mask": mask})


@functools.cache
def regression(seed=0, T=5, B=4) -> Task:
    """A two-layer network whose tree has a list and a tuple; both layers share one matrix."""
    rng = np.random.default_rng(seed)

    def normal(*shape, scale=1.0):
        return jnp.asarray(scale * rng.normal(size=shape))

    params = [normal(6, 6, scale=0.5), (normal(6, scale=0.5), jnp.asarray(np.ones(())))]
    batches = {"x": normal(T, B, 6), "y": normal(T, B)}

    def loss(p, batch):
        w, (head, gain) = p
        hidden = jnp.tanh(jnp.tanh(batch["x"] @ w) @ w.T) * gain
        return jnp.square(hidden @ head - batch["y"])

    def metric(p, initial):
        return -jnp.sum(jnp.square(p[0] - 0.1)) + jnp.sum(p[1][0] * initial[1][0])

    return Task(loss, metric, params, batches)


def in_float64(schedule):
    """The schedule, called with a float64 count.

    optax converts an integer count to float32. XLA rounds that differently in each program into
    which it is fused.
    """
    return lambda count: schedule(jnp.asarray(count, jnp.float64))


def unrolled(task: Task, optimizer):
    """The function w -> (metric, params): the whole training, differentiable by the weights."""
    return functools.partial(_train, task.loss, task.metric, optimizer, task.params, task.batches)


def _train(loss, metric, optimizer, initial, batches, w):
    def step(carry, x):
        params, state = carry
        batch, row = x
        g = jax.grad(lambda p: jnp.mean(row * loss(p, batch)))(params)
        updates, state = optimizer.update(g, state, params)
        return (optax.apply_updates(params, updates), state), None

    start = (initial, optimizer.init(initial))
    (params, _), _ = jax.lax.scan(step, start, (batches, w))
    return metric(params, initial), params


def reference(task: Task, optimizer, weights):
    """(d metric / d weights, metric, params) by jax.grad through the whole training."""
    (value, params), grad = _differentiated(task.loss, task.metric, optimizer)(
        task.params, task.batches, weights
    )
    return grad, value, params


@functools.cache
def _differentiated(loss, metric, optimizer):
    train = functools.partial(_train, loss, metric, optimizer)
    return jax.jit(jax.value_and_grad(train, argnums=2, has_aux=True))


def relative_error(a, b) -> float:
    a, b = np.asarray(a), np.asarray(b)
    return float(np.abs(a - b).max() / np.abs(b).max())
