"""Pointwise and pairwise ranking together."""

from __future__ import annotations

from torch import Tensor
from typing_extensions import override

from recsys.losses.base import LossOutput, SlotLoss, SlotScores, weighted_mean
from recsys.losses.pairwise import Pairwise
from recsys.losses.pointwise import Pointwise


class Hybrid(SlotLoss):
    """A weighted sum: `pointwise` keeps the logits odds, `pairwise` sharpens the order inside a slot.

    Args:
        pointwise: weight of `Pointwise`.
        pairwise: weight of `Pairwise`.

    Raises:
        ValueError: a weight is negative, or both are 0.

    Inputs:
        As of its parts.

    Source:
        The ranking loss of SynerGen, arXiv 2509.21777.

    Example:
        >>> import torch
        >>> scores = SlotScores(torch.zeros(1, 3, 1), torch.tensor([0]))
        >>> round(Hybrid(pointwise=1, pairwise=0.5)(scores).loss.item(), 4)  # 1.5 log(2)
        1.0397
    """

    def __init__(self, pointwise: float = 1.0, pairwise: float = 1.0) -> None:
        super().__init__()
        if not (pointwise >= 0 and pairwise >= 0 and pointwise + pairwise > 0):
            raise ValueError(f"weights must not be negative or both 0: pointwise {pointwise}, pairwise {pairwise}")
        self.pointwise = pointwise
        self.pairwise = pairwise
        self.losses = {"pointwise": Pointwise(), "pairwise": Pairwise()}

    @override
    def rows(self, scores: SlotScores) -> Tensor:
        return self.pointwise * self.losses["pointwise"].rows(scores) + self.pairwise * self.losses["pairwise"].rows(
            scores
        )

    @override
    def forward(self, scores: SlotScores) -> LossOutput:
        parts = {name: weighted_mean(loss.rows(scores), scores.weight) for name, loss in self.losses.items()}
        loss = self.pointwise * parts["pointwise"] + self.pairwise * parts["pairwise"]
        return LossOutput(loss, {"loss": loss.detach()} | {name: part.detach() for name, part in parts.items()})
