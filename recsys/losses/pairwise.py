"""Pairwise ranking: the chosen candidate above each of the others."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from typing_extensions import override

from recsys.losses.base import SlotLoss, SlotScores, full_precision


class Pairwise(SlotLoss):
    """`softplus(-(y_p - y_n))`, the mean over the negatives n of a slot; y is the logit of the action done with p.

    Only candidates of one slot are compared, and a slot without negatives has no loss.

    Inputs:
        | field | shape | meaning |
        | --- | --- | --- |
        | logits | [P, C, A] | logit of each action, positive at column 0 |
        | action | [P] | which action was done with the positive |
        | valid | [P, C] or None | false where a column fills up |
        | weight | [P] or None | slot weights |

    Related:
        `Pointwise`, `Hybrid`.

    Source:
        Burges et al., RankNet, ICML 2005.

    Example:
        >>> logits = torch.tensor([[[2.0], [0.0]]])  # the positive leads by 2
        >>> round(Pairwise()(SlotScores(logits, torch.tensor([0]))).loss.item(), 4)  # log(1 + e^-2)
        0.1269
    """

    @override
    def rows(self, scores: SlotScores) -> Tensor:
        logits = full_precision(scores.logits)
        own = logits.gather(2, scores.action[:, None, None].expand(-1, logits.shape[1], 1)).squeeze(2)
        loss = F.softplus(own[:, 1:] - own[:, :1])
        valid = torch.ones_like(loss) if scores.valid is None else scores.valid[:, 1:].to(loss.dtype)
        return (loss * valid).sum(1) / valid.sum(1).clamp(min=1)
