"""What `recsys plan` prints for people."""

from __future__ import annotations

from dataclasses import astuple
from itertools import groupby

from rich.console import Console
from rich.table import Table

from recsys.cli.plan_job import Planned
from recsys.training.plan_advice import human
from recsys.training.plan_report import PlannedTable

SIZES = ("weights", "optimizer", "gradient", "cache", "buffers", "ids\nsent", "vectors\nsent", "gradients\nsent")
PLACES = {"fused_uvm": "host", "fused_uvm_caching": "cached"}


def print_plan(planned: Planned) -> None:
    """Prints the tables, the ranks, and what stands against the plan."""
    console = Console()
    topology = planned.topology
    machines = f" on {topology.hosts} machines" if topology.hosts > 1 else ""
    console.print(
        f"{planned.name}: {planned.items:,} items, at most {planned.batch_size:,} looked up on a rank in a step; "
        f"{topology.ranks} x {topology.device}{machines}",
        highlight=False,
    )
    if planned.error is None:
        console.print(tables_table(planned))
        console.print(ranks_table(planned))
        console.print("The tables fit.")
    else:
        console.print(str(planned.error), highlight=False, soft_wrap=True, markup=False)
    for warning in planned.warnings:
        console.print(f"But: {warning}", highlight=False, soft_wrap=True, markup=False)


def tables_table(planned: Planned) -> Table:
    """A row for each table, a column for each size that any has; sizes are those of the rank that has most."""
    heads, sizes = [], []
    for name, group in groupby(planned.tables, key=lambda row: row.table):
        rows = list(group)
        first, most = rows[0], max(rows, key=lambda row: row.memory.on_rank + row.memory.on_host)
        sent = [max(getattr(row.sent, part) for row in rows) for part in ("ids", "vectors", "gradients")]
        place = PLACES.get(first.kernel, "device")
        heads.append((name, f"{first.rows:,} x {first.dim}", f"{first.sharding} {_ranks_of(rows)}", place))
        sizes.append([*astuple(most.memory)[:5], *sent])
    table = Table(title="tables, on the rank that has most of each", title_justify="left", title_style="")
    for header in ("table", "rows x dim", "sharding", "place"):
        table.add_column(header)
    shown = [at for at in range(len(SIZES)) if any(row[at] for row in sizes)]
    for at in shown:
        table.add_column(SIZES[at], justify="right")
    for head, row in zip(heads, sizes, strict=True):
        table.add_row(*head, *(human(row[at]) if row[at] else "" for at in shown))
    return table


def ranks_table(planned: Planned) -> Table:
    """What each rank has of everything, equal neighbours in one row."""
    topology = planned.topology
    machine = ["machine", "of"] if topology.device == "cuda" else []
    table = Table(title="ranks", title_justify="left", title_style="")
    for header in ("rank", "tables", "rest of the model", "reserved", "of", *machine, "sent a step"):
        table.add_column(header, justify="left" if header == "rank" else "right")
    rows = []
    for rank in range(topology.ranks):
        memory = planned.memory(rank)
        sizes = [memory.on_rank, planned.dense, topology.memory * topology.reserve, topology.memory]
        sizes += [memory.on_host, topology.host_memory] if machine else []
        sizes.append(sum(row.sent.total for row in planned.tables if row.rank == rank))
        rows.append([human(size) for size in sizes])
    for cells, equal in groupby(range(topology.ranks), key=lambda rank: rows[rank]):
        ranks = list(equal)
        table.add_row(str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]}-{ranks[-1]}", *cells)
    return table


def _ranks_of(rows: list[PlannedTable]) -> str:
    """The ranks that have a part of a table, for people."""
    have = [row.rank for row in rows if row.shards]
    if len(have) == len(rows) > 1:
        return "on all"
    runs = []
    for _, run in groupby(enumerate(have), key=lambda pair: pair[1] - pair[0]):
        ranks = [rank for _, rank in run]
        runs.append(str(ranks[0]) if len(ranks) == 1 else f"{ranks[0]}-{ranks[-1]}")
    return "on " + ",".join(runs)
