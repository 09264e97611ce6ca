"""Means over the global batch when several processes each hold a part of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch.distributed as dist
from torch import Tensor

_ACROSS: ContextVar[bool] = ContextVar("across_ranks", default=False)


@contextmanager
def across_ranks(active: bool = True) -> Iterator[None]:
    """Within it, means count the rows of all processes; every process must take the same means in the same order.

    The ranks of a step hold different numbers of rows, so that the mean of their means is not the mean over the batch.
    Here a rank's part is `ranks * its sum / the count of all`: averaged over the ranks, as gradients are, it is the
    mean that one process would have computed over the whole batch.
    """
    token = _ACROSS.set(active and dist.is_initialized() and dist.get_world_size() > 1)
    try:
        yield
    finally:
        _ACROSS.reset(token)


def ranks() -> int:
    """Processes that share a batch; 1 outside of `across_ranks`."""
    return dist.get_world_size() if _ACROSS.get() else 1


def total(count: Tensor) -> Tensor:
    """Sum of a tensor over those processes, without a gradient; the tensor itself outside of `across_ranks`."""
    if not _ACROSS.get():
        return count
    summed = count.detach().clone()
    dist.all_reduce(summed)
    return summed
