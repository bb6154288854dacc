"""Theorem 3.1 by enumeration, and SGD's single step as a dot product: exact, without seeds.

The theorem promises an error of O(eta^(1/4) B^(-1/2) + sqrt(eta T)). For small eta the first term
is larger, for large B or T the second. So the error falls at least like eta^(1/4), does not grow
with B, and grows at most like T^(1/2). The theorem names no constant, and a gradient of zero would
have a small error, too. Therefore the error is also compared with the length of the ideal gradient,
and the angle between the two gradients is checked.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dpg.claims.evidence import Results
from dpg.claims.verdicts import Condition

PROMISED = {
    "eta": ("small eta", ">=", 0.25),
    "B": ("large B", "<=", 0.0),
    "T": ("large T", "<=", 0.5),
}
"""Sweep -> its limit in words, and the relation and limit for the error's exponent."""

RELATIVE_ERROR, COSINE = 0.5, 0.9


def theorem(results: Results, optimizer: str) -> list[Condition]:
    """The error is small compared with the ideal gradient, and has the promised exponents."""
    from dpg.figures.theorem_3_1 import exponent

    rows = results.theorem(optimizer)
    relative = float((rows["error"] / rows["ideal"]).max())
    conditions = [
        Condition("largest error over the ideal gradient", relative, "<", RELATIVE_ERROR, True),
        Condition("smallest cosine of the two gradients", rows["cosine"].min(), ">", COSINE, True),
    ]
    for sweep, (words, relation, limit) in PROMISED.items():
        found = exponent(rows, sweep, "error")
        what = f"exponent of the error towards {words}"
        conditions.append(Condition(what, found, relation, limit, exact=True))
    ratio = float((rows["error"] / rows["bound"]).max())
    what = "smallest constant under which the bound holds"
    return [*conditions, Condition(what, ratio, exact=True)]


def dot_product(results: Results) -> list[Condition]:
    """With SGD and T = 1 metagradients are dot products of gradients; with Adam they are not."""
    del results  # not needed: everything is computed here, in a second
    import optax

    adam = optax.adam(0.05, b1=0.9, b2=0.95, eps=1e-8, eps_root=1e-9)  # Table 8
    sgd_found, sgd_dots = single_step(optax.sgd(0.05))
    found, dots = single_step(adam)
    difference = float(np.abs(sgd_found - sgd_dots).max() / np.abs(sgd_dots).max())
    cosine = float(found @ dots / (np.linalg.norm(found) * np.linalg.norm(dots)))
    return [
        Condition("largest relative difference, SGD", difference, "<", 1e-10, exact=True),
        Condition("cosine with the dot products, Adam", cosine, "<", 0.99, exact=True),
    ]


def single_step(optimizer: Any) -> tuple[np.ndarray, np.ndarray]:
    """The metagradients of one training step of a small network, and the dot products.

    Args:
        optimizer: an `optax.GradientTransformation` with learning rate 0.05.

    Returns:
        The metagradients by `dpg.learner`, [B] float64; and [B] float64: -rate / B times the dot
        product of the metric's gradient after the step and each example's gradient before it, by
        `jax.grad` alone.
    """
    import jax
    import jax.numpy as jnp

    from dpg.learner import metagradient

    rng = np.random.default_rng(0)
    inputs, outputs = rng.standard_normal((16, 6)), rng.standard_normal(16)
    with jax.enable_x64(True):
        params = {
            "in": jnp.asarray(0.5 * rng.standard_normal((6, 8))),
            "out": jnp.asarray(0.5 * rng.standard_normal(8)),
        }
        held_out = jnp.asarray(rng.standard_normal((5, 6)))

        def model(weights: dict[str, jax.Array], x: jax.Array) -> jax.Array:
            return jnp.tanh(x @ weights["in"]) @ weights["out"]

        def losses(weights: dict[str, jax.Array], batch: dict[str, jax.Array]) -> jax.Array:
            return (model(weights, batch["x"]) - batch["y"]) ** 2

        def metric(weights: dict[str, jax.Array], initial: dict[str, jax.Array]) -> jax.Array:
            return -jnp.mean((model(weights, held_out) - 1.0) ** 2)

        data = {"x": jnp.asarray(inputs), "y": jnp.asarray(outputs)}
        batches = jax.tree.map(lambda leaf: leaf[None], data)
        result = metagradient(losses, metric, params, batches, optimizer)
        after = jax.grad(metric)(result.params, params)
        each = jax.jacobian(losses)(params, data)  # leaves [B, ...]
        products = jax.tree.map(
            lambda one, many: jnp.tensordot(many, one, axes=one.ndim), after, each
        )
        dots = -0.05 / len(inputs) * sum(jax.tree.leaves(products))
        return np.asarray(result.weights_grad)[0], np.asarray(dots)
