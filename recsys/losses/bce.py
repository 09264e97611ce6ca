"""Binary cross-entropy with sampled negatives, the loss of SASRec."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from recsys.losses.base import SampledLoss, SampledScores, full_precision, without_hits


class BCE(SampledLoss):
    """Each score on its own: the positive is to be a yes, every negative a no.

    A row's loss is `(-log sigmoid(positive) - sum_n log(1 - sigmoid(negative_n))) / (1 + N)`, so it starts near log(2).
    A negative that is the row's positive (`hits`) adds nothing. `log_q` is not read: which negatives are drawn, and how
    often, is part of what the loss asks for.

    Args:
        temperature: divides the scores.

    Raises:
        ValueError: if the temperature is not above 0.

    Inputs:
        | field | shape | meaning |
        | --- | --- | --- |
        | positive | [T] | score of the positive |
        | negative | [T, N] | scores of the negatives |
        | hits | [2, H] or None | (row, column) of negatives that are the positive |
        | weight | [T] or None | row weights |

    Recommended sampler:
        `Uniform(1, per_position=True)` is SASRec's; more negatives make scores over-confident, see `GBCE`.

    Related:
        `GBCE` calibrates it; `InfoNCE` lets the items of a row compete.

    Source:
        Kang and McAuley, Self-Attentive Sequential Recommendation, ICDM 2018.

    Example:
        >>> import torch
        >>> scores = SampledScores(positive=torch.zeros(2), negative=torch.zeros(2, 3))
        >>> round(BCE()(scores).loss.item(), 4)  # log(2)
        0.6931
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, not {temperature}")
        self.temperature = temperature

    @override
    def rows(self, scores: SampledScores) -> Tensor:
        return binary_rows(scores, self.temperature, 1.0)


def binary_rows(scores: SampledScores, temperature: float, beta: float) -> Tensor:
    """`[T]` binary cross-entropy of each row, its positive's sigmoid raised to the power `beta`."""
    positive = beta * F.softplus(-full_precision(scores.positive) / temperature)
    negative = F.softplus(without_hits(scores) / temperature).sum(1)
    return (positive + negative) / (1 + scores.negative.shape[1])
