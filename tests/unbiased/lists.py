"""Small lists for the tests of losses."""

from __future__ import annotations

import torch
from torch import Tensor

from recsys.unbiased.shown_lists import ShownLists

B, L, F = 6, 4, 3


def shown(seed: int = 0) -> tuple[Tensor, ShownLists]:
    """Scores `[B, L]` in float64 that need a gradient, and lists: two are shorter, one has no click."""
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(B, L, generator=generator, dtype=torch.float64)
    click = (torch.rand(B, L, generator=generator) < 0.5).double()
    click[:, 0] = torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0, 0.0])
    click[1] = 0.0
    mask = torch.ones(B, L, dtype=torch.bool)
    mask[2, 2:], mask[5, 3:] = False, False
    features = torch.randn(B, L, F, generator=generator) * mask.unsqueeze(-1)
    return scores.requires_grad_(), ShownLists(features, click * mask, mask)
