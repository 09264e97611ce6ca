"""Dropout that draws one random byte a value instead of one random float."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Dropout(nn.Module):
    """Zeroes a share of the values and scales the rest, like `nn.Dropout`.

    On a CPU the generator behind `nn.Dropout` is serial and costs more than the matrix products of a small decoder;
    eight values share one 64-bit draw here. The share is rounded to a multiple of 1/256, and the scale fits the
    rounded share, so that the mean is kept exactly.

    Example:
        >>> Dropout(0.5).eval()(torch.ones(2))
        tensor([1., 1.])
    """

    def __init__(self, share: float = 0.5):
        super().__init__()
        if not 0 <= share < 1:
            raise ValueError(f"dropout must lie in [0, 1), not {share}")
        self.share = share
        self._threshold = min(round(share * 256), 255)

    def extra_repr(self) -> str:
        return f"share={self.share}"

    def forward(self, x: Tensor) -> Tensor:
        """Any shape and float type; the identity in evaluation."""
        if not self.training or self._threshold == 0:
            return x
        words = torch.empty(-(-x.numel() // 8), dtype=torch.int64, device=x.device).random_(-(2**63), None)
        keep = words.view(torch.uint8)[: x.numel()].view(x.shape) >= self._threshold
        return x * (keep * (256 / (256 - self._threshold))).to(x.dtype)
