"""Negative items that were drawn, and how often each was to be expected."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor


class Negatives(NamedTuple):
    """Items drawn for the T rows of a batch.

    Attributes:
        ids: `[N]` int64 shared by all rows, or `[T, N]`; never 0.
        log_q: log of the expected count of each negative among a row's negatives: `[1]`, `[N]` or `[T, N]` float32.
            None: the loss is not to be corrected.
        log_q_positive: `[T]` float32, the same of each row's target, when the sampler corrects it too.
    """

    ids: Tensor
    log_q: Tensor | None = None
    log_q_positive: Tensor | None = None

    def hits(self, target: Tensor) -> Tensor | None:
        """`[2, H]` int64 (row, column) of the negatives that are the row's target `[T]`; None if there are none.

        Shared negatives are searched in sorted order: no `[T, N]` comparison is made.

        Example:
            >>> Negatives(torch.tensor([5, 3, 5])).hits(torch.tensor([3, 4, 5]))
            tensor([[0, 2, 2],
                    [1, 0, 2]])
        """
        if self.ids.dim() == 2:
            hits = (self.ids == target[:, None]).nonzero().T
            return hits if hits.shape[1] else None
        values, order = self.ids.sort(stable=True)
        first = torch.searchsorted(values, target)
        found = torch.searchsorted(values, target, right=True) - first
        rows = torch.repeat_interleave(torch.arange(target.shape[0], device=target.device), found)
        if rows.shape[0] == 0:
            return None
        within = torch.arange(rows.shape[0], device=target.device) - (found.cumsum(0) - found)[rows]
        return torch.stack((rows, order[first[rows] + within]))
