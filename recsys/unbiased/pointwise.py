"""Losses that take each pair on its own: naive, ideal, and weighted by inverse propensity."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from recsys.losses.base import LossOutput, weighted_mean
from recsys.unbiased.local_losses import LocalLoss
from recsys.unbiased.nonnegative import NonNegativity
from recsys.unbiased.pair_loss import (
    PairLoss,
    PairScores,
    RelevanceLoss,
    check_clip,
    effective_share,
    given,
    inverse_propensity,
    least,
)


class Naive(PairLoss):
    """Positives are relevant, unlabeled pairs are not: `mean(Y * delta1 + c * (1 - Y) * delta0)`.

    With c = 1 it misses the ideal loss by `mean((theta - 1) * gamma * (delta1 - delta0))`.

    Args:
        c: weight of unlabeled pairs.
        local: the loss of one pair under either answer; None: `SquaredError`.

    Raises:
        ValueError: `c` is negative.

    Source:
        Hu, Koren, Volinsky, "Collaborative Filtering for Implicit Feedback Datasets", ICDM 2008 (WMF).

    Example:
        >>> scores = PairScores(torch.zeros(2), torch.tensor([1.0, 0.0]))
        >>> Naive(c=0.5)(scores).loss.item()  # (0.25 + 0.5 * 0.25) / 2
        0.1875
    """

    asks_exposure = False

    def __init__(self, c: float = 1.0, local: LocalLoss | None = None) -> None:
        super().__init__(local)
        if not c >= 0:
            raise ValueError(f"c must be at least 0, not {c}")
        self.c = c

    @override
    def forward(self, scores: PairScores) -> LossOutput:
        if_relevant, if_not = self.local(scores.score)
        local = scores.label * if_relevant + self.c * (1 - scores.label) * if_not
        loss = weighted_mean(local, scores.weight)
        return LossOutput(loss, {"loss": loss.detach(), "least_local": least(local)})


class Ideal(RelevanceLoss):
    """What the others estimate: the relevance of each pair is given, as a simulation knows it.

    Args:
        local: the loss of one pair under either answer; None: `SquaredError`.

    Example:
        >>> scores = PairScores(torch.zeros(2), torch.zeros(2), relevance=torch.tensor([1.0, 0.3]))
        >>> Ideal()(scores).loss.item()
        0.25
    """

    asks_exposure = False
    asks_relevance = True
    beyond_one = False

    def __init__(self, local: LocalLoss | None = None) -> None:
        super().__init__(local, None)

    @override
    def estimated(self, scores: PairScores) -> Tensor:
        return given(scores.relevance, "relevance", self)


class RelMF(RelevanceLoss):
    """Inverse propensity weighting: `r = Y / max(theta, clip)`, whose mean is the relevance where nothing is clipped.

    The variance of a pair is `gamma * (1 / theta - gamma) * (delta1 - delta0)^2`. A clip bounds it, and misses the
    ideal loss by `-(1 - theta / clip) * gamma * (delta1 - delta0)` on pairs of a lower propensity. Propensities are
    known up to a factor, which changes the balance of both terms: choose clip and propensities by an unbiased
    validation.

    Args:
        clip: least propensity; 0 is the unbiased loss.
        local: the loss of one pair under either answer; None: `SquaredError`.
        nonnegative: what becomes of negative losses, which positives of low propensity have; None: nothing.

    Raises:
        ValueError: the loss would be unbounded below, or the clip is no propensity.

    Source:
        Saito et al., "Unbiased Recommender Learning from Missing-Not-At-Random Implicit Feedback", WSDM 2020.

    Example:
        >>> scores = PairScores(torch.tensor([1.0]), torch.tensor([1.0]), propensity=torch.tensor([0.5]))
        >>> round(RelMF()(scores).loss.item(), 4)  # 2 * (1 - p)^2 - p^2 of p = sigmoid(1)
        -0.3898
    """

    beyond_one = True

    def __init__(
        self, clip: float = 0.0, local: LocalLoss | None = None, nonnegative: NonNegativity | None = None
    ) -> None:
        super().__init__(local, nonnegative)
        self.clip = check_clip(clip)

    @override
    def estimated(self, scores: PairScores) -> Tensor:
        return inverse_propensity(scores.label, given(scores.propensity, "propensity", self), self.clip)

    @override
    def forward(self, scores: PairScores) -> LossOutput:
        loss, parts = super().forward(scores)
        return LossOutput(loss, parts | weight_parts(scores, self.clip, self))


def weight_parts(scores: PairScores, clip: float, loss: PairLoss) -> dict[str, Tensor]:
    """What to watch of inverse propensities: the effective share of positives, and the share that was clipped."""
    propensity = given(scores.propensity, "propensity", loss)
    positives = scores.label.sum().clamp(min=1)
    return {
        "effective_share": effective_share(inverse_propensity(scores.label, propensity, clip)),
        "clipped_share": torch.where(propensity < clip, scores.label, 0).sum() / positives,
    }
