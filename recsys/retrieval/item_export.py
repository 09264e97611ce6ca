"""The vectors of the whole catalogue, brought together from the ranks of a job where they fit."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from recsys.models.recommender import VectorRecommender

_BLOCK = 16_384
"""Items that a rank looks up at a time."""


@torch.no_grad()
def gather_item_vectors(model: VectorRecommender, device: torch.device, memory_gib: float) -> Tensor | None:
    """All item vectors on rank 0, computed by all ranks, which call this together.

    Args:
        model: on every rank, its tables sharded or not.
        device: of the model.
        memory_gib: what rank 0 may spend, in GiB: the vectors, and a block of at most 16,384 items from each rank.

    Returns:
        `[n_items + 1, d]` float32 on the CPU of rank 0, row 0 being padding; None on the others.

    Raises:
        ValueError: the vectors take more than `memory_gib`; on every rank, and before they are made.
    """
    rank, ranks, n = dist.get_rank(), dist.get_world_size(), model.n_items + 1
    size = min(_BLOCK, -(-n // ranks))
    table: Tensor | None = None
    for first in range(0, n, ranks * size):
        ids = torch.arange(size, device=device) + (first + rank * size)
        # Beyond the last item padding is looked up, so that ranks stay in step.
        vectors = model.item_vectors(ids.masked_fill_(ids >= n, 0)).float().contiguous()
        if not first:
            _check_fits(n, ranks * size, vectors.shape[1], memory_gib)
            table = torch.empty(n, vectors.shape[1]) if rank == 0 else None
        parts = [torch.empty_like(vectors) for _ in range(ranks)] if rank == 0 else None
        dist.gather(vectors, parts)
        if table is not None and parts is not None:
            rows = table[first : first + ranks * size]
            rows.copy_(torch.cat(parts)[: len(rows)])
    return table


def _check_fits(n: int, block: int, width: int, memory_gib: float) -> None:
    # A block is held twice, as it comes and put together.
    needed = (n + 2 * block) * width * 4 / 2**30
    if needed > memory_gib:
        raise ValueError(
            f"{n} item vectors of {width} dimensions take {needed:.3g} GiB on rank 0, and memory_gib is "
            f"{memory_gib:g}: allow more where it is there, or leave them sharded and rank with `ShardedRanker`"
        )
