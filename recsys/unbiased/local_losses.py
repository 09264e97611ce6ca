"""What a pair costs if it is relevant, and what if it is not."""

from __future__ import annotations

import abc
from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from typing_extensions import override

from recsys.losses.base import full_precision


class LocalLoss(nn.Module, abc.ABC):
    """The loss of one pair under either answer, of its score alone."""

    bounded: ClassVar[bool]
    """Whether both losses have an upper bound, so that neither can be gained from without end."""

    @abc.abstractmethod
    def forward(self, score: Tensor) -> tuple[Tensor, Tensor]:
        """The losses if the pairs are relevant, and if they are not, `[B]` each, of scores `[B]` before a sigmoid."""


class SquaredError(LocalLoss):
    """`(1 - p)^2` if relevant and `p^2` if not, of `p = sigmoid(score)`; both lie between 0 and 1.

    Source: Saito et al., WSDM 2020, as released.

    Example:
        >>> [loss.item() for loss in SquaredError()(torch.tensor(0.0))]
        [0.25, 0.25]
    """

    bounded = True

    @override
    def forward(self, score: Tensor) -> tuple[Tensor, Tensor]:
        score = full_precision(score)
        return torch.sigmoid(-score).square(), torch.sigmoid(score).square()


class CrossEntropy(LocalLoss):
    """`-log p` if relevant and `-log(1 - p)` if not, of `p = sigmoid(score)`; neither is bounded.

    Example:
        >>> [round(loss.item(), 4) for loss in CrossEntropy()(torch.tensor(0.0))]  # log(2)
        [0.6931, 0.6931]
    """

    bounded = False

    @override
    def forward(self, score: Tensor) -> tuple[Tensor, Tensor]:
        score = full_precision(score)
        return F.softplus(-score), F.softplus(score)
