"""Labels made of both data and model: less variance than inverse propensities, for the bias of the model."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from recsys.unbiased.local_losses import LocalLoss
from recsys.unbiased.nonnegative import NonNegativity
from recsys.unbiased.pair_loss import PairScores, RelevanceLoss, given, inverse_propensity


class PosteriorLabel(RelevanceLoss):
    """A positive is relevant; an unlabeled pair is so with `g * (1 - theta) / (1 - theta * g)`, given it was not seen.

    The estimate lies in [0, 1], and its mean is the relevance where g is: bias comes through g alone, on unlabeled
    pairs. It is the expectation step of EM; g is a model that follows the trained one slowly.

    Args:
        local: the loss of one pair under either answer; None: `SquaredError`.

    Source:
        Bekker and Davis, "Learning from Positive and Unlabeled Data: A Survey", Machine Learning 2020, section 5.3.

    Example:
        >>> half = torch.tensor([0.5, 0.5])
        >>> scores = PairScores(half, torch.tensor([1.0, 0.0]), propensity=half, relevance=half)
        >>> [round(value, 4) for value in PosteriorLabel().estimated(scores).tolist()]
        [1.0, 0.3333]
    """

    asks_unlabeled = True
    asks_relevance = True
    beyond_one = False

    def __init__(self, local: LocalLoss | None = None) -> None:
        super().__init__(local, None)

    @override
    def estimated(self, scores: PairScores) -> Tensor:
        theta, g = given(scores.propensity, "propensity", self), given(scores.relevance, "relevance", self)
        missed = g * (1 - theta) / (1 - theta * g).clamp_min(torch.finfo(g.dtype).eps)
        return torch.where(scores.label > 0, 1, missed)


class Shrinkage(RelevanceLoss):
    """`r = (1 - k) * g + k * Y / theta`, `k = theta / (theta + c)`: pairs of low propensity are left to the model g.

    Its bias is `(1 - k) * (g - gamma)` and its variance `k^2 * gamma * (1 / theta - gamma)`. With c = 0 it is the loss
    of `RelMF`.

    Args:
        c: propensity at which data and model count the same.
        local: the loss of one pair under either answer; None: `SquaredError`.
        nonnegative: what becomes of negative losses; None: nothing.

    Raises:
        ValueError: `c` is negative, or the loss would be unbounded below.

    Example:
        >>> scores = PairScores(torch.zeros(1), torch.ones(1), torch.tensor([0.5]), relevance=torch.tensor([0.4]))
        >>> round(Shrinkage(c=0.5).estimated(scores).item(), 4)  # k = 0.5
        1.2
    """

    asks_unlabeled = True
    asks_relevance = True
    beyond_one = True

    def __init__(
        self, c: float = 0.1, local: LocalLoss | None = None, nonnegative: NonNegativity | None = None
    ) -> None:
        super().__init__(local, nonnegative)
        if not c >= 0:
            raise ValueError(f"c must be at least 0, not {c}")
        self.c = c

    @override
    def estimated(self, scores: PairScores) -> Tensor:
        theta, g = given(scores.propensity, "propensity", self), given(scores.relevance, "relevance", self)
        trust = theta / (theta + self.c) if self.c else torch.ones_like(theta)
        return (1 - trust) * g + trust * inverse_propensity(scores.label, theta, 0.0)
