"""What the policy of each embedding table does to the values of a log: rows, collisions, traffic, memory."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.features.embedding_table import Table
from recsys.features.log_data import LogData
from recsys.features.partitions import Partition, partition_of
from recsys.features.table_usage import TableUsage
from recsys.features.vocabulary import Encoder

BYTES_PER_NUMBER = 4


@dataclass(frozen=True)
class TableReport:
    """One embedding table and the values of a log.

    Two values collide when their vectors are the same whatever is trained: they fall on one row, and in a compressed
    table on one row of each part. Shares of events count an event once for each value that it looks up.

    Attributes:
        table: its name.
        policy: how values become rows and how the rows are held, in words.
        dim: embedding dimension; None: the model's width.
        values: distinct values of the log.
        rows: rows that are held, padding included, of all parts of a compressed table.
        collision_rate: share of the distinct values that collide with another.
        dropped: share of events whose value becomes nothing.
        bucketed: share of events whose value has no row of its own and is hashed.
        colliding: share of events whose value collides with another.
    """

    table: str
    policy: str
    dim: int | None
    values: int
    rows: int
    collision_rate: float
    dropped: float
    bucketed: float
    colliding: float

    @classmethod
    def of(cls, name: str, table: Table, encoder: Encoder, usage: TableUsage) -> TableReport:
        """The report of one table.

        Args:
            name: of the table.
            table: as the schema declares it.
            encoder: of its values.
            usage: what looks up which of its rows.

        Raises:
            SchemaError: its compression saves nothing.
        """
        partition = partition_of(name, table, encoder.rows)
        values, events = max(int(usage.values.sum()), 1), max(int(usage.events.sum()), 1)
        dropped, hashed = usage.rows == 0, usage.rows >= encoder.first_bucket
        shared = _colliding(usage, partition)
        return cls(
            table=name,
            policy=policy(table),
            dim=table.dim,
            values=int(usage.values.sum()),
            rows=sum(partition.sizes),
            collision_rate=int(usage.values[shared].sum()) / values,
            dropped=int(usage.events[dropped].sum()) / events,
            bucketed=int(usage.events[hashed].sum()) / events,
            colliding=int(usage.events[shared].sum()) / events,
        )

    def bytes(self, width: int) -> int:
        """Memory of the weights, in bytes, without what an optimizer keeps of them.

        Args:
            width: dimension of a table that takes the model's.
        """
        return self.rows * (self.dim or width) * BYTES_PER_NUMBER


def table_reports(log: LogData) -> list[TableReport]:
    """The report of each table whose usage the log has counted, by name.

    Raises:
        SchemaError: a compression saves nothing.

    Example:
        >>> import pandas as pd
        >>> from recsys.features.event_log import EventLog
        >>> from recsys.features.schema import Schema
        >>> events = pd.DataFrame({"user_id": 1, "item_id": [7, 7, 7, 8], "timestamp": range(4)})
        >>> log = EventLog.from_frame(events, Schema(name="toy", item_table=Table(min_count=2)))
        >>> (report,) = table_reports(log)
        >>> report.policy, report.values, report.rows, report.dropped
        ('vocabulary of values seen 2 times or more, unknown dropped', 2, 2, 0.25)
    """
    return [
        TableReport.of(name, log.schema.table_named(name), log.encoders[name], usage)
        for name, usage in sorted(log.usage.items())
    ]


def as_records(reports: Iterable[TableReport]) -> list[dict[str, Any]]:
    """The reports as JSON holds them."""
    return [asdict(report) for report in reports]


def policy(table: Table) -> str:
    """How a table treats its values, in words."""
    if table.buckets is not None:
        words = f"hash of {table.buckets:,}"
    else:
        frequent = "" if table.min_count is None else f" of values seen {table.min_count:,} times or more"
        unknown = f"hashed to {table.unknown_buckets:,}" if table.shared_rows else "dropped"
        words = f"vocabulary{frequent}, unknown {unknown}"
    if table.compression is not None:
        kind = table.compression.method.replace("_", " ")
        words += f", as {kind} of {table.compression.rows:,} ({table.compression.combine})"
    return words


def expected_collision_rate(values: int, buckets: int) -> float:
    """Share of values that share a bucket with another when each falls on any bucket alike.

    Args:
        values: number of distinct values, at least 1.
        buckets: number of buckets.

    Example:
        >>> expected_collision_rate(2, 4)
        0.25
    """
    return 1 - (1 - 1 / buckets) ** (values - 1)


def _colliding(usage: TableUsage, partition: Partition) -> NDArray[np.bool_]:
    """`[k]` whether the values of a row collide with others."""
    first, *others = (part.numpy() for part in partition.places(torch.from_numpy(np.array(usage.rows))))
    key = first
    for part, size in zip(others, partition.sizes[1:], strict=True):
        key = key * size + part
    _, at = np.unique(key, return_inverse=True)
    return (np.bincount(at, usage.values)[at] > 1) & (usage.rows > 0)
