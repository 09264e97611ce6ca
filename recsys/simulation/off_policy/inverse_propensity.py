"""Inverse propensity weighting: rewards of rounds count as the policy would have had them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from recsys.simulation.off_policy.rounds import Rounds
from recsys.simulation.off_policy.terms import Terms


class IPW:
    """`mean(w r)`, with `w` the policy's probability of the logged action over its propensity.

    Unbiased where the logging policy could take every action that the policy takes; its variance grows with the
    largest weights.

    Source: Horvitz and Thompson, JASA 1952; Strehl et al., "Learning from logged implicit exploration data", 2010.

    Example:
        >>> half = np.array([1.0, 1.0])
        >>> IPW()(Rounds(np.array([1.0, 0.0]), np.array([1.5, 0.5]), 0 * half, 0 * half, np.arange(2))).value
        0.75
    """

    name = "IPW"

    def __call__(self, rounds: Rounds) -> Terms:
        return Terms(rounds.weight * rounds.reward)


class ClippedIPW:
    """`mean(min(w, clip) r)`: less variance, and a bias downwards where rewards are positive.

    Args:
        clip: largest weight.

    Source: Ionides, "Truncated importance sampling", JCGS 2008.
    """

    name = "clipped IPW"
    models_rewards = False

    def __init__(self, clip: float = 10.0) -> None:
        self.clip = clip

    def weights(self, weight: NDArray[np.float64]) -> NDArray[np.float64]:
        """What weights `[N]` become."""
        return np.minimum(weight, self.clip)

    def __call__(self, rounds: Rounds) -> Terms:
        return Terms(self.weights(rounds.weight) * rounds.reward)


class SelfNormalizedIPW:
    """`sum(w r) / sum(w)`: consistent, never outside of the rewards, and indifferent to a constant added to them.

    Source: Swaminathan and Joachims, "The self-normalized estimator for counterfactual learning", NeurIPS 2015.
    """

    name = "SNIPW"

    def __call__(self, rounds: Rounds) -> Terms:
        return Terms(np.zeros(len(rounds)), rounds.weight * rounds.reward, rounds.weight)
