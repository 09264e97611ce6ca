"""Losses that compare a positive item with another one of the same user."""

from __future__ import annotations

import abc
from typing import ClassVar, NamedTuple

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from recsys.losses.base import LossOutput, full_precision, weighted_mean
from recsys.unbiased.pair_loss import check_clip, effective_share, given, inverse_propensity, least


class TripleScores(NamedTuple):
    """B comparisons of a positive item i with another item j.

    Attributes:
        difference: `[B]` float, the score of i less that of j.
        other_label: `[B]` float, 1 where j is positive too.
        propensity: `[B]` float in (0, 1], of the exposure of i. None: the loss does not ask.
        other_propensity: `[B]` float in [0, 1], of j; read where j is positive. None: likewise.
    """

    difference: Tensor
    other_label: Tensor
    propensity: Tensor | None = None
    other_propensity: Tensor | None = None


class PairwiseLoss(nn.Module, abc.ABC):
    """A loss of comparisons."""

    asks_exposure: ClassVar[bool]
    """Whether it reads propensities."""

    @abc.abstractmethod
    def forward(self, scores: TripleScores) -> LossOutput:
        """The loss of a batch."""


class BPRLoss(PairwiseLoss):
    """`softplus(-(f_i - f_j))`: a positive item above others, which are taken for irrelevant.

    Source:
        Rendle et al., "BPR: Bayesian Personalized Ranking from Implicit Feedback", UAI 2009.

    Example:
        >>> import torch
        >>> round(BPRLoss()(TripleScores(torch.zeros(1), torch.zeros(1))).loss.item(), 4)  # log(2)
        0.6931
    """

    asks_exposure = False

    @override
    def forward(self, scores: TripleScores) -> LossOutput:
        loss = weighted_mean(F.softplus(-full_precision(scores.difference)), None)
        return LossOutput(loss, {"loss": loss.detach()})


class UBPRLoss(PairwiseLoss):
    """`(1 / theta_i) * (1 - Y_j / theta_j) * softplus(-(f_i - f_j))`, no comparison below `-beta`.

    Its mean over exposures is `gamma_i * (1 - gamma_j) * softplus(...)`, with j drawn from all other items, positive
    ones among them (`Triples(positives=True)`), where nothing is clipped. A positive j of low propensity has a negative
    weight, and so a loss that has no lower bound but `-beta`.

    Args:
        clip: least propensity.
        beta: how far a comparison may be below 0.

    Raises:
        ValueError: the clip is no propensity, or beta negative.

    Source:
        Saito, "Unbiased Pairwise Learning from Biased Implicit Feedback", ICTIR 2020.

    Example:
        >>> import torch
        >>> zero, half = torch.zeros(1), torch.full((1,), 0.5)
        >>> round(UBPRLoss()(TripleScores(zero, zero, half, half)).loss.item(), 4)  # 2 log(2)
        1.3863
    """

    asks_exposure = True

    def __init__(self, clip: float = 0.0, beta: float = 0.0) -> None:
        super().__init__()
        if not beta >= 0:
            raise ValueError(f"beta must be at least 0, not {beta}")
        self.clip, self.beta = check_clip(clip), beta

    @override
    def forward(self, scores: TripleScores) -> LossOutput:
        inverse = 1 / given(scores.propensity, "propensity", self).clamp(min=self.clip)
        of_other = given(scores.other_propensity, "propensity of the other item", self)
        irrelevant = 1 - inverse_propensity(scores.other_label, of_other, self.clip)
        value = inverse * irrelevant * F.softplus(-full_precision(scores.difference))
        loss = weighted_mean(value.clamp(min=-self.beta), None)
        parts = {"least_local": least(value), "effective_share": effective_share(inverse)}
        return LossOutput(loss, {"loss": loss.detach()} | parts)
