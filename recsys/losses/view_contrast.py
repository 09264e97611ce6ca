"""InfoNCE between two views of the same items: a view is to find the other one of its item among those of all."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from recsys.losses.base import LossOutput, SampledScores, full_precision
from recsys.losses.info_nce import InfoNCE


class ViewContrast(nn.Module):
    """Softmax over the cosines of an item's first view with the second views of all items of the batch.

    `-1/N sum_i log(e^(s_ii / t) / sum_j e^(s_ij / t))`, in one direction: first views are not compared with each other.
    Views that tell nothing of their item start near `log N`; a value near 0 says that they share what gives it away.

    Args:
        temperature: t, divides the cosines.

    Raises:
        ValueError: if the temperature is not above 0.

    Source:
        Yao et al., "Self-supervised Learning for Large-scale Item Recommendations", CIKM 2021.

    Example:
        >>> same = torch.ones(4, 2)
        >>> round(ViewContrast()(same, same).loss.item(), 4)  # log(4)
        1.3863
    """

    def __init__(self, temperature: float = 0.1) -> None:
        super().__init__()
        self.loss = InfoNCE(temperature)

    def forward(self, first: Tensor, second: Tensor, similar: Tensor | None = None) -> LossOutput:
        """The mean over items.

        Args:
            first: `[N, d]` one view of each item, of any length.
            second: `[N, d]` the other one.
            similar: `[N, N]` bool, pairs of items too much alike to be told apart; they are left out of the sum. None:
                there are none.
        """
        cosines = F.normalize(full_precision(first), dim=-1) @ F.normalize(full_precision(second), dim=-1).T
        left_out = torch.eye(len(cosines), dtype=torch.bool, device=cosines.device)  # stands in the sum as positive
        if similar is not None:
            left_out |= similar
        output: LossOutput = self.loss(SampledScores(cosines.diagonal(), cosines, hits=left_out.nonzero().T))
        return output
