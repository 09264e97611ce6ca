"""InfoNCE, also called sampled softmax: pick the positive among itself and N sampled negatives."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable
from typing_extensions import override

from recsys.losses.base import SampledLoss, SampledScores, full_precision


class InfoNCE(SampledLoss):
    """Sampled softmax with logQ correction.

    A row's loss is `-log(e^p / (e^p + sum_n e^(s_n)))` with `p = positive / temperature - log_q_positive` and
    `s_n = negative / temperature - log_q_negative`. When `log_q_negative` is the log of the expected count of each
    negative among the N draws and the positive is not corrected, the sum is an unbiased estimate of the catalogue's:
    `exp(loss)` has the mean of the full softmax's, and the loss converges to it as N grows. Without correction
    uniform negatives give the usual sampled softmax, which starts near `log(1 + N)`.

    A negative that is the row's positive (`hits`) is left out of the sum.

    Args:
        temperature: divides the scores, never `log_q`.

    Raises:
        ValueError: if the temperature is not above 0.

    Inputs:
        | field | shape | meaning |
        | --- | --- | --- |
        | positive | [T] | score of the positive |
        | negative | [T, N] | scores of the negatives |
        | log_q_negative | [1], [N], [T, N] or None | log of the expected count of each negative |
        | log_q_positive | [T] or None | the same for the positive, where a method wants it corrected too |
        | hits | [2, H] or None | (row, column) of negatives that are the positive |
        | weight | [T] or None | row weights |

    Recommended sampler:
        `Uniform`, a few hundred shared by the batch; `Mixed` for large catalogues.

    Related:
        `FullSoftmax` is its limit; `GBCE` and `BCE` score each negative on its own.

    Source:
        van den Oord et al., arXiv 1807.03748; logQ: Bengio and Senecal, IEEE TNN 2008; Yi et al., RecSys 2019.
        The positive stands in the sum with certainty, which is why it is not corrected: Khrylchenko et al.,
        arXiv 2507.09331.

    Example:
        >>> scores = SampledScores(positive=torch.zeros(2), negative=torch.zeros(2, 3))
        >>> round(InfoNCE()(scores).loss.item(), 4)  # log(1 + 3)
        1.3863
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, not {temperature}")
        self.temperature = temperature

    @override
    def rows(self, scores: SampledScores) -> Tensor:
        positive = full_precision(scores.positive) / self.temperature
        if scores.log_q_positive is not None:
            positive = positive - scores.log_q_positive.to(positive.dtype)
        return F.softplus(self._log_sum(scores) - positive)

    def _log_sum(self, scores: SampledScores) -> Tensor:
        """`[T]` log of the sum over the negatives."""
        negative, log_q = full_precision(scores.negative), scores.log_q_negative
        if log_q is None or log_q.numel() == 1:  # a constant needs no pass over [T, N]
            log_sum = _LogSumExp.apply(negative, 1 / self.temperature, None, scores.hits)
            return log_sum if log_q is None else log_sum - log_q.to(log_sum.dtype).view(1)
        return _LogSumExp.apply(negative, 1 / self.temperature, log_q, scores.hits)


class _LogSumExp(torch.autograd.Function):
    """`logsumexp(scale * negative - log_q)` over columns, hits left out.

    One new `[T, N]` buffer holds the exponentials; the backward pass is one more read of it.
    """

    @staticmethod
    def forward(ctx: Any, negative: Tensor, scale: float, log_q: Tensor | None, hits: Tensor | None) -> Tensor:
        rows, columns = negative.shape
        if rows == 0 or columns == 0:
            ctx.save_for_backward(negative, negative.new_zeros(rows))
            return negative.new_full((rows,), -torch.inf)
        if log_q is None and hits is None:  # the largest element is known before the buffer is written
            top = negative.amax(1) * scale
            terms = torch.add(-top[:, None], negative, alpha=scale).exp_()
        else:
            shift = negative.new_zeros(1) if log_q is None else -log_q.to(negative.dtype)
            terms = torch.add(shift, negative, alpha=scale)
            if hits is not None:  # a large negative number, not -inf: a row may be nothing but hits
                terms[hits[0], hits[1]] = torch.finfo(terms.dtype).min / 2
            top = terms.amax(1)
            terms.sub_(top[:, None]).exp_()
        total = terms.sum(1)
        ctx.save_for_backward(terms, scale / total)
        return top + total.log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        terms, factor = ctx.saved_tensors
        return terms * (grads[0] * factor)[:, None], None, None, None
