"""The multi-layer perceptron of a tower."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

from torch import Tensor, nn

from recsys.models.dropout import Dropout


class Tower(nn.Module):
    """Norm, then layers of a linear map, ReLU, norm and dropout, then a linear map.

    The norms are of each vector on its own (LayerNorm): statistics of a batch would mix items that show all of their
    features with items that hide some. The first one is there because embeddings start small.

    Args:
        width: of the input.
        hidden: widths of the layers between; none: one linear map.
        dim: of the output.
        dropout: share of zeroed values behind each hidden layer.

    Example:
        >>> import torch
        >>> Tower(8, (16,), 4)(torch.zeros(3, 8)).shape
        torch.Size([3, 4])
    """

    def __init__(self, width: int, hidden: Sequence[int], dim: int, dropout: float = 0.0):
        super().__init__()
        layers: list[nn.Module] = [nn.LayerNorm(width)]
        for before, after in pairwise((width, *hidden)):
            layers += [nn.Linear(before, after), nn.ReLU(), nn.LayerNorm(after), Dropout(dropout)]
        self.layers = nn.Sequential(*layers, nn.Linear((width, *hidden)[-1], dim))

    def forward(self, x: Tensor) -> Tensor:
        """`[n, width]` to `[n, dim]`."""
        out: Tensor = self.layers(x)
        return out
