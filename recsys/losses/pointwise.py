"""Pointwise ranking: is this candidate the one that was chosen, and by which action?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from recsys.losses.base import SlotLoss, SlotScores, full_precision


class Pointwise(SlotLoss):
    """Binary cross-entropy of every candidate and action; a slot's loss is the mean over both.

    The label is 1 for the positive and the action that was done with it, and 0 elsewhere. Logits learn the odds among
    the candidates of a slot: where these are sampled, they are too high for the whole catalogue by a known amount
    (`recsys.evaluation.calibration`).

    Inputs:
        | field | shape | meaning |
        | --- | --- | --- |
        | logits | [P, C, A] | logit of each action, positive at column 0 |
        | action | [P] | which action was done with the positive |
        | valid | [P, C] or None | false where a column fills up |
        | weight | [P] or None | slot weights |

    Related:
        `Pairwise` orders candidates without saying how likely they are; `Hybrid` is the sum of both.

    Example:
        >>> scores = SlotScores(torch.zeros(2, 5, 1), torch.zeros(2, dtype=torch.int64))
        >>> round(Pointwise()(scores).loss.item(), 4)  # log(2)
        0.6931
    """

    @override
    def rows(self, scores: SlotScores) -> Tensor:
        logits = full_precision(scores.logits)
        label = torch.zeros_like(logits)
        label[:, 0] = F.one_hot(scores.action, logits.shape[2]).to(label.dtype)
        loss = F.binary_cross_entropy_with_logits(logits, label, reduction="none").mean(2)
        if scores.valid is None:
            return loss.mean(1)
        valid = scores.valid.to(loss.dtype)
        return (loss * valid).sum(1) / valid.sum(1).clamp(min=1)
