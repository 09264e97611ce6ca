"""Losses over clicks that take propensities as given, or ignore them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from typing_extensions import override

from recsys.losses.base import LossOutput
from recsys.unbiased.click_loss import ClickLoss, check_bound, check_relative, clipped, inverse_weights, softmax_loss
from recsys.unbiased.shown_lists import ShownLists


class NaiveClicks(ClickLoss):
    """Clicks are taken for relevance, wherever they were made. Learns position bias with the rest.

    With gains in the place of clicks it is the softmax loss of judged lists.

    Example:
        >>> lists = ShownLists(torch.zeros(1, 4, 1), torch.eye(1, 4), torch.ones(1, 4, dtype=torch.bool))
        >>> round(NaiveClicks()(torch.zeros(1, 4), lists).loss.item(), 4)  # log(4)
        1.3863
    """

    @override
    def forward(self, scores: Tensor, lists: ShownLists) -> LossOutput:
        loss = softmax_loss(scores, lists.click, lists.mask)
        return LossOutput(loss, {"loss": loss.detach()})


class InversePropensity(ClickLoss):
    """A click counts by the inverse of the chance that its position is examined; relative chances are enough.

    Args:
        relative: chances of positions 1, 2, ... up to a common factor.
        largest_weight: bound of the weights. None: none.

    Raises:
        ValueError: a chance is not above 0 and finite, or the bound is below 1.

    Source:
        Joachims, Swaminathan and Schnabel, WSDM 2017; Wang et al., SIGIR 2016.
    """

    log_relative: Tensor

    def __init__(self, relative: Sequence[float], largest_weight: float | None = None):
        super().__init__()
        check_relative(relative)
        check_bound(largest_weight)
        self.largest_weight = largest_weight
        logs = torch.tensor(relative, dtype=torch.float32).log()
        self.register_buffer("log_relative", logs - logs[0])

    @override
    def forward(self, scores: Tensor, lists: ShownLists) -> LossOutput:
        if scores.shape[1] > len(self.log_relative):
            raise ValueError(f"lists of {scores.shape[1]} positions, and propensities of {len(self.log_relative)}")
        weights = inverse_weights(self.log_relative[None, : scores.shape[1]])
        weights, share = clipped(weights, self.largest_weight, lists.click)
        loss = softmax_loss(scores, lists.click * weights, lists.mask)
        return LossOutput(loss, {"loss": loss.detach(), "clipped": share})

    @override
    def relative_propensities(self) -> Tensor:
        return self.log_relative.exp()[None]
