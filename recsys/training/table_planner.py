"""TorchRec's planner over the tables of a model: the plan of one topology, or what stands against it.

Memory is counted by `recsys.training.table_costs`, which knows the optimizer of a table however it was set; the time
that TorchRec expects decides among the plans that fit.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn
from torchrec.distributed.planner import EmbeddingShardingPlanner
from torchrec.distributed.planner.enumerators import EmbeddingEnumerator
from torchrec.distributed.planner.proposers import GreedyProposer, GridSearchProposer, Proposer, UniformProposer
from torchrec.distributed.planner.shard_estimators import EmbeddingPerfEstimator
from torchrec.distributed.planner.storage_reservations import FixedPercentageStorageReservation
from torchrec.distributed.planner.types import (
    ParameterConstraints,
    SharderDataMap,
    ShardEstimator,
    ShardingOption,
    Storage,
)
from torchrec.distributed.types import CacheParams, ShardingPlan

from recsys.training.table_costs import Table, shard_memory
from recsys.training.table_sharders import BY_ROWS, Sharder, collections, dense_bytes, find_tables
from recsys.training.topology import KERNELS, PlanError, TableRule, Topology

GRID_SHARDS = 1 << 15
"""Combinations of plans, times ranks, up to which all are tried."""
ORDER = ("table_wise", "row_wise", "column_wise", "data_parallel", "table_row_wise", "table_column_wise", "grid_shard")
KERNEL_ORDER = [kernel for place in KERNELS.values() for kernel in place]


def constraints(
    module: nn.Module,
    tables: Sequence[Table],
    topology: Topology,
    rules: Mapping[str, TableRule],
    sharders: Sequence[Sharder],
) -> dict[str, ParameterConstraints]:
    """The rules in TorchRec's words, one for every table.

    Raises:
        PlanError: a rule is for no table, or allows nothing that there is on the device.
    """
    if unknown := set(rules) - {table.name for table in tables}:
        names = ", ".join(table.name for table in tables)
        raise PlanError(f"no table `{sorted(unknown)[0]}` for its rule; the model has {names or 'no tables'}")
    kinds = {path: sharder for path, _, sharder in collections(module, sharders)}
    return {
        table.name: _constraint(table, rules.get(table.name, TableRule()), topology, kinds[table.module])
        for table in tables
    }


def _constraint(table: Table, rule: TableRule, topology: Topology, sharder: Sharder) -> ParameterConstraints:
    offered = sharder.sharding_types(topology.device)
    # One rank has nobody to share a dense gradient with, and the kernel for sequences on a CPU is wrong (see sharders).
    replicable = topology.ranks > 1 and (topology.device == "cuda" or table.pooled)
    avoided = {"grid_shard"} if replicable else {"grid_shard", "data_parallel"}
    allowed = [o for o in offered if o not in avoided] if rule.sharding is None else list(rule.sharding)
    if missing := set(allowed) - set(offered):
        raise PlanError(
            f"table `{table.name}`: {sorted(missing)[0]} is not offered for it on {topology.device}; "
            f"there are {', '.join(offered)}"
        )
    if table.mean and "grid_shard" in allowed:
        raise PlanError(
            f"table `{table.name}`: TorchRec takes no means over a grid of shards; "
            "set another sharding in its rule, or the pooling `sum`"
        )
    if not (allowed := [kind for kind in allowed if not _leaves_a_rank_empty(table.rows, kind, topology)]):
        raise PlanError(
            f"table `{table.name}`: cut by rows, its {table.rows} would leave a rank without any, and FBGEMM looks "
            "nothing up in no rows on a CPU; allow table_wise in its rule"
        )
    places = rule.placement or (("device",) if topology.device == "cpu" else tuple(KERNELS))
    if topology.device == "cpu" and set(places) != {"device"}:
        raise PlanError(f"table `{table.name}`: placements beside `device` need GPUs, and the topology is of CPUs")
    if "device" not in places and "data_parallel" in allowed:
        allowed.remove("data_parallel")
    if not allowed:
        raise PlanError(f"table `{table.name}`: a data-parallel table lies on the device; allow the placement `device`")
    return ParameterConstraints(
        sharding_types=allowed,
        compute_kernels=[kernel for place in places for kernel in KERNELS[place]],
        min_partition=rule.min_partition,
        pooling_factors=[rule.pooling_factor] * table.features,
        cache_params=None if rule.cache_load_factor is None else CacheParams(load_factor=rule.cache_load_factor),
    )


def _leaves_a_rank_empty(rows: int, kind: str, topology: Topology) -> bool:
    """Whether a table is so small that a CPU would get a shard without a row."""
    if topology.device != "cpu" or kind not in BY_ROWS:
        return False
    over = topology.ranks if kind == "row_wise" else topology.local_ranks
    return over > 1 and -(-rows // over) * (over - 1) >= rows


class SimplestFirst(EmbeddingEnumerator):
    """TorchRec's, in an order that is the same in every process, and without two names for one thing.

    The first of two equal plans is taken. Column-wise with a single shard is table-wise, and on one machine the ways
    that stay within a machine are no ways of their own.
    """

    def enumerate(self, module: nn.Module, sharders: list[Sharder]) -> list[ShardingOption]:
        one_machine = self._local_world_size == self._world_size
        options: dict[tuple[Any, ...], ShardingOption] = {}
        for option in sorted(super().enumerate(module, sharders), key=_simplicity):
            shards = tuple((*shard.size, *shard.offset) for shard in option.shards)
            spread = None if one_machine else option.partition_by
            options.setdefault((option.fqn, option.compute_kernel, shards, spread), option)
        return list(options.values())


def _simplicity(option: ShardingOption) -> tuple[str, int, int]:
    return option.fqn, KERNEL_ORDER.index(option.compute_kernel), ORDER.index(option.sharding_type)


class MemoryEstimator(ShardEstimator):
    """Tells TorchRec what `table_costs` says of memory.

    Args:
        topology: of the job.
        tables: by module and name.
    """

    def __init__(self, topology: Topology, tables: Mapping[tuple[str, str], Table]):
        self.topology, self.tables = topology, tables

    def estimate(self, sharding_options: list[ShardingOption], sharder_data_map: SharderDataMap) -> None:
        for option in sharding_options:
            table = self.tables[option.path, option.name]
            for shard in option.shards:
                memory = shard_memory(
                    table,
                    option.sharding_type,
                    option.compute_kernel,
                    shard.size,
                    self.topology,
                    option.cache_load_factor,
                )
                on_gpu = self.topology.device == "cuda"
                shard.storage = (
                    Storage(hbm=memory.on_rank, ddr=memory.on_host) if on_gpu else Storage(hbm=0, ddr=memory.on_rank)
                )


def proposers(ranks: int) -> list[Proposer]:
    """TorchRec's, the grid of all combinations only where it takes seconds; over many ranks the others find plans."""
    grid = GridSearchProposer(max_proposals=max(GRID_SHARDS // ranks, 1))
    return [grid, GreedyProposer(), GreedyProposer(use_depth=False), UniformProposer()]


def plan_once(
    module: nn.Module,
    topology: Topology,
    rules: Mapping[str, TableRule],
    batch_size: int,
    sharders: Sequence[Sharder],
    proposed_by: Sequence[Proposer] | None = None,
) -> ShardingPlan:
    """The plan for one topology, made by this process alone.

    Args:
        module: with TorchRec collections, on any device.
        topology: of the job.
        rules: table -> what its plan may be.
        batch_size: samples of a step on a rank.
        sharders: of the collections.
        proposed_by: what proposes plans; None: `proposers`.

    Raises:
        PlanError: rules or tables are wrong.
        PlannerError: TorchRec's, when nothing fits.
    """
    tables = find_tables(module, sharders, rules, batch_size)
    allowed = constraints(module, tables, topology, rules, sharders)
    there = topology.torchrec(dense_bytes(module, sharders))
    memory = MemoryEstimator(topology, {(table.module, table.name): table for table in tables})
    enumerator = SimplestFirst(there, batch_size, allowed, estimator=[EmbeddingPerfEstimator(there, allowed), memory])
    planner = EmbeddingShardingPlanner(
        topology=there,
        batch_size=batch_size,
        enumerator=enumerator,
        storage_reservation=FixedPercentageStorageReservation(0.0),
        proposer=list(proposed_by or proposers(topology.ranks)),
        constraints=allowed,
        stats=[],
        debug=False,
    )
    with _without_known_warnings():
        return planner.plan(module, list(sharders))


@contextmanager
def _without_known_warnings() -> Iterator[None]:
    """TorchRec warns that a data-parallel table has no shards, which is what data-parallel means."""

    def known(record: logging.LogRecord) -> bool:
        return not str(record.msg).startswith("Sharding spec not found for")

    root = logging.getLogger()
    root.addFilter(known)
    try:
        yield
    finally:
        root.removeFilter(known)
