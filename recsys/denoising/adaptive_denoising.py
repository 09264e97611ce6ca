"""Denoising by the losses of all users together: high ones are left out, or count less."""

from __future__ import annotations

import torch
from torch import Tensor
from typing_extensions import override

from recsys.denoising.weighting import PoolWeighting


class TruncatedLoss(PoolWeighting):
    """The positives with the highest losses of a batch are left out, T-CE where the loss is cross-entropy.

    The share that is left out grows from 0 by equal steps. Negatives are all kept.

    Args:
        drop: share of positives left out in the end.
        ramp: epochs until then.

    Raises:
        ValueError: `drop` is not in [0, 1), or `ramp` is not positive.

    Source:
        Wang et al., "Denoising Implicit Feedback for Recommendation", WSDM 2021.
    """

    def __init__(self, drop: float = 0.2, ramp: int = 10) -> None:
        super().__init__()
        if not 0 <= drop < 1 or ramp < 1:
            raise ValueError(f"TruncatedLoss: drop must be in [0, 1) and ramp positive, not {drop} and {ramp}")
        self.drop, self.ramp = drop, ramp

    @override
    def reads_losses(self, epoch: int) -> bool:
        return self.drop > 0 and epoch > 0

    @override
    def weights(self, losses: Tensor, users: Tensor, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        share = self.drop * min(epoch / self.ramp, 1.0)
        n = losses.numel()
        # Of equal losses the first in the batch are kept, so that exactly that many are.
        order = losses.flatten().argsort(stable=True)[: max(1, n - int(share * n))]
        weights = torch.zeros_like(losses.flatten()).index_fill_(0, order, n / len(order) / losses.shape[1])
        return weights.view_as(losses), {}


class ReweightedLoss(PoolWeighting):
    """A positive or negative counts by the beta-th power of its likelihood, R-CE where the loss is cross-entropy.

    The likelihood `exp(-loss)` is what the model gives to a positive, or to a negative's being none. Weights have no
    gradient.

    Args:
        beta: 0 weighs all alike.

    Raises:
        ValueError: `beta` is negative.

    Source:
        Wang et al., "Denoising Implicit Feedback for Recommendation", WSDM 2021.

    Example:
        >>> losses = -torch.tensor([[0.25, 1.0]]).log()
        >>> ReweightedLoss(0.5).weights(losses, torch.tensor([1]), epoch=0)[0]
        tensor([[0.2500, 0.5000]])
    """

    def __init__(self, beta: float = 0.2) -> None:
        super().__init__()
        if not beta >= 0:
            raise ValueError(f"ReweightedLoss: beta must be at least 0, not {beta}")
        self.beta = beta

    @override
    def reads_losses(self, epoch: int) -> bool:
        return self.beta > 0

    @override
    def weights(self, losses: Tensor, users: Tensor, epoch: int) -> tuple[Tensor, dict[str, Tensor]]:
        return torch.exp(-self.beta * losses) / losses.shape[1], {}

    @override
    def negative_weights(self, losses: Tensor, epoch: int) -> Tensor:
        return torch.exp(-self.beta * losses)
