"""What every loss over sampled negatives receives, and what every loss returns."""

from __future__ import annotations

import abc
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recsys.losses.ranks import ranks, total


class SampledScores(NamedTuple):
    """Scores of T rows, each with one positive item and N negatives.

    Attributes:
        positive: `[T]` float, score of each row's positive item.
        negative: `[T, N]` float, scores of the negatives.
        log_q_positive: `[T]` float, log of the expected count of the positive among the negatives. None: not corrected.
        log_q_negative: `[1]`, `[N]` or `[T, N]` float, log of the expected count of each negative. None: not corrected.
        hits: `[2, H]` int64, (row, column) of the negatives that are the row's positive. None: there are none.
        weight: `[T]` float >= 0. None: every row counts the same.
    """

    positive: Tensor
    negative: Tensor
    log_q_positive: Tensor | None = None
    log_q_negative: Tensor | None = None
    hits: Tensor | None = None
    weight: Tensor | None = None


class SlotScores(NamedTuple):
    """Logits of P ranking slots, each with one positive candidate, at column 0, and negatives.

    Attributes:
        logits: `[P, C, A]` float, a logit of each of A actions for every candidate.
        action: `[P]` int64, which action (0..A-1) was done with the positive.
        valid: `[P, C]` bool, false where a column only fills the slot up. None: all are.
        weight: `[P]` float >= 0. None: every slot counts the same.
    """

    logits: Tensor
    action: Tensor
    valid: Tensor | None = None
    weight: Tensor | None = None


class LossOutput(NamedTuple):
    """A loss and what it is made of.

    Attributes:
        loss: scalar to minimise.
        parts: detached scalars by name, for the log.
    """

    loss: Tensor
    parts: dict[str, Tensor]


class RetrievalLoss(nn.Module):
    """A loss of retrieval: a `SampledLoss` compares with drawn negatives, a `CatalogueLoss` with every item."""

    def setup(self, n_items: int) -> None:
        """Tells the loss the size of the catalogue; the trainer calls it once, before the first step."""


class SampledLoss(RetrievalLoss, abc.ABC):
    """A loss over one positive and N negatives per row.

    A subclass gives the loss of every row; the mean over rows, weights and the logged parts are done here.
    """

    @abc.abstractmethod
    def rows(self, scores: SampledScores) -> Tensor:
        """`[T]` loss of each row, at least float32, not weighted."""

    def forward(self, scores: SampledScores) -> LossOutput:
        """The weighted mean over rows."""
        loss = weighted_mean(self.rows(scores), scores.weight)
        return LossOutput(loss, {"loss": loss.detach()})


class CatalogueLoss(RetrievalLoss, abc.ABC):
    """A loss over the whole catalogue."""

    @abc.abstractmethod
    def forward(self, queries: Tensor, items: Tensor, target: Tensor, weight: Tensor | None = None) -> LossOutput:
        """The weighted mean over rows.

        Args:
            queries: `[T, d]`.
            items: `[n_items + 1, d]`; row 0, padding, takes no part.
            target: `[T]` int64 item ids.
            weight: `[T]`; None: every row counts the same.
        """


class SlotLoss(nn.Module, abc.ABC):
    """A loss of ranking: it compares the candidates of a slot.

    A subclass gives the loss of every slot; the mean over slots, weights and the logged parts are done here.
    """

    @abc.abstractmethod
    def rows(self, scores: SlotScores) -> Tensor:
        """`[P]` loss of each slot, at least float32, not weighted."""

    def forward(self, scores: SlotScores) -> LossOutput:
        """The weighted mean over slots."""
        loss = weighted_mean(self.rows(scores), scores.weight)
        return LossOutput(loss, {"loss": loss.detach()})


def weighted_mean(rows: Tensor, weight: Tensor | None) -> Tensor:
    """Mean of `rows` `[T]` with weights `[T]`; 0 when no row has weight (an empty batch too).

    Weights have no gradient. Within `across_ranks`, this process's part of the mean over the rows of all.

    Example:
        >>> weighted_mean(torch.tensor([1.0, 3.0]), torch.tensor([3.0, 1.0])).item()
        1.5
    """
    weight = torch.ones_like(rows) if weight is None else weight.detach().to(rows.dtype)
    return ranks() * (rows * weight).sum() / total(weight.sum()).clamp_min(torch.finfo(rows.dtype).tiny)


def full_precision(scores: Tensor) -> Tensor:
    """`scores` in float32 when they are in a shorter type; as they are otherwise."""
    return scores.float() if scores.dtype in (torch.bfloat16, torch.float16) else scores


def without_hits(scores: SampledScores) -> Tensor:
    """`[T, N]` negative scores in full precision, with a large negative number where a negative is the positive."""
    negative = full_precision(scores.negative)
    if scores.hits is None:
        return negative
    return negative.index_put(
        (scores.hits[0], scores.hits[1]), negative.new_tensor(torch.finfo(negative.dtype).min / 2)
    )
