"""The cost of a training and of its metagradient, in forward passes (docs/metagradients.md)."""

STEP, ADJOINT, FIRST, ONLY = 3, 8, 3, 2
"""Of a training step, of an adjoint, of the first step's adjoint, and of an only step's."""


def passes(T: int, *, in_one_piece: bool = True) -> int:
    """Forward passes that training for T steps and its metagradient cost.

    Args:
        T: training steps.
        in_one_piece: whether a step is not cut into microbatches. If it is the only step, its
            adjoint then shares a forward pass with its gradient.
    """
    first = ONLY if T == 1 and in_one_piece else FIRST
    return STEP * T + ADJOINT * (T - 1) + first
