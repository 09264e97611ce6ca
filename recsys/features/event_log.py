"""The event log: every user's events in time order, as columns of arrays."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from recsys.features.jagged import JaggedColumn
from recsys.features.queries import Queries
from recsys.features.schema import DENSE, Entity, FeatureType, Schema
from recsys.features.tables import TableInput
from recsys.features.vocabulary import Encoder, HashBuckets, Vocabulary

FORMAT_VERSION = 2
"""Version of the files `save` writes; part of every fingerprint, so an old cache is never read by new code."""

MANIFEST = "manifest.json"


class EventLogError(ValueError):
    """A folder that is not an event log; the message names it."""


@dataclass(frozen=True)
class EventLog:
    """Events sorted by (user, timestamp, order column, row in the source), stable, with dense ids 1..n.

    Attributes:
        schema: what the source holds.
        users: raw user id <-> user id.
        items: raw item id <-> item id.
        offsets: `[n_users + 2]` int64; the events of user `u` are `offsets[u]:offsets[u + 1]`, user 0 has none.
        columns: `[n_events]` each, in memory or memory-mapped: `item_id` int32 and `timestamp` int64 (Unix seconds,
            UTC); those the schema names of `action`, `query`, `session_id`, `request_id` (int32 codes, 0 for none),
            `weight` and `propensity` (float32), `position` (int32); one per event feature (int32 codes or float32).
        encoders: how raw values become codes, by table name and by the name of a column of codes.
        item_features: feature name -> `[n_items + 1]` rows of table rows.
        user_features: feature name -> `[n_users + 1]` rows of table rows.
        item_numeric: feature name -> `[n_items + 1]` float32, standardised; 0 where the source has no value.
        user_numeric: feature name -> `[n_users + 1]` float32, likewise.
        item_vectors: feature name -> `[n_items + 1, dim]` float32, as given; zeros where the source has no value.
        user_vectors: feature name -> `[n_users + 1, dim]` float32, likewise.
        query_features: feature name -> `[n_queries + 1]` rows of table rows, by the codes of the column `query`.
        query_vectors: feature name -> `[n_queries + 1, dim]`, likewise.
        scaling: numeric feature name -> (mean, standard deviation) that standardised it.
        item_titles: `[n_items + 1]` strings, the raw id where there is no title; None without a title column.
        fingerprint: names the content of the sources, the schema and the format.
        facts: what was kept, merged and excluded, counted.
    """

    schema: Schema
    users: Vocabulary
    items: Vocabulary
    offsets: NDArray[np.int64]
    columns: dict[str, NDArray[Any]]
    encoders: dict[str, Encoder] = field(default_factory=dict)
    item_features: dict[str, JaggedColumn] = field(default_factory=dict)
    user_features: dict[str, JaggedColumn] = field(default_factory=dict)
    item_numeric: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    user_numeric: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    item_vectors: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    user_vectors: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    query_features: dict[str, JaggedColumn] = field(default_factory=dict)
    query_vectors: dict[str, NDArray[Any]] = field(default_factory=dict)
    scaling: dict[str, tuple[float, float]] = field(default_factory=dict)
    item_titles: NDArray[np.str_] | None = None
    fingerprint: str = ""
    facts: dict[str, int] = field(default_factory=dict)

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
    def vocabularies(self) -> dict[str, Vocabulary]:
        """The encoders that can be read backwards."""
        return {name: encoder for name, encoder in self.encoders.items() if isinstance(encoder, Vocabulary)}

    @property
    def table_rows(self) -> dict[str, int]:
        """Rows of each embedding table of the schema, the padding row included."""
        tables = {feature.table for feature in self.schema.features if feature.table is not None} | {"item_id"}
        if self.schema.user_table is not None:
            tables.add("user_id")
        return {name: self.encoders[name].rows for name in sorted(tables)}

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
        from recsys.features.prepare import build  # prepare writes event logs, so it is the higher module

        return build(schema, events, items, users)

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
        """Writes everything but the columns that are already files under `folder`.

        The manifest is written last: a folder without one is not a log.
        """
        (folder / "columns").mkdir(parents=True, exist_ok=True)
        for name, column in self.columns.items():
            if not (folder / "columns" / f"{name}.npy").exists():
                np.save(folder / "columns" / f"{name}.npy", column)
        np.save(folder / "offsets.npy", self.offsets)
        bags = {"item": self.item_features, "user": self.user_features, "query": self.query_features}
        for entity, features in bags.items():
            for name, jagged in features.items():
                np.save(folder / f"{entity}.{name}.values.npy", jagged.values)
                np.save(folder / f"{entity}.{name}.offsets.npy", jagged.offsets)
        dense = {"item": self.item_numeric | self.item_vectors, "user": self.user_numeric | self.user_vectors}
        for entity, arrays in dense.items():
            for name, values in arrays.items():
                np.save(folder / f"{entity}.{name}.npy", values)
        for name, vocabulary in self.vocabularies.items():
            vocabulary.save(folder / f"vocabulary.{name}.parquet")
        if self.item_titles is not None:
            pd.DataFrame({"title": self.item_titles}).to_parquet(folder / "item_titles.parquet")
        manifest = {
            "format": FORMAT_VERSION,
            "fingerprint": self.fingerprint,
            "schema": self.schema.model_dump(mode="json"),
            "columns": sorted(self.columns),
            "hash_tables": {n: e.buckets for n, e in self.encoders.items() if isinstance(e, HashBuckets)},
            "vocabularies": sorted(self.vocabularies),
            "scaling": self.scaling,
            "titles": self.item_titles is not None,
            "facts": self.facts,
        }
        (folder / MANIFEST).write_text(json.dumps(manifest, indent=2, sort_keys=True), encoding="utf-8")

    @classmethod
    def open(cls, folder: str | Path) -> EventLog:
        """Opens a log that `prepare` wrote; columns are memory-mapped, nothing is read before it is used.

        Raises:
            EventLogError: the folder holds no event log, or one of another format.
        """
        folder = Path(folder)
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise EventLogError(
                f"{folder}: no event log here (no {MANIFEST}); make one with `recsys prepare`"
            ) from None
        except json.JSONDecodeError as error:
            raise EventLogError(
                f"{folder / MANIFEST}: damaged ({error}); delete the folder and prepare again"
            ) from None
        if manifest["format"] != FORMAT_VERSION:
            raise EventLogError(
                f"{folder}: written in format {manifest['format']}, this version reads {FORMAT_VERSION}; "
                "delete the folder and prepare again"
            )
        schema = Schema.parse(manifest["schema"], origin=str(folder / MANIFEST))
        load: Callable[[Path], NDArray[Any]] = partial(np.load, mmap_mode="r", allow_pickle=False)
        encoders: dict[str, Encoder] = {
            name: Vocabulary.load(folder / f"vocabulary.{name}.parquet") for name in manifest["vocabularies"]
        }
        encoders |= {name: HashBuckets(buckets) for name, buckets in manifest["hash_tables"].items()}
        users, items = encoders["user_id"], encoders["item_id"]
        assert isinstance(users, Vocabulary) and isinstance(items, Vocabulary)

        def jagged(entity: Entity) -> dict[str, JaggedColumn]:
            names = [feature.name for feature in schema.of(entity) if feature.type not in DENSE]
            return {
                name: JaggedColumn(
                    load(folder / f"{entity}.{name}.values.npy"), load(folder / f"{entity}.{name}.offsets.npy")
                )
                for name in names
            }

        def dense(entity: Entity, kind: FeatureType) -> dict[str, NDArray[np.float32]]:
            return {f.name: load(folder / f"{entity}.{f.name}.npy") for f in schema.of(entity) if f.type == kind}

        return cls(
            schema=schema,
            users=users,
            items=items,
            offsets=np.load(folder / "offsets.npy", allow_pickle=False),
            columns={name: load(folder / "columns" / f"{name}.npy") for name in manifest["columns"]},
            encoders=encoders,
            item_features=jagged("item"),
            user_features=jagged("user"),
            item_numeric=dense("item", "numeric"),
            user_numeric=dense("user", "numeric"),
            item_vectors=dense("item", "vector"),
            user_vectors=dense("user", "vector"),
            query_features=jagged("query"),
            scaling={name: (mean, sd) for name, (mean, sd) in manifest["scaling"].items()},
            item_titles=(
                pd.read_parquet(folder / "item_titles.parquet")["title"].to_numpy(dtype=str)
                if manifest["titles"]
                else None
            ),
            fingerprint=manifest["fingerprint"],
            facts=manifest["facts"],
        )


def _decoded(vocabulary: Vocabulary, codes: NDArray[Any]) -> pd.Series:
    """Raw values of codes, missing where the code is 0."""
    codes = np.asarray(codes, dtype=np.int64)
    return pd.Series(vocabulary.values).reindex(codes - 1).reset_index(drop=True)
