"""What an event log consists of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from recsys.features.jagged import JaggedColumn
from recsys.features.schema import Schema
from recsys.features.sentences import SentenceModel
from recsys.features.table_usage import TableUsage
from recsys.features.vocabulary import Encoder, Vocabulary


@dataclass(frozen=True)
class LogData:
    """Events sorted by (user, timestamp, order column, row in the source), stable, with dense ids 1..n.

    Attributes:
        schema: what the source holds.
        users: raw user id <-> user id.
        items: raw item id <-> item id.
        offsets: `[n_users + 2]` int64; the events of user `u` are `offsets[u]:offsets[u + 1]`, user 0 has none.
        columns: `[n_events]` each, in memory or memory-mapped: `item_id` int32 and `timestamp` int64 (Unix seconds,
            UTC); those the schema names of `action`, `query`, `session_id`, `request_id` (int32 codes, 0 for none),
            `weight` and `propensity` (float32), `position` (int32); one per event feature (int32 codes or float32).
        encoders: how raw values become codes, by table name and by the name of a column of codes. Of `user_id` and
            `item_id` the columns hold ids; the encoders say which rows of their tables the ids have.
        usage: table name -> what looks up which of its rows; empty in logs of versions that did not count it.
        item_features: feature name -> `[n_items + 1]` rows of table rows.
        user_features: feature name -> `[n_users + 1]` rows of table rows.
        query_features: feature name -> `[n_queries + 1]` rows of table rows, by the codes of the column `query`.
        item_numeric: feature name -> `[n_items + 1]` float32, standardised; 0 where the source has no value.
        user_numeric: feature name -> `[n_users + 1]` float32, likewise.
        item_vectors: feature name -> `[n_items + 1, dim]`: float32 as given, float16 for embeddings of sentences; zeros
            where the source has no value.
        user_vectors: feature name -> `[n_users + 1, dim]`, likewise.
        query_vectors: feature name -> `[n_queries + 1, dim]` float16.
        scaling: numeric feature name -> (mean, standard deviation) that standardised it.
        sentence_models: sentence feature name -> the encoder that embedded it.
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
    usage: dict[str, TableUsage] = field(default_factory=dict)
    item_features: dict[str, JaggedColumn] = field(default_factory=dict)
    user_features: dict[str, JaggedColumn] = field(default_factory=dict)
    query_features: dict[str, JaggedColumn] = field(default_factory=dict)
    item_numeric: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    user_numeric: dict[str, NDArray[np.float32]] = field(default_factory=dict)
    item_vectors: dict[str, NDArray[np.floating]] = field(default_factory=dict)
    user_vectors: dict[str, NDArray[np.floating]] = field(default_factory=dict)
    query_vectors: dict[str, NDArray[np.floating]] = field(default_factory=dict)
    scaling: dict[str, tuple[float, float]] = field(default_factory=dict)
    sentence_models: dict[str, SentenceModel] = field(default_factory=dict)
    item_titles: NDArray[np.str_] | None = None
    fingerprint: str = ""
    facts: dict[str, int] = field(default_factory=dict)

    @property
    def vocabularies(self) -> dict[str, Vocabulary]:
        """The encoders that can be read backwards."""
        return {name: encoder for name, encoder in self.encoders.items() if isinstance(encoder, Vocabulary)}
