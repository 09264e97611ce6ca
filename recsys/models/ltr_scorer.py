"""Scores of documents from their features, one by one."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn


class PointwiseScorer(nn.Module):
    """A multi-layer perceptron that scores each document by itself, with the same weights at every position.

    The last layer has no activation: a score may take any value, and losses bound their own weights.

    Args:
        n_features: F.
        hidden: widths of the hidden layers; none gives a linear score.

    Raises:
        ValueError: a size is below 1.

    Example:
        >>> PointwiseScorer(5, hidden=(8,))(torch.zeros(2, 10, 5)).shape
        torch.Size([2, 10])
    """

    shift: Tensor
    scale: Tensor

    def __init__(self, n_features: int, hidden: Sequence[int] = (64, 32)):
        super().__init__()
        if min(n_features, *hidden, n_features) < 1:
            raise ValueError(f"sizes are at least 1, not {n_features} features and layers of {tuple(hidden)}")
        self.register_buffer("shift", torch.zeros(n_features))
        self.register_buffer("scale", torch.ones(n_features))
        widths = [n_features, *hidden]
        layers: list[nn.Module] = []
        for width, following in pairwise(widths):
            layers += [nn.Linear(width, following), nn.ELU()]
        self.layers = nn.Sequential(*layers, nn.Linear(widths[-1], 1))

    def standardise(self, mean: Tensor, deviation: Tensor) -> None:
        """Has features centred and divided by their standard deviation before the first layer; saved with the weights.

        Args:
            mean: `[F]` of the training documents.
            deviation: `[F]` standard deviation; a feature without any is only centred.
        """
        self.shift.copy_(mean)
        self.scale.copy_(torch.where(deviation > 0, 1 / deviation, 1.0))

    def forward(self, features: Tensor) -> Tensor:
        """Scores `[..., L]` of documents with features `[..., L, F]`.

        Raises:
            ValueError: documents have another number of features.
        """
        if features.shape[-1] != len(self.shift):
            raise ValueError(
                f"documents have {features.shape[-1]} features, and the scorer was made for {len(self.shift)}"
            )
        scores: Tensor = self.layers((features - self.shift) * self.scale)
        return scores.squeeze(-1)
