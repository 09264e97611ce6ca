"""Initial weights of sharded tables that do not depend on how they are sharded."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.distributed._shard.sharded_tensor import ShardedTensor

Table = tuple[str, tuple[int, int], Callable[[Tensor], Any]]

BLOCK_ROWS = 1 << 16
"""Rows drawn at a time: what a shard draws beyond its own edges is never more than two blocks of them."""


@torch.no_grad()
def initialise(module: nn.Module, tables: Iterable[Table], seed: int) -> None:
    """Fills the local shards of every table of a module.

    A table is a stack of blocks of rows, and each block has random numbers of its own: one, two or eight processes
    begin with the same table, however it is cut, and no two shards begin alike.

    Args:
        module: whose `state_dict` has the tables, whole or as ShardedTensor.
        tables: name in the `state_dict`, (rows, dimensions) of the whole, and what fills a tensor in place.
        seed: of the job.
    """
    state = module.state_dict()
    for name, (rows, dim), fill in tables:
        table = state[name]
        if isinstance(table, ShardedTensor):
            for shard in table.local_shards():
                (row, column), (n, width) = shard.metadata.shard_offsets, shard.metadata.shard_sizes
                _fill(shard.tensor.view(n, width), name, fill, (row, column), (rows, dim), seed)
        else:
            _fill(table, name, fill, (0, 0), (rows, dim), seed)


def _fill(
    out: Tensor,
    name: str,
    fill: Callable[[Tensor], Any],
    offsets: tuple[int, int],
    size: tuple[int, int],
    seed: int,
) -> None:
    (row, column), (rows, dim) = offsets, size
    n, width = out.shape
    for first in range(row // BLOCK_ROWS * BLOCK_ROWS, row + n, BLOCK_ROWS):
        block = torch.empty(min(BLOCK_ROWS, rows - first), dim)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(block_seed(seed, name, first // BLOCK_ROWS))  # and no GPU's
            fill(block)
        low, high = max(first, row), min(first + len(block), row + n)
        out[low - row : high - row].copy_(block[low - first : high - first, column : column + width])


def block_seed(seed: int, name: str, block: int) -> int:
    """Seed of a block of a table."""
    digest = hashlib.blake2b(f"{seed}/{name}/{block}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little", signed=False) >> 1
