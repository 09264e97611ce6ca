"""The ranker and the propensities of positions, learned from the same clicks: each corrects the loss of the other."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import override

from recsys.losses.base import LossOutput
from recsys.unbiased.click_loss import ClickLoss, check_bound, clipped, inverse_weights, softmax_loss
from recsys.unbiased.position_propensity import PositionPropensity
from recsys.unbiased.shown_lists import ShownLists


class DualLearning(ClickLoss):
    """Two softmax losses over a list, of scores f and of the logits g of positions.

        ranker:      - sum_i c_i exp(g_1 - g_i) log softmax(f)_i      clicks over examination
        propensity:  - sum_i c_i exp(f_1 - f_i) log softmax(g)_i      clicks over relevance

    Each is divided by the sum of its amounts over the batch. Weights have no gradient, so that the ranker learns from
    the first loss alone and the propensities from the second alone; the sum is what is minimised. f_1 is the score of
    the document that was shown first, not of the best one.

    At the start all weights of clicks are 1. Where features tell the position, the ranker can learn position bias as
    relevance and propensities come out too flat: see `recsys.unbiased.identifiability`. What is learned are
    propensities relative to the first position. Optimizers of both parts should move at comparable rates.

    Args:
        positions: longest list.
        contexts: situations with propensities of their own.
        largest_weight: bound of both weights, which grow exponentially with the spread of scores. None: none.

    Raises:
        ValueError: the bound is below 1.

    Source:
        Ai et al., "Unbiased Learning to Rank with Unbiased Propensity Estimation", SIGIR 2018.

    Example:
        >>> import torch
        >>> lists = ShownLists(torch.zeros(2, 3, 1), torch.eye(2, 3), torch.ones(2, 3, dtype=torch.bool))
        >>> output = DualLearning(positions=3)(torch.zeros(2, 3), lists)
        >>> round(output.parts["ranker"].item(), 4), round(output.parts["propensity"].item(), 4)  # log(3)
        (1.0986, 1.0986)
    """

    def __init__(self, positions: int = 10, contexts: int = 1, largest_weight: float | None = 50.0):
        super().__init__()
        check_bound(largest_weight)
        self.propensity = PositionPropensity(positions, contexts)
        self.largest_weight = largest_weight

    @override
    def forward(self, scores: Tensor, lists: ShownLists) -> LossOutput:
        logits: Tensor = self.propensity(scores.shape[1], lists.context)
        of_examination, cut_examination = clipped(inverse_weights(logits), self.largest_weight, lists.click)
        of_relevance, cut_relevance = clipped(inverse_weights(scores), self.largest_weight, lists.click)
        ranker = softmax_loss(scores, lists.click * of_examination, lists.mask)
        propensity = softmax_loss(logits.broadcast_to(scores.shape), lists.click * of_relevance, lists.mask)
        loss = ranker + propensity
        parts = {"loss": loss, "ranker": ranker, "propensity": propensity}
        clip = {"clipped_examination": cut_examination, "clipped_relevance": cut_relevance}
        return LossOutput(loss, {name: value.detach() for name, value in (parts | clip).items()})

    @override
    def relative_propensities(self) -> Tensor:
        return self.propensity.relative()
