"""Weights of clicked targets, by how likely the positions where they were clicked are to be examined."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from recsys.unbiased.click_loss import check_bound, check_relative, inverse_weights


class PositionWeights(nn.Module):
    """`exp(g_1 - g_position)` of each target, for an event log that says at which position of a slate it was clicked.

    The propensities are given: a log of what was done lacks what was shown beside it, of which they could be learned.
    `DualLearning` learns them from lists, `shuffled_propensities` from slates in random order.

    Args:
        relative: chances of examination of the positions, up to a common factor; later ones are like the last.
        largest_weight: bound of the weights. None: none.
        first: number of the first position in the log. What lies before it is an unknown position, and weighs 1.

    Raises:
        ValueError: a chance is not above 0 and finite, or the bound is below 1.

    Example:
        >>> PositionWeights([0.8, 0.4])(torch.tensor([1, 2, 9, 0]))
        tensor([1., 2., 2., 1.])
    """

    weights: Tensor

    def __init__(self, relative: Sequence[float], largest_weight: float | None = None, first: int = 1):
        super().__init__()
        check_relative(relative)
        check_bound(largest_weight)
        self.first = first
        weights = inverse_weights(torch.tensor(relative, dtype=torch.float64).log())
        if largest_weight is not None:
            weights = weights.clamp(max=largest_weight)
        self.register_buffer("weights", weights.float(), persistent=False)

    def forward(self, position: Tensor) -> Tensor:
        """`[P]` float32 weights of targets that were clicked at `position` `[P]` int64."""
        place = position - self.first
        return torch.where(place < 0, 1.0, self.weights[place.clamp(0, len(self.weights) - 1)])
