"""What every loss over clicked lists receives and returns, and the softmax loss that most of them share."""

from __future__ import annotations

import abc
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.losses.base import LossOutput, full_precision, weighted_mean
from recsys.unbiased.shown_lists import ShownLists

LARGEST_LOG_WEIGHT = 30.0
"""Weights without a bound of their own end here, so that the sum over a batch is finite."""


class ClickLoss(nn.Module, abc.ABC):
    """A loss of scores that is computed from clicks on shown lists.

    Parameters of a loss are those of its model of examination, never of the ranker.
    """

    @abc.abstractmethod
    def forward(self, scores: Tensor, lists: ShownLists) -> LossOutput:
        """The loss of a batch.

        Args:
            scores: `[B, L]` of the ranker, in shown order.
            lists: the lists.
        """

    def relative_propensities(self) -> Tensor | None:
        """`[contexts, L]` chance of examination of each position over that of the first; None: not modelled."""
        return None


def softmax_loss(scores: Tensor, amount: Tensor, mask: Tensor) -> Tensor:
    """`-sum a_i log softmax(s)_i / sum a_i`: the softmax is over a list, both sums over the batch.

    The scale of the amounts cancels, which makes inverse-propensity weights a self-normalised estimate: slightly
    biased, and much calmer. One large weight still decides a small batch; let it have at least 128 lists.

    Args:
        scores: `[B, L]` or `[1, L]`.
        amount: `[B, L]` a >= 0, clicks times their weights.
        mask: `[B, L]` bool, false where a list is shorter.

    Returns:
        Scalar; 0 where nothing was clicked.

    Example:
        >>> scores, mask = torch.zeros(1, 4), torch.ones(1, 4, dtype=torch.bool)
        >>> round(softmax_loss(scores, torch.tensor([[0.0, 7.0, 0.0, 0.0]]), mask).item(), 4)  # log(4)
        1.3863
    """
    scores = full_precision(scores)
    shown = scores.masked_fill(~mask, torch.finfo(scores.dtype).min / 2)
    rows = -torch.log_softmax(shown, dim=1).masked_fill(~mask, 0.0)
    return weighted_mean(rows.flatten(), amount.masked_fill(~mask, 0.0).flatten())


def inverse_weights(logits: Tensor) -> Tensor:
    """`exp(z_1 - z_i)` of logits `[..., L]`, without gradient: how much a click at i counts against one at the top.

    Without the stop a model would make its own weights small instead of fitting the clicks.
    """
    logits = full_precision(logits.detach())
    return (logits[..., :1] - logits).clamp(max=LARGEST_LOG_WEIGHT).exp()


def clipped(weights: Tensor, largest: float | None, click: Tensor) -> tuple[Tensor, Tensor]:
    """Weights `[B, L]` of at most `largest`, and the share of the clicks `[B, L]` whose weight that changes."""
    weights = weights.broadcast_to(click.shape)
    if largest is None:
        return weights, weights.new_zeros(())
    share = weighted_mean((weights > largest).to(weights.dtype).flatten(), click.flatten())
    return weights.clamp(max=largest), share


def check_bound(largest: float | None) -> None:
    """Refuses a bound below 1, which the weight of the first position is.

    Raises:
        ValueError: it is.
    """
    if largest is not None and not largest >= 1:
        raise ValueError(f"largest_weight is at least 1, the weight of the first position, not {largest}")


def check_relative(relative: Sequence[float]) -> None:
    """Refuses chances of examination by which nothing can be divided.

    Raises:
        ValueError: there is none, or one is not above 0 and finite.
    """
    if not relative or not all(0 < chance < math.inf for chance in relative):
        raise ValueError(f"relative: chances of examination lie above 0 and are finite, not {tuple(relative)}")
