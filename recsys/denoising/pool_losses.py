"""Losses of the positives of a pool, each by itself, against the negatives that the pool shares."""

from __future__ import annotations

import abc

import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from recsys.losses.base import full_precision


class PoolLoss(nn.Module, abc.ABC):
    """The loss of each positive, from which it is chosen and on which it is trained."""

    @abc.abstractmethod
    def positives(self, positive: Tensor, negative: Tensor) -> Tensor:
        """Losses `[n, k]`, at least float32, of scores `[n, k]` of positives with `[n, m]` of their negatives."""

    def negatives(self, negative: Tensor) -> Tensor | None:
        """Losses `[n, m]` of the negatives by themselves; None: they count in those of the positives alone."""
        return None


class BPRPoolLoss(PoolLoss):
    """`softplus(s_j - s_i)` of positive i and negative j, the mean over the negatives of the pool.

    All positives of a pool meet the same negatives. With one of them the order of the losses is that of the scores,
    and the negative says how far the losses lie apart: an easy one brings them all near 0, so that a choice by loss is
    nearly uniform. A temperature that suits uniform negatives does not suit hard ones. The mean over several is
    steadier.

    Source:
        Rendle et al., BPR, UAI 2009.

    Example:
        >>> import torch
        >>> BPRPoolLoss().positives(torch.tensor([[0.0, 2.0]]), torch.tensor([[0.0]]))
        tensor([[0.6931, 0.1269]])
    """

    @override
    def positives(self, positive: Tensor, negative: Tensor) -> Tensor:
        positive, negative = full_precision(positive), full_precision(negative)
        return F.softplus(negative.unsqueeze(-2) - positive.unsqueeze(-1)).mean(-1)


class BCEPoolLoss(PoolLoss):
    """Binary cross-entropy: `softplus(-s_i)` of a positive i, which no negative changes, and `softplus(s_j)` of those.

    Example:
        >>> import torch
        >>> BCEPoolLoss().positives(torch.tensor([[0.0, 2.0]]), torch.tensor([[5.0]]))
        tensor([[0.6931, 0.1269]])
    """

    @override
    def positives(self, positive: Tensor, negative: Tensor) -> Tensor:
        return F.softplus(-full_precision(positive))

    @override
    def negatives(self, negative: Tensor) -> Tensor:
        return F.softplus(full_precision(negative))
