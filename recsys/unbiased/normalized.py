"""Losses whose inverse-propensity weights are divided by their own sum."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from recsys.losses.base import LossOutput, weighted_mean
from recsys.unbiased.local_losses import LocalLoss
from recsys.unbiased.pair_loss import PairLoss, PairScores, check_clip, given, inverse_propensity
from recsys.unbiased.pointwise import weight_parts


class SelfNormalized(PairLoss):
    """Self-normalised: `mean(delta0) + rate * sum(w * (delta1 - delta0)) / sum(w)` with `w = Y / theta`.

    The rate stands for the mean relevance. It is a running mean of `w`, so that a batch in which positives happen to
    weigh much does not count more. With the mean of the batch itself it would be the loss of `RelMF`. A ratio within a
    batch is biased by the order of one over its size: use large batches. The rate is part of the checkpoint.

    Args:
        clip: least propensity.
        decay: of the running mean, a step.
        local: the loss of one pair under either answer; None: `SquaredError`.

    Raises:
        ValueError: the clip is no propensity, the decay no share, or the local loss unbounded: `-rate * delta0` of the
            positives would be.

    Source:
        Swaminathan and Joachims, "The Self-Normalized Estimator for Counterfactual Learning", NeurIPS 2015.

    Example:
        >>> scores = PairScores(torch.zeros(2), torch.tensor([1.0, 0.0]), propensity=torch.ones(2))
        >>> SelfNormalized()(scores).loss.item()
        0.25
    """

    rate: Tensor
    steps: Tensor

    def __init__(self, clip: float = 0.0, decay: float = 0.99, local: LocalLoss | None = None) -> None:
        super().__init__(local)
        if not 0 <= decay < 1:
            raise ValueError(f"decay must be at least 0 and below 1, not {decay}")
        if not self.local.bounded:
            raise ValueError("SelfNormalized has no lower bound with an unbounded local loss: choose SquaredError")
        self.clip, self.decay = check_clip(clip), decay
        self.register_buffer("rate", torch.zeros(()))
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @override
    def forward(self, scores: PairScores) -> LossOutput:
        if_relevant, if_not = self.local(scores.score)
        relevance = inverse_propensity(scores.label, given(scores.propensity, "propensity", self), self.clip)
        rate = self._updated(weighted_mean(relevance.detach(), scores.weight))
        each = relevance if scores.weight is None else relevance * scores.weight
        loss = weighted_mean(if_not, scores.weight) + rate * weighted_mean(if_relevant - if_not, each)
        return LossOutput(loss, {"loss": loss.detach(), "rate": rate} | weight_parts(scores, self.clip, self))

    def _updated(self, mean: Tensor) -> Tensor:
        """The running mean with that of this batch in it; evaluation leaves it as it is."""
        if self.training:
            self.steps += 1
            self.rate.lerp_(mean.to(self.rate.dtype), 1 - self.decay)
        # As Adam does: without the division, the zero that it starts from would count for a hundred steps.
        return self.rate / (1 - self.decay ** self.steps.clamp(min=1))


class DualUnbiased(PairLoss):
    """Positives and unlabeled pairs each have a propensity and a mean of their own, and both means count the same.

    `sum(Y / theta * delta1) / sum(Y / theta) + sum((1 - Y) / theta' * delta0) / sum((1 - Y) / theta')`. An unlabeled
    pair of a popular item weighs more: it was probably exposed, and not relevant. A side without pairs adds nothing.

    The release divides both by the size B of the batch. Here they are not, so that the loss does not depend on it: a
    weight of L2 of the release is B times as much here.

    Balance alone changes much, and propensities are to be judged against it: with `ItemPower(eta=0)` both sides have
    plain means, which is the neutral setting of this loss.

    Args:
        clip: least propensity on either side, above 0, which that of the most popular item's unlabeled pairs may be.
        local: the loss of one pair under either answer; None: `SquaredError`.

    Raises:
        ValueError: the clip is no propensity, or 0.

    Source:
        Lee et al., "Dual Unbiased Recommender Learning for Implicit Feedback", SIGIR 2021.

    Example:
        >>> scores = PairScores(torch.zeros(3), torch.tensor([1.0, 0.0, 0.0]), torch.ones(3), torch.ones(3))
        >>> DualUnbiased()(scores).loss.item()
        0.5
    """

    asks_unlabeled = True
    asks_dual = True

    def __init__(self, clip: float = 0.1, local: LocalLoss | None = None) -> None:
        super().__init__(local)
        if clip == 0:
            raise ValueError("DualUnbiased: clip must be above 0, as the propensity of unlabeled pairs may be 0")
        self.clip = check_clip(clip)

    @override
    def forward(self, scores: PairScores) -> LossOutput:
        if_relevant, if_not = self.local(scores.score)
        propensity = given(scores.propensity, "propensity", self)
        of_unlabeled = given(scores.unlabeled_propensity, "propensity of unlabeled pairs", self)
        positive = inverse_propensity(scores.label, propensity, self.clip)
        unlabeled = inverse_propensity(1 - scores.label, of_unlabeled, self.clip)
        if scores.weight is not None:
            positive, unlabeled = positive * scores.weight, unlabeled * scores.weight
        of_positives, of_others = weighted_mean(if_relevant, positive), weighted_mean(if_not, unlabeled)
        loss = of_positives + of_others
        parts = {"loss": loss, "positives": of_positives, "unlabeled": of_others}
        detached = {name: part.detach() for name, part in parts.items()}
        return LossOutput(loss, detached | weight_parts(scores, self.clip, self))
