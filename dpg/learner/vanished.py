"""Why every metagradient is exactly 0: the metric, the optimizer or the losses are flat.

Rewards that are all 0 teach a generator nothing, so the user is always told. It is an error if the
optimizer passes no derivative on, since every call then fails. It is a warning if the metric or the
losses are flat at this point, since that may be by chance (a metric at its maximum, a batch of
empty examples).
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from dpg.learner import programs
from dpg.learner.errors import LearnerError
from dpg.learner.run import Run

Tree = Any


def reason(run: Run, by_params: Tree) -> str:
    """Why every metagradient of a training is 0, as the text of a warning.

    Args:
        run: the training.
        by_params: the metric's derivative with respect to the trained parameters.

    Raises:
        LearnerError: the optimizer's updates do not depend on the gradients, at any step.
    """
    if not _any(by_params):
        return (
            "every metagradient is 0: the metric's derivative by the trained parameters is 0. It "
            "counts or compares (an accuracy, a sign), has reached its end, or does not read the "
            "parameters that are trained; rewards of 0 teach nothing"
        )
    if not _passes_on(run, by_params):
        raise LearnerError(
            "every metagradient is 0: the optimizer's updates have no derivative by the gradients "
            f"at any of the {run.T} steps. It takes their signs only (lion, sign_sgd, rprop), its "
            "learning rate is 0, or it has not applied an update yet (MultiSteps, apply_every). "
            "Take one that scales gradients, such as optax.sgd or optax.adam(..., eps_root=1e-9)"
        )
    return (
        "every metagradient is 0: no example's loss changes in the direction that the metric asks "
        "for; are the examples empty, or the parameters that the metric reads not trained? "
        "Rewards of 0 teach nothing"
    )


def _passes_on(run: Run, by_params: Tree) -> bool:
    """Whether the optimizer passes a derivative on at any step.

    The first step's update may be 0, as in a warm-up. So the optimizer's state goes on from step to
    step. The parameters and their gradient stay those of the first step: no loss is computed again.
    """
    gradient, _, _ = run.gradient(run.params, 0)
    state = run.state
    for t in range(run.T):
        state = run.state_at(state, t)
        if _any(_by_gradient(run, gradient, state, by_params)):
            return True
        _, state = run.programs.apply(gradient, state, run.params)
    return False


def _by_gradient(run: Run, gradient: Tree, state: Tree, by_params: Tree) -> Tree:
    """The metric's derivative with respect to a step's gradient, through this step only."""
    nothing = [jnp.zeros(x.shape, x.dtype) for x in programs.split(state)[0]]
    by_params = jax.tree.map(jnp.copy, by_params)  # the program may overwrite it
    return run.programs.pull(gradient, state, run.params, by_params, nothing)[0]


def _any(tree: Tree) -> bool:
    return any(np.asarray(x).any() for x in jax.tree.leaves(tree))
