"""What becomes of losses that an unbiased estimate makes negative."""

from __future__ import annotations

import abc
from typing import ClassVar

from torch import Tensor, nn
from typing_extensions import override

from recsys.losses.base import weighted_mean


class NonNegativity(nn.Module, abc.ABC):
    """From the losses of pairs to that of a batch."""

    bounds: ClassVar[bool]
    """Whether the loss of a batch cannot fall below 0."""

    @abc.abstractmethod
    def forward(self, local: Tensor, weight: Tensor | None) -> Tensor:
        """A scalar from the losses `[B]` and weights `[B]` of pairs."""


class Unchanged(NonNegativity):
    """The mean as it is: unbiased, and negative where it comes out so.

    Example:
        >>> import torch
        >>> Unchanged()(torch.tensor([-3.0, 1.0]), None).item()
        -1.0
    """

    bounds = False

    @override
    def forward(self, local: Tensor, weight: Tensor | None) -> Tensor:
        return weighted_mean(local, weight)


class PerPair(NonNegativity):
    """Each pair loses at least 0: a pair with a negative loss has no gradient, and the mean is too high by as much.

    Example:
        >>> import torch
        >>> PerPair()(torch.tensor([-3.0, 1.0]), None).item()
        0.5
    """

    bounds = True

    @override
    def forward(self, local: Tensor, weight: Tensor | None) -> Tensor:
        return weighted_mean(local.clamp(min=0), weight)


class PerBatch(NonNegativity):
    """The batch loses at least 0: less bias than `PerPair`, since pairs make up for each other.

    Source: Kiryo et al., "Positive-Unlabeled Learning with Non-Negative Risk Estimator", NeurIPS 2017, in the form that
    a batch below 0 is left out.

    Example:
        >>> import torch
        >>> PerBatch()(torch.tensor([-3.0, 1.0]), None).item()
        0.0
    """

    bounds = True

    @override
    def forward(self, local: Tensor, weight: Tensor | None) -> Tensor:
        return weighted_mean(local, weight).clamp(min=0)
