"""What a sharded table costs a rank: bytes of memory, and bytes that it sends in a training step.

W ranks look up `n` ids each in a step, spread evenly over the rows of a table; `v` vectors are made of them on each:
one of every id, or of pooled tables one for each sample and feature. A table is cut into blocks of columns, and a block
of d columns into rows among a group of H ranks, rank r having the part p(r) of them: table- and column-wise H = 1,
row-wise H = W, `table_row_wise` and `grid_shard` the ranks of one machine. With N = W / H and 4 bytes a value, a rank r
sends for each block

| | a rank of the group | another rank |
| --- | --- | --- |
| ids | 8 n (1 - p(r)) | 8 n |
| vectors, one an id | 4 d n p(r) (W - 1) | 0 |
| their gradients | 4 d n (1 - p(r)) | 4 d n |
| pooled vectors: a reduce-scatter in the group, then to the other groups | 4 d v ((H - 1) N + N - 1) | 0 |
| their gradients: the same way back | 4 d v (H - 1) N | 4 d v |

and for a data-parallel table only gradients, 2 (W - 1) / W x 4 R D, an all-reduce over a ring. The lengths of the lists
of ids, 4 or 8 bytes for each sample and feature, are not counted.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from typing import NamedTuple

from fbgemm_gpu.split_embedding_configs import EmbOptimType

from recsys.training.topology import PlanError, Topology

ID_BYTES = 8
"""Ids travel and are looked up as int64."""
CACHE_LOAD_FACTOR = 0.2
"""TorchRec's default for cached tables."""
CACHE_ROW_BYTES, CACHE_SLOT_BYTES = 4, 16
"""FBGEMM's books on a cache: the place of each row, and the row and the age of each slot."""

STATE: dict[EmbOptimType, tuple[int, int]] = {
    EmbOptimType.NONE: (0, 0),
    EmbOptimType.SGD: (0, 0),
    EmbOptimType.EXACT_SGD: (0, 0),
    EmbOptimType.EXACT_ROWWISE_ADAGRAD: (0, 1),
    EmbOptimType.EXACT_ADAGRAD: (1, 0),
    EmbOptimType.LARS_SGD: (1, 0),
    EmbOptimType.PARTIAL_ROWWISE_ADAM: (1, 1),
    EmbOptimType.PARTIAL_ROWWISE_LAMB: (1, 1),
    EmbOptimType.ADAM: (2, 0),
    EmbOptimType.LAMB: (2, 0),
}
"""float32 values that an optimizer keeps: for each weight, and for each row."""


class Table(NamedTuple):
    """An embedding table and how it is read.

    Attributes:
        name: TorchRec's.
        module: name of the collection within the model.
        rows: R.
        dim: D.
        value_bytes: of a weight.
        pooled: whether the vectors of a sample's ids are added up.
        optimizer: what steps it; None: FBGEMM's default, which keeps nothing.
        features: that read it.
        batch_size: samples of a step on a rank.
        pooling_factor: ids of a sample for each feature, on average.
        mean: whether pooled vectors are means.
    """

    name: str
    module: str
    rows: int
    dim: int
    value_bytes: int
    pooled: bool
    optimizer: EmbOptimType | None
    features: int
    batch_size: int
    pooling_factor: float = 1.0
    mean: bool = False

    @property
    def ids(self) -> float:
        """Looked up on a rank in a step."""
        return self.batch_size * self.features * self.pooling_factor

    @property
    def vectors(self) -> float:
        """Made of them."""
        return self.batch_size * self.features if self.pooled else self.ids


@dataclass(frozen=True)
class Memory:
    """Bytes that a table takes on one rank; the sum of two is that of two tables or shards.

    Attributes:
        weights: of its shards.
        state: of the optimizer.
        gradient: dense, of a data-parallel table; a view of the bucket that ranks exchange.
        cache: on the GPU, of a table in the machine's memory.
        buffers: ids that come in and vectors that go out, once.
        on_host: what of all this lies in the machine's memory beside a GPU.
    """

    weights: int = 0
    state: int = 0
    gradient: int = 0
    cache: int = 0
    buffers: int = 0
    on_host: int = 0

    @property
    def on_rank(self) -> int:
        """What lies in the memory of the rank itself: of its GPU, or of the machine where there is none."""
        return self.weights + self.state + self.gradient + self.cache + self.buffers - self.on_host

    def __add__(self, other: Memory) -> Memory:
        return Memory(*(a + b for a, b in zip(astuple(self), astuple(other), strict=True)))


@dataclass(frozen=True)
class Traffic:
    """Bytes that one rank sends to others in a training step; the sum of two is that of two tables.

    Attributes:
        ids: to the ranks that have their rows.
        vectors: back to those that asked.
        gradients: of the vectors, or of a data-parallel table.
    """

    ids: float = 0.0
    vectors: float = 0.0
    gradients: float = 0.0

    @property
    def total(self) -> float:
        """All together."""
        return self.ids + self.vectors + self.gradients

    def __add__(self, other: Traffic) -> Traffic:
        return Traffic(self.ids + other.ids, self.vectors + other.vectors, self.gradients + other.gradients)


class Shard(NamedTuple):
    """A block of a table on a rank.

    Attributes:
        rank: that has it.
        rows: number of rows.
        dim: number of columns.
        column: first column.
    """

    rank: int
    rows: int
    dim: int
    column: int


def state_bytes(optimizer: EmbOptimType | None, rows: int, dim: int) -> tuple[int, int]:
    """Bytes of optimizer state of a shard, those kept for each weight and those kept for each row.

    Raises:
        PlanError: the optimizer is none that tables can have.

    Example:
        >>> state_bytes(EmbOptimType.ADAM, 10, 4), state_bytes(EmbOptimType.EXACT_ROWWISE_ADAGRAD, 10, 4)
        ((320, 0), (0, 40))
    """
    if optimizer is None:
        return 0, 0
    if optimizer not in STATE:
        raise PlanError(f"the state of optimizer {optimizer} is not known; take one of {', '.join(map(str, STATE))}")
    each_weight, each_row = STATE[optimizer]
    return 4 * each_weight * rows * dim, 4 * each_row * rows


def shard_memory(
    table: Table, sharding: str, kernel: str, size: Sequence[int], topology: Topology, load_factor: float | None = None
) -> Memory:
    """Memory of one shard on the rank that has it.

    Row-wise optimizer state stays on the GPU even where the table does not (FBGEMM, `construct_split_state`).

    Args:
        table: the whole.
        sharding: TorchRec's name.
        kernel: TorchRec's name of the compute kernel.
        size: rows and dimensions of the shard.
        topology: of the job.
        load_factor: of a cached table.
    """
    rows, dim = size
    weights = rows * dim * table.value_bytes
    by_weight, by_row = state_bytes(table.optimizer, rows, dim)
    replicated = sharding == "data_parallel"
    asked_by = 1 if replicated else topology.ranks
    by_rows = sharding in ("row_wise", "table_row_wise", "grid_shard")
    part = rows / table.rows if by_rows else 1.0
    vectors = table.vectors * (part if by_rows and not table.pooled else float(rows > 0))
    buffers = math.ceil(asked_by * (table.ids * part * ID_BYTES + vectors * dim * table.value_bytes))
    cache = 0
    if kernel == "fused_uvm_caching":
        factor = CACHE_LOAD_FACTOR if load_factor is None else load_factor
        cache = math.ceil(weights * factor) + math.ceil(rows * (CACHE_ROW_BYTES + CACHE_SLOT_BYTES * factor))
    on_host = weights + by_weight if kernel.startswith("fused_uvm") else 0
    return Memory(weights, by_weight + by_row, weights if replicated else 0, cache, buffers, on_host)


def traffic(table: Table, sharding: str, shards: Sequence[Shard], topology: Topology) -> list[Traffic]:
    """What every rank sends in a step, in the order of ranks; the module's docstring has the formulas.

    Args:
        table: the whole.
        sharding: TorchRec's name.
        shards: all shards of the table.
        topology: of the job.

    Example:
        >>> table = Table("words", "bags", 100, 4, 4, True, None, features=1, batch_size=10, pooling_factor=3)
        >>> traffic(table, "table_wise", [Shard(1, 100, 4, 0)], Topology(ranks=2))
        [Traffic(ids=240.0, vectors=0.0, gradients=160.0), Traffic(ids=0.0, vectors=160.0, gradients=0.0)]
    """
    world = topology.ranks
    if sharding == "data_parallel":
        ring = 2 * (world - 1) / world * table.rows * table.dim * table.value_bytes
        return [Traffic(gradients=ring)] * world
    blocks: dict[int, list[Shard]] = {}
    for shard in shards:
        blocks.setdefault(shard.column, []).append(shard)
    sent = [Traffic()] * world
    for block in blocks.values():
        part = {shard.rank: shard.rows / table.rows for shard in block}
        sent = [total + _sent(table, block[0].dim, part, rank, world) for rank, total in enumerate(sent)]
    return sent


def _sent(table: Table, dim: int, part: dict[int, float], rank: int, world: int) -> Traffic:
    """What a rank sends for a block of columns; `part` is the share of rows of each rank of its group."""
    width = dim * table.value_bytes
    own = part.get(rank, 0.0)
    ids = ID_BYTES * table.ids * (1 - own)
    if not table.pooled:
        return Traffic(ids, width * table.ids * own * (world - 1), width * table.ids * (1 - own))
    groups = world // len(part)
    inside = (len(part) - 1) * groups
    if rank not in part:
        return Traffic(ids, 0.0, width * table.vectors)
    return Traffic(ids, width * table.vectors * (inside + groups - 1), width * table.vectors * inside)
