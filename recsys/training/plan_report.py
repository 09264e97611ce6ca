"""What a sharding plan means for each rank, for people and programs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from torch import nn
from torchrec.distributed.types import ParameterSharding, ShardingPlan

from recsys.training.table_costs import Memory, Shard, Table, Traffic, shard_memory, traffic
from recsys.training.table_sharders import Sharder, find_tables, table_sharders
from recsys.training.topology import TableRule, Topology


@dataclass(frozen=True)
class PlannedTable:
    """A table on one rank.

    Attributes:
        table: name.
        rank: that all the rest is of.
        rows: of the whole table.
        dim: of the whole table.
        sharding: TorchRec's name.
        kernel: TorchRec's compute kernel; `fused_uvm` is the placement `host`, `fused_uvm_caching` is `cached`.
        shards: rows and dimensions of each shard that the rank has; none where the table lies elsewhere.
        memory: bytes that it takes there.
        sent: bytes that the rank sends for it in a training step.
    """

    table: str
    rank: int
    rows: int
    dim: int
    sharding: str
    kernel: str
    shards: tuple[tuple[int, int], ...]
    memory: Memory
    sent: Traffic


def describe(
    plan: ShardingPlan,
    module: nn.Module,
    topology: Topology,
    rules: Mapping[str, TableRule] | None = None,
    batch_size: int = 512,
    sharders: Sequence[Sharder] | None = None,
) -> list[PlannedTable]:
    """Every table on every rank, by closed forms from the shapes (`recsys.training.table_costs`).

    Args:
        plan: of the module.
        module: not yet sharded.
        topology: that it was planned for.
        rules: that it was planned with.
        batch_size: samples of a step on a rank.
        sharders: of the tables.

    Example:
        >>> from torchrec.modules.embedding_configs import EmbeddingConfig
        >>> from torchrec.modules.embedding_modules import EmbeddingCollection
        >>> from recsys.training.sharding_plan import sharding_plan
        >>> items = EmbeddingConfig(name="item_id", embedding_dim=8, num_embeddings=100, feature_names=["item_id"])
        >>> model = EmbeddingCollection(tables=[items], device="meta")
        >>> two, rules = Topology(ranks=2), {"item_id": TableRule(sharding=["row_wise"])}
        >>> planned = describe(sharding_plan(model, two, rules), model, two, rules)
        >>> [(table.shards, table.memory.weights, table.sent.ids) for table in planned]
        [(((50, 8),), 1600, 2048.0), (((50, 8),), 1600, 2048.0)]
    """
    known = list(sharders) if sharders is not None else table_sharders()
    found = []
    for table in find_tables(module, known, dict(rules or {}), batch_size):
        found += _on_ranks(table, plan.plan[table.module][table.name], topology)
    return found


def _on_ranks(table: Table, planned: ParameterSharding, topology: Topology) -> list[PlannedTable]:
    """One table on all ranks."""
    if planned.sharding_spec is None:
        shards = [Shard(rank, table.rows, table.dim, 0) for rank in range(topology.ranks)]
    else:
        shards = [
            Shard(shard.placement.rank(), shard.shard_sizes[0], shard.shard_sizes[1], shard.shard_offsets[1])
            for shard in planned.sharding_spec.shards
        ]
    factor = planned.cache_params.load_factor if planned.cache_params is not None else None
    sent = traffic(table, planned.sharding_type, shards, topology)
    rows = []
    for rank in range(topology.ranks):
        sizes = tuple((shard.rows, shard.dim) for shard in shards if shard.rank == rank)
        memory = sum(
            (shard_memory(table, planned.sharding_type, planned.compute_kernel, s, topology, factor) for s in sizes),
            start=Memory(),
        )
        whole = table.name, rank, table.rows, table.dim
        rows.append(PlannedTable(*whole, planned.sharding_type, planned.compute_kernel, sizes, memory, sent[rank]))
    return rows
