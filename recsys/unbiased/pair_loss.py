"""What every loss of user-item pairs receives, and what all have in common."""

from __future__ import annotations

import abc
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from typing_extensions import override

from recsys.losses.base import LossOutput
from recsys.unbiased.local_losses import LocalLoss, SquaredError
from recsys.unbiased.nonnegative import NonNegativity, Unchanged


class PairScores(NamedTuple):
    """B pairs; a pair is positive when it was both exposed and relevant, which is seen, and unlabeled otherwise.

    Attributes:
        score: `[B]` float, before a sigmoid.
        label: `[B]` float, 1 positive, 0 unlabeled.
        propensity: `[B]` float in [0, 1], the chance that the pair was exposed. None: the loss does not ask.
        unlabeled_propensity: `[B]` float in [0, 1], the weight by which unlabeled pairs are divided. None: likewise.
        relevance: `[B]` float in [0, 1], the chance that the pair is relevant: an estimate, or the truth of a
            simulation. None: likewise.
        weight: `[B]` float >= 0, pairs that each stands for. None: one.

    Scores alone have a gradient.
    """

    score: Tensor
    label: Tensor
    propensity: Tensor | None = None
    unlabeled_propensity: Tensor | None = None
    relevance: Tensor | None = None
    weight: Tensor | None = None


class PairLoss(nn.Module, abc.ABC):
    """A loss of user-item pairs, each of which is positive or unlabeled.

    With `delta1` the loss of a pair if it is relevant and `delta0` if it is not, all of them estimate
    `mean(gamma * delta1 + (1 - gamma) * delta0)`, where gamma is the unknown relevance of each pair.
    """

    asks_exposure: ClassVar[bool] = True
    """Whether it reads the propensity of positive pairs."""
    asks_unlabeled: ClassVar[bool] = False
    """Whether it reads the propensity of unlabeled pairs too, which is never logged."""
    asks_dual: ClassVar[bool] = False
    """Whether unlabeled pairs have a second propensity, by which they are divided."""
    asks_relevance: ClassVar[bool] = False
    """Whether it reads an estimate of relevance."""

    def __init__(self, local: LocalLoss | None) -> None:
        super().__init__()
        self.local = local if local is not None else SquaredError()

    @abc.abstractmethod
    def forward(self, scores: PairScores) -> LossOutput:
        """The loss of a batch."""


class RelevanceLoss(PairLoss, abc.ABC):
    """`mean(r * delta1 + (1 - r) * delta0)` with an estimate r of relevance, which a subclass gives.

    Where r may exceed 1 the factor of `delta0` is negative. A bounded local loss stays bounded below; with an
    unbounded one a model gains without end from scores that make positives certain, so that `nonnegative` must bound
    it.

    Args:
        local: the loss of one pair under either answer; None: `SquaredError`.
        nonnegative: what becomes of negative losses; None: nothing.

    Raises:
        ValueError: the loss would be unbounded below.
    """

    beyond_one: ClassVar[bool]
    """Whether the estimate of relevance may exceed 1."""

    def __init__(self, local: LocalLoss | None, nonnegative: NonNegativity | None) -> None:
        super().__init__(local)
        self.nonnegative = nonnegative if nonnegative is not None else Unchanged()
        if self.beyond_one and not (self.local.bounded or self.nonnegative.bounds):
            raise ValueError(
                f"{type(self).__name__} with {type(self.local).__name__} has no lower bound: choose "
                "`local: SquaredError`, or `nonnegative: PerPair` or `PerBatch`"
            )

    @abc.abstractmethod
    def estimated(self, scores: PairScores) -> Tensor:
        """`[B]` estimates of relevance, without gradient."""

    @override
    def forward(self, scores: PairScores) -> LossOutput:
        if_relevant, if_not = self.local(scores.score)
        relevance = self.estimated(scores)
        # Not if_not + relevance * (if_relevant - if_not): with relevance 0 or 1 this is one of the two, exactly.
        local = relevance * if_relevant + (1 - relevance) * if_not
        loss = self.nonnegative(local, scores.weight)
        return LossOutput(loss, {"loss": loss.detach(), "least_local": least(local)})


def given(value: Tensor | None, name: str, loss: nn.Module) -> Tensor:
    """A field of `PairScores` that a loss cannot do without, as a constant: no loss trains a model of exposure.

    Raises:
        ValueError: it is None.
    """
    if value is None:
        raise ValueError(f"{type(loss).__name__} needs the {name} of each pair, and got none")
    return value.detach()


def inverse_propensity(label: Tensor, propensity: Tensor, clip: float) -> Tensor:
    """`[B]` `label / max(propensity, clip)`; 0 for unlabeled pairs, whatever their propensity.

    Example:
        >>> inverse_propensity(torch.tensor([1.0, 1.0, 0.0]), torch.tensor([0.5, 0.1, 0.0]), clip=0.25)
        tensor([2., 4., 0.])
    """
    return torch.where(label > 0, label / propensity.clamp(min=clip), 0)


def least(local: Tensor) -> Tensor:
    """The least of `[B]` losses, for the log; 0 of none."""
    return local.detach().min() if len(local) else local.new_zeros(())


def effective_share(weight: Tensor) -> Tensor:
    """Effective sample size of weights `[n]` >= 0 as a share of those above 0: 1 where they are equal.

    Source: Kish, "Survey Sampling", 1965: the square of the sum over the sum of squares.

    Example:
        >>> effective_share(torch.tensor([0.0, 2.0, 2.0])).item()
        1.0
    """
    used = (weight > 0).sum().clamp(min=1)
    return weight.sum().square() / (used * weight.square().sum()).clamp_min(torch.finfo(weight.dtype).tiny)


def check_clip(clip: float) -> float:
    """The clip itself.

    Raises:
        ValueError: it is no propensity.
    """
    if not 0 <= clip <= 1:
        raise ValueError(f"clip must lie between 0, which clips nothing, and 1, not at {clip}")
    return clip
