"""The optimizer of every measurement: AdamW with the numbers of the paper's Tables 7 to 13."""

from __future__ import annotations

from collections.abc import Callable

import optax

B1, B2, EPS, WEIGHT_DECAY = 0.9, 0.95, 1e-8, 1e-4

EPS_ROOT = 1e-9
"""The paper's value. Without it the derivative of Adam's square root is infinite at 0."""


def adam(
    learning_rate: float, eps_root: float = EPS_ROOT, *, injected: bool = False
) -> optax.GradientTransformation:
    """AdamW of optax, with decoupled weight decay; `injected`: hyper-parameters in its state.

    Compiled programs are cached by its settings; if it is injected, by this object. Make that only
    once per measurement.
    """
    make: Callable[..., optax.GradientTransformation] = optax.adamw
    if injected:
        make = optax.inject_hyperparams(optax.adamw, static_args=("eps_root",))
    return make(
        learning_rate=learning_rate,
        b1=B1,
        b2=B2,
        eps=EPS,
        eps_root=eps_root,
        weight_decay=WEIGHT_DECAY,
    )
