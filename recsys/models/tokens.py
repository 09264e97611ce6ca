"""Which token may attend to which: context events, retrieval slots and ranking slots in one causal sequence.

The sequence of a user is `[context events | slots]`. A slot asks a question at a point of the history: a retrieval
slot "what comes next?", a ranking slot "and this candidate?". The whole matrix follows from one number per token, its
cutoff: how many context events it may see.

| token | cutoff |
| --- | --- |
| context event i | i + 1 (itself and what came before) |
| slot of a request | the events before the request |

A token always sees itself, and no token sees a slot other than itself: candidates do not see each other, so that a
candidate's score does not depend on which others are scored.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from recsys.models.decoder import Places


class Slots(NamedTuple):
    """S slots of B users.

    Attributes:
        row: `[S]` int64, the user of each slot, in any order.
        cutoff: `[S]` int64, context events that the slot may see.
        timestamp: `[S]` int64, Unix seconds of the slot's request.
        query: `[S]` int64, row of the batch's queries; 0 for none.
    """

    row: Tensor
    cutoff: Tensor
    timestamp: Tensor
    query: Tensor

    def where(self, keep: Tensor) -> Slots:
        """The slots at which `keep` is true, or with the places `keep`, in their order."""
        return Slots(*(column[keep] for column in self))

    def repeat(self, times: int) -> Slots:
        """Each slot `times` times, copies beside each other."""
        return Slots(*(column.repeat_interleave(times) for column in self))

    def places(self, users: int, context: int) -> Places:
        """Where the slots stand, and what they see.

        Args:
            users: B.
            context: N, the padded length of the context.
        """
        lengths = torch.bincount(self.row, minlength=users)
        most = int(lengths.max()) if users else 0
        before = lengths.cumsum(0) - lengths
        order = self.row.argsort(stable=True)
        place = torch.arange(len(order), device=order.device) - before[self.row[order]]
        at = self.row * most + torch.empty_like(place).index_copy(0, order, place)
        column = torch.arange(context, device=at.device)
        return Places(at, (users, most), column < self.spread(self.cutoff, at, (users, most)).unsqueeze(-1))

    @staticmethod
    def spread(values: Tensor, at: Tensor, shape: tuple[int, int]) -> Tensor:
        """`[B, M]` with `values` `[S]` at the flat places `at`, zero elsewhere."""
        return values.new_zeros(shape[0] * shape[1]).index_copy(0, at, values).view(shape)


def context_cutoffs(batch: int, length: int, device: torch.device | None = None) -> Tensor:
    """`[batch, length]` int64 cutoffs of context events: 1, 2, ..., length."""
    return torch.arange(1, length + 1, device=device).expand(batch, length)


def attention_mask(cutoffs: Tensor, context: int) -> Tensor:
    """The mask matrix, true where a query row may attend to a key column.

    Args:
        cutoffs: `[B, T]` int64 of all tokens, the `context` context tokens first.
        context: number of context columns N; columns N..T-1 are slots.

    Returns:
        `[B, T, T]` bool. Padding columns need no mask of their own: no valid token's cutoff reaches them.
    """
    total = cutoffs.shape[1]
    column = torch.arange(total, device=cutoffs.device)
    sees = (column < cutoffs.unsqueeze(-1)) & (column < context)
    return sees | torch.eye(total, dtype=torch.bool, device=cutoffs.device)
