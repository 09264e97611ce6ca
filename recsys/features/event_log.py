"""The event log: every user's events in time order, as columns of arrays."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from recsys.features.build import build, source_tables
from recsys.features.log_data import LogData
from recsys.features.log_files import read, write
from recsys.features.queries import Queries
from recsys.features.schema import Schema
from recsys.features.tables import TableInput
from recsys.features.vocabulary import Vocabulary


@dataclass(frozen=True)
class EventLog(LogData):
    """The events of users and what is known of users, items and queries; `LogData` lists what it holds."""

    def __repr__(self) -> str:
        sizes = f"{self.n_events:,} events, {self.n_users:,} users, {self.n_items:,} items"
        return f"EventLog({self.schema.name}: {sizes}, {', '.join(self.columns)})"

    @property
    def n_users(self) -> int:
        """Number of users; their ids are 1..n_users."""
        return len(self.users)

    @property
    def n_items(self) -> int:
        """Number of items; their ids are 1..n_items."""
        return len(self.items)

    @property
    def n_events(self) -> int:
        """Number of events."""
        return len(self.columns["item_id"])

    @property
    def item_id(self) -> NDArray[np.int32]:
        """`[n_events]` int32 item ids."""
        return self.columns["item_id"]

    @property
    def timestamp(self) -> NDArray[np.int64]:
        """`[n_events]` int64 Unix seconds."""
        return self.columns["timestamp"]

    @property
    def table_rows(self) -> dict[str, int]:
        """Rows of each embedding table of the schema, the padding row included."""
        return {name: self.encoders[name].rows for name in self.schema.table_names()}

    def item_rows(self) -> NDArray[np.int64] | None:
        """`[n_items + 1]` int64, the row of the table `item_id` that each item has, 0 for none; None: its own id."""
        encoder = self.encoders["item_id"]
        if isinstance(encoder, Vocabulary) and len(encoder) == self.n_items:
            return None
        return np.append(0, encoder.encode(self.items.values))

    def user_rows(self) -> NDArray[np.int64]:
        """`[n_users + 1]` int64, the row of the table `user_id` that each user has, 0 for none."""
        return np.append(0, self.encoders["user_id"].encode(self.users.values))

    def user_ids(self) -> NDArray[np.int64]:
        """`[n_events]` int64, the user of each event (computed; it is not stored)."""
        return np.repeat(np.arange(self.n_users + 1), np.diff(self.offsets))

    def queries(self, codes: NDArray[np.integer]) -> tuple[Queries, NDArray[np.int64]]:
        """The distinct queries among codes, for a batch.

        Args:
            codes: `[n]` codes of queries, 0 for none, as the column `query` holds them.

        Returns:
            The queries, and for each code its row in them, `[n]` int64; 0 for 0.
        """
        distinct, rows = np.unique(np.append(np.asarray(codes, dtype=np.int64), 0), return_inverse=True)
        picked = {name: column.gather(distinct) for name, column in self.query_features.items()}
        jagged = {name: (torch.from_numpy(c.values), torch.from_numpy(c.offsets)) for name, c in picked.items()}
        vectors = {name: torch.from_numpy(v[distinct].astype(np.float32)) for name, v in self.query_vectors.items()}
        return Queries(jagged, vectors), rows[:-1]

    @classmethod
    def from_frame(
        cls, events: pd.DataFrame, schema: Schema, items: TableInput | None = None, users: TableInput | None = None
    ) -> EventLog:
        """A log in memory, with the same checks and the same result as `prepare`.

        Args:
            events: one row per event, columns as the schema names them.
            schema: what the columns mean.
            items: side table of the items: a DataFrame or files.
            users: side table of the users.

        Raises:
            DataError: the data cannot be used; the message names table, column, row and remedy.

        Example:
            >>> frame = pd.DataFrame({"user_id": ["u", "u"], "item_id": [7, 5], "timestamp": [20, 10]})
            >>> log = EventLog.from_frame(frame, Schema(name="two events"))
            >>> log.items.decode(log.item_id).tolist()
            [5, 7]
        """
        return cls(**vars(build(schema, source_tables(schema, events, items, users))))

    def to_frame(self) -> pd.DataFrame:
        """The log with raw ids, one row per event in log order; column names are the canonical ones."""
        frame = {
            "user_id": self.users.values.take(self.user_ids() - 1),
            "item_id": self.items.values.take(np.asarray(self.item_id, dtype=np.int64) - 1),
            "timestamp": np.asarray(self.timestamp),
        }
        for name, column in self.columns.items():
            if name in frame:
                continue
            vocabulary = self.vocabularies.get(self._table_of(name))
            frame[name] = np.asarray(column) if vocabulary is None else _decoded(vocabulary, column)
        return pd.DataFrame(frame)

    def _table_of(self, column: str) -> str:
        """The encoder that made a column: an event feature's table, or the column's own."""
        return next((f.table or "" for f in self.schema.of("event") if f.name == column), column)

    def save(self, folder: Path) -> None:
        """Writes the log to a folder, which `open` reads."""
        write(self, folder)

    @classmethod
    def open(cls, folder: str | Path) -> EventLog:
        """Opens a log that `prepare` or `save` wrote; columns are memory-mapped, nothing is read before it is used.

        Raises:
            EventLogError: the folder holds no event log, or one of another format.
        """
        return cls(**vars(read(Path(folder))))


def _decoded(vocabulary: Vocabulary, codes: NDArray[Any]) -> pd.Series:
    """Raw values of codes, missing where the code is 0."""
    codes = np.asarray(codes, dtype=np.int64)
    return pd.Series(vocabulary.values).reindex(codes - 1).reset_index(drop=True)
