"""Doubly robust with smaller weights: some bias of the model for less variance."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from recsys.simulation.off_policy.rounds import Rounds
from recsys.simulation.off_policy.terms import Terms


class SwitchDR:
    """Doubly robust up to a weight, the model alone beyond it: `mean(E q + [w <= tau] w (r - q))`.

    Args:
        tau: largest weight that is used; 0 is the direct method, infinity doubly robust.

    Source: Wang, Agarwal and Dudik, "Optimal and adaptive off-policy evaluation in contextual bandits", ICML 2017.
    """

    name = "switch-DR"
    models_rewards = True

    def __init__(self, tau: float = 10.0) -> None:
        self.tau = tau

    def weights(self, weight: NDArray[np.float64]) -> NDArray[np.float64]:
        """What weights `[N]` become."""
        return np.where(weight <= self.tau, weight, 0.0)

    def __call__(self, rounds: Rounds) -> Terms:
        return corrected(rounds, self.weights(rounds.weight))


class OptimisticShrinkageDR:
    """Doubly robust with weights `lambda w / (w^2 + lambda)`, which are smallest where `w` is largest.

    Args:
        shrinkage: lambda; 0 is the direct method, infinity doubly robust.

    Source: Su et al., "Doubly robust off-policy evaluation with shrinkage", ICML 2020.
    """

    name = "DRos"
    models_rewards = True

    def __init__(self, shrinkage: float = 100.0) -> None:
        self.shrinkage = shrinkage

    def weights(self, weight: NDArray[np.float64]) -> NDArray[np.float64]:
        """What weights `[N]` become."""
        if math.isinf(self.shrinkage):
            return weight
        square = weight**2 + self.shrinkage
        return np.divide(self.shrinkage * weight, square, out=np.zeros_like(weight), where=square > 0)

    def __call__(self, rounds: Rounds) -> Terms:
        return corrected(rounds, self.weights(rounds.weight))


def corrected(rounds: Rounds, weights: NDArray[np.float64]) -> Terms:
    """`mean(E q + weights (r - q))`, with weights `[N]`."""
    return Terms(rounds.expected + weights * (rounds.reward - rounds.predicted), pull=rounds.pull(weights))
