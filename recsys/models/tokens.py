"""Which token may attend to which: context events, retrieval slots and ranking slots in one causal sequence.

The sequence of a user is `[context events | slots]`. A slot asks a question at a point of the history: a retrieval
slot "what comes next?", a ranking slot "and this candidate?". The whole matrix follows from one number per token, its
cutoff: how many context events it may see.

| token | cutoff |
| --- | --- |
| context event i | i + 1 (itself and what came before) |
| slot that asks for event j | j (strictly before it) |
| slot of a request that began at time t | events with a time before t |

A token always sees itself, and no token sees a slot other than itself: candidates do not see each other, so that a
candidate's score does not depend on which others are scored.
"""

from __future__ import annotations

import torch
from torch import Tensor


def context_cutoffs(batch: int, length: int, device: torch.device | None = None) -> Tensor:
    """`[batch, length]` int64 cutoffs of context events: 1, 2, ..., length."""
    return torch.arange(1, length + 1, device=device).expand(batch, length)


def request_cutoffs(timestamp: Tensor, lengths: Tensor, request: Tensor) -> Tensor:
    """Cutoffs of slots that may see only what happened strictly before their request.

    Args:
        timestamp: `[B, N]` int64, times of the context events, ascending within `lengths`.
        lengths: `[B]` int64, context events of each user; the rest of the row is padding.
        request: `[B, M]` int64, start time of the request that each slot belongs to.

    Returns:
        `[B, M]` int64.
    """
    valid = torch.arange(timestamp.shape[1], device=timestamp.device) < lengths.unsqueeze(-1)
    ends = timestamp.masked_fill(~valid, torch.iinfo(torch.int64).max)
    return torch.searchsorted(ends, request, right=False).clamp(max=lengths.unsqueeze(-1))


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
