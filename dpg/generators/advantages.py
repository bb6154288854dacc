"""Group-relative advantages, without JAX: verl's processes compute them here, too.

Equation 21 of Shao et al., "DeepSeekMath" (arXiv:2402.03300).
"""

from __future__ import annotations

import numpy as np

from dpg.errors import DpgError


class AdvantageError(DpgError):
    """Rewards from which no advantage can be computed."""


def group_advantages(rewards: np.ndarray, groups: np.ndarray, eps: float = 0.0) -> np.ndarray:
    """Each reward minus its group's mean, over its group's standard deviation.

    Computed in float64. Metagradients are of the order of 1e-9: with an epsilon of 1e-6, the usual
    one and that of both readings of the paper, they are in effect divided by 1e-6. With 0 they are
    normalised, whatever their size.

    Args:
        rewards: [N] float, one per rollout.
        groups: [N] int; rollouts with the same number answer the same prompt.
        eps: added to the standard deviation (sample standard deviation, N - 1 in the denominator,
            as in verl).

    Returns:
        [N] float64. A group whose rewards are all equal has advantage zero.

    Raises:
        AdvantageError: a reward that is not finite (names the rollouts), or shapes that differ.
    """
    rewards = np.asarray(rewards, np.float64)
    groups = np.asarray(groups)
    if rewards.ndim != 1 or rewards.shape != groups.shape:
        raise AdvantageError(
            f"found shapes {rewards.shape} and {groups.shape}, expected rewards and groups [N]"
        )
    bad = np.flatnonzero(~np.isfinite(rewards))
    if bad.size:
        raise AdvantageError(f"the rewards of rollouts {bad[:8].tolist()} are not finite")
    _, index, counts = np.unique(groups, return_inverse=True, return_counts=True)
    mean = np.bincount(index, rewards) / counts
    centred = rewards - mean[index]
    variance = np.bincount(index, centred**2) / np.maximum(counts - 1, 1)
    deviation = np.sqrt(variance)
    # Equal rewards leave a rounding error of the mean behind: no signal, and it must not be blown
    # up to one.
    largest = np.maximum.reduceat(np.abs(rewards)[np.argsort(index)], np.cumsum(counts) - counts)
    equal = deviation <= 8 * np.finfo(np.float64).eps * largest
    scale = np.where(equal, np.inf, deviation + eps)
    return centred / scale[index]
