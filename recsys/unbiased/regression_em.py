"""Expectation maximisation over who examined and what was relevant, with the ranker as the model of relevance."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from recsys.losses.base import LossOutput, full_precision, weighted_mean
from recsys.losses.ranks import total
from recsys.unbiased.click_loss import ClickLoss
from recsys.unbiased.shown_lists import ShownLists


class RegressionEM(ClickLoss):
    """The position-based model fitted by likelihood, step by step.

    With `t` the chance of examination of a position and `r = sigmoid(f)` that of relevance, a missing click says

        P(examined | no click) = t (1 - r) / (1 - t r)        P(relevant | no click) = r (1 - t) / (1 - t r)

    The ranker is trained on expected relevance by binary cross-entropy; t moves towards the mean expected examination
    of its position by `step` in training. Likelihood needs lists without clicks as well: leave none out.

    Args:
        positions: longest list.
        step: share of a batch in the new chances.
        initial: chances of examination at the start.

    Raises:
        ValueError: `step` or `initial` is not between 0 and 1.

    Source:
        Wang et al., "Position Bias Estimation for Unbiased Learning to Rank in Personal Search", WSDM 2018.
    """

    examination: Tensor

    def __init__(self, positions: int = 10, step: float = 0.05, initial: float = 0.9):
        super().__init__()
        if not 0 < step <= 1 or not 0 < initial < 1:
            raise ValueError(f"step and initial lie between 0 and 1, not at {step} and {initial}")
        self.step = step
        self.register_buffer("examination", torch.full((positions,), initial))

    @override
    def forward(self, scores: Tensor, lists: ShownLists) -> LossOutput:
        length = scores.shape[1]
        if length > len(self.examination):
            raise ValueError(f"lists of {length} positions, and propensities of {len(self.examination)}")
        scores, click, mask = full_precision(scores), lists.click, lists.mask
        examined, relevant = expected(self.examination[:length], torch.sigmoid(scores.detach()), click)
        if self.training:
            counts = total(torch.stack([(examined * mask).sum(0), mask.sum(0).to(examined)]))
            mean = torch.where(counts[1] > 0, counts[0] / counts[1].clamp(min=1), self.examination[:length])
            self.examination[:length] += self.step * (mean - self.examination[:length])
        rows = F.binary_cross_entropy_with_logits(scores, relevant, reduction="none")
        loss = weighted_mean(rows.flatten(), mask.flatten())
        return LossOutput(loss, {"loss": loss.detach()})

    @override
    def relative_propensities(self) -> Tensor:
        return (self.examination / self.examination[0])[None]


def expected(examination: Tensor, relevance: Tensor, click: Tensor) -> tuple[Tensor, Tensor]:
    """Chances `[B, L]` that a position was examined and its document relevant, given whether it was clicked.

    Args:
        examination: `[L]` chance of examination.
        relevance: `[B, L]` chance of relevance.
        click: `[B, L]` 0 or 1.

    Example:
        >>> expected(torch.tensor([0.5]), torch.tensor([[0.5]]), torch.zeros(1, 1))
        (tensor([[0.3333]]), tensor([[0.3333]]))
    """
    silent = (1 - examination * relevance).clamp(min=torch.finfo(relevance.dtype).eps)
    examined = click + (1 - click) * examination * (1 - relevance) / silent
    relevant = click + (1 - click) * relevance * (1 - examination) / silent
    return examined, relevant
