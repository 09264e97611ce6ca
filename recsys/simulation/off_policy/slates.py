"""Estimators of the reward of whole slates. Which is right depends on what a reward at a position depends on."""

from __future__ import annotations

from typing import Protocol

import numpy as np

from recsys.simulation.off_policy.slate_rounds import SlateRounds
from recsys.simulation.off_policy.terms import Terms


class SlateEstimator(Protocol):
    """Estimates the mean reward of a slate."""

    @property
    def name(self) -> str:
        """To print."""

    def __call__(self, slates: SlateRounds) -> Terms:
        """The terms of the estimate, one a slate."""


class IndependentIPS:
    """`mean(sum_k w_k r_k)` with marginal weights: a reward depends on the action at its own position alone.

    Source: Li et al., "Offline evaluation of ranking policies with click models", KDD 2018.
    """

    name = "IIPS"

    def __call__(self, slates: SlateRounds) -> Terms:
        """The terms of the estimate.

        Raises:
            ValueError: the marginal weights are not known.
        """
        if slates.marginal is None:
            raise ValueError(
                "independent IPS needs the chance of an action at its position whatever stands above, which a policy "
                "that fills slates from the top does not tell; use reward-interaction IPS or the cascade DR"
            )
        return Terms((slates.marginal * slates.reward).sum(1))


class RewardInteractionIPS:
    """`mean(sum_k w_1 ... w_k r_k)`: a reward depends on its action and those above.

    Source: McInerney et al., "Counterfactual evaluation of slate recommendations with sequential reward interactions",
    KDD 2020.
    """

    name = "RIPS"

    def __call__(self, slates: SlateRounds) -> Terms:
        return Terms((slates.weight.cumprod(1) * slates.reward).sum(1))


class CascadeDR:
    """`mean(sum_k w_1..w_k (r_k - q_k) + w_1..w_{k-1} E q_k)`, with `q_k` the predicted reward from position k down.

    Unbiased where reward-interaction IPS is, whatever the model says.

    Source: Kiyohara et al., "Doubly robust off-policy evaluation for ranking policies under the cascade behavior
    model", WSDM 2022.
    """

    name = "cascade DR"

    def __call__(self, slates: SlateRounds) -> Terms:
        down_to = slates.weight.cumprod(1)
        above = np.concatenate([np.ones((len(slates), 1)), down_to[:, :-1]], axis=1)
        return Terms((down_to * (slates.reward - slates.predicted) + above * slates.expected).sum(1))
