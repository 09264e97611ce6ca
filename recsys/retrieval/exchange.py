"""Rows exchanged among ranks that have different numbers of them; backends ask for equal ones, or to be told.

Every rank calls these functions equally often and in the same order, on the device of its backend: the CPU for gloo, a
GPU for NCCL.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.distributed as dist
from torch import Tensor

from recsys.retrieval.order import Jagged


def numbers(own: int, device: torch.device) -> list[int]:
    """A number of each rank."""
    mine = torch.tensor([own], device=device)
    found = mine.new_empty(dist.get_world_size())
    dist.all_gather_single(found, mine)
    return found.tolist()


def rows_of_all(own: Tensor) -> Tensor:
    """The rows `[n, ...]` of every rank, one rank after the other."""
    n = numbers(len(own), own.device)
    if not max(n):
        return own
    padded = own.new_zeros(max(n), *own.shape[1:])
    padded[: len(own)] = own
    found = padded.new_empty(len(n) * max(n), *own.shape[1:])
    dist.all_gather_single(found, padded)
    return torch.cat([part[:rows] for part, rows in zip(found.split(max(n)), n, strict=True)])


def lists_of_all(own: Jagged) -> Jagged:
    """The lists of every rank's rows, one rank after the other."""
    lengths = rows_of_all(own.offsets.diff())
    return Jagged(rows_of_all(own.values), torch.nn.functional.pad(lengths.cumsum(0), (1, 0)))


def to_owners(rows: Tensor, n: Sequence[int]) -> Tensor:
    """Sends rows back to the ranks that they belong to.

    Args:
        rows: `[sum(n), ...]`, those of rank 0 first.
        n: how many belong to each rank.

    Returns:
        `[ranks, n of this rank, ...]`: its rows, as each rank had them.
    """
    own = n[dist.get_rank()]
    found = rows.new_empty(len(n) * own, *rows.shape[1:])
    if sum(n):
        dist.all_to_all_single(found, rows.contiguous(), [own] * len(n), list(n))
    return found.view(len(n), own, *rows.shape[1:])
