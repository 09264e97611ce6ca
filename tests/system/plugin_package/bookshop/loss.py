"""A loss of our own."""

import torch
from torch import Tensor

from recsys.losses.base import LossOutput, SampledLoss, SampledScores, without_hits


class Margin(SampledLoss):
    """The positive must stand `margin` above every negative."""

    def __init__(self, margin: float = 0.2):
        super().__init__()
        self.margin = margin

    def rows(self, scores: SampledScores) -> Tensor:
        short = self.margin - scores.positive[:, None] + without_hits(scores)
        return torch.relu(short).mean(1)

    def forward(self, scores: SampledScores) -> LossOutput:
        loss, parts = super().forward(scores)
        return LossOutput(loss, parts | {"positive": scores.positive.mean().detach()})
