"""From staged events and side tables to an event log: vocabularies, codes, columns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from recsys.features.column_store import ColumnSink
from recsys.features.encoders import build_encoders
from recsys.features.event_log import EventLog
from recsys.features.event_stream import merge_duplicates, sorted_events
from recsys.features.jagged import JaggedColumn, offsets_of
from recsys.features.raw_values import RawValues, jagged_column
from recsys.features.schema import CODES, DENSE, Entity, Schema, Table
from recsys.features.side_features import (
    SideTable,
    numeric_column,
    raw_values,
    read_side_table,
    side_columns,
    vector_column,
)
from recsys.features.staging import Staged
from recsys.features.tables import DataError, SourceTable
from recsys.features.text import text_values
from recsys.features.vocabulary import Encoder, Vocabulary, as_values

Progress = Callable[[str, int, int], None]
"""Called with the stage's name, the rows done and the rows in all."""

_ENTITY: dict[str, Entity] = {"items": "item", "users": "user"}
_MAX_IDS = 2**31 - 2


def encode(
    staged: Staged,
    sources: dict[str, SourceTable],
    schema: Schema,
    sink: ColumnSink,
    fingerprint: str,
    progress: Progress | None = None,
) -> EventLog:
    """Everything after staging: vocabularies, side features, codes, order, columns.

    Args:
        staged: the checked events.
        sources: the side tables by role.
        schema: what the columns mean.
        sink: takes the columns.
        fingerprint: the name of the log.
        progress: told of every chunk of sorted events.

    Raises:
        DataError: a side table cannot be used, or there are more ids than a log can hold.
    """
    users = _id_vocabulary(staged, "user_id", schema.user_table)
    items = _id_vocabulary(staged, "item_id", schema.item_table)
    facts = {"events_read": staged.rows}

    tables: dict[str, SideTable] = {}
    for role, key, vocabulary in (("items", schema.item_key, items), ("users", schema.user_key, users)):
        if wanted := side_columns(schema, _ENTITY[role]):
            side = read_side_table(staged.connection, sources[role], key, wanted, vocabulary)
            tables[role] = side
            facts[f"{role}_without_side_row"] = len(vocabulary) - len(side.ids)
            facts[f"{role}_side_rows_excluded"] = side.unused

    raw = {
        feature.name: raw_values(feature, side)
        for role, side in tables.items()
        for feature in schema.of(_ENTITY[role])
        if feature.type not in DENSE
    }
    codes = {name: Vocabulary.of(staged.distinct(name)) for name in CODES if name in staged.coded}
    asked = _query_texts(staged, schema, codes["query"]) if schema.of("query") else {}
    parts = [*raw.values(), *asked.values(), *_of_events(staged, schema)]
    encoders: dict[str, Encoder] = {"user_id": users, "item_id": items, **build_encoders(schema, parts), **codes}

    jagged: dict[str, dict[str, JaggedColumn]] = {"items": {}, "users": {}}
    numeric: dict[str, dict[str, NDArray[np.float32]]] = {"items": {}, "users": {}}
    vectors: dict[str, dict[str, NDArray[np.float32]]] = {"items": {}, "users": {}}
    scaling: dict[str, tuple[float, float]] = {}
    for role, side in tables.items():
        n = len(items if role == "items" else users)
        for feature in schema.of(_ENTITY[role]):
            if feature.type == "numeric":
                numeric[role][feature.name], scaling[feature.name] = numeric_column(feature, side, n)
                continue
            if feature.type == "vector":
                vectors[role][feature.name], missing = vector_column(feature, side, n)
                facts[f"{feature.name}_vectors_missing"] = missing
                continue
            column, dropped, cut = jagged_column(raw[feature.name], encoders[str(feature.table)], n)
            jagged[role][feature.name] = column
            facts |= {f"{feature.name}_values_dropped": dropped, f"{feature.name}_values_cut": cut}
    query_features: dict[str, JaggedColumn] = {}
    for name, values in asked.items():
        column, dropped, cut = jagged_column(values, encoders[str(values.feature.table)], len(codes["query"]))
        query_features[name] = column
        facts |= {f"{name}_values_dropped": dropped, f"{name}_values_cut": cut}
    scaling |= {f.name: staged.scaling(f.name) for f in schema.of("event") if f.type == "numeric"}

    lengths = np.zeros(len(users) + 1, dtype=np.int64)
    kept = 0
    for chunk in merge_duplicates(sorted_events(staged, encoders, schema, scaling), schema):
        user_id = chunk.pop("user_id")
        lengths += np.bincount(user_id, minlength=len(lengths))
        sink.append(chunk)
        kept += len(user_id)
        if progress is not None:
            progress("sorting and writing", kept, staged.rows)
    facts |= {"events_kept": kept, "events_merged": staged.rows - kept, "users": len(users), "items": len(items)}
    return EventLog(
        schema=schema,
        users=users,
        items=items,
        offsets=offsets_of(lengths),
        columns=sink.close(),
        encoders=encoders,
        item_features=jagged["items"],
        user_features=jagged["users"],
        item_numeric=numeric["items"],
        user_numeric=numeric["users"],
        item_vectors=vectors["items"],
        user_vectors=vectors["users"],
        query_features=query_features,
        scaling=scaling,
        item_titles=_titles(schema, tables.get("items"), items),
        fingerprint=fingerprint,
        facts=facts,
    )


def _id_vocabulary(staged: Staged, name: str, table: Table | None) -> Vocabulary:
    """Ids of users or items, ordered by raw value."""
    values = staged.distinct(name)
    buckets = table.unknown_buckets if table is not None and table.unknown == "hash" else 0
    if len(values) + buckets > _MAX_IDS:
        raise DataError(
            f"column `{staged.columns[name].source}`: {len(values):,} distinct ids, but a log holds at most "
            f"{_MAX_IDS:,}. Split the log"
        )
    return Vocabulary.of(values, buckets)


def _query_texts(staged: Staged, schema: Schema, queries: Vocabulary) -> dict[str, RawValues]:
    """The words of the distinct queries by feature; each query counts as often as it was asked."""
    ids = np.arange(1, len(queries) + 1)
    # Strings that pandas keeps in Arrow come in chunks.
    texts = pa.table({"query": pa.Array.from_pandas(queries.values)})["query"].combine_chunks()
    copies = staged.counts("query", queries)
    return {f.name: replace(text_values(f, ids, texts), copies=copies) for f in schema.of("query")}


def _of_events(staged: Staged, schema: Schema) -> list[RawValues]:
    """The distinct values of the event features that feed a table; which event holds which is found later."""
    none = np.zeros(0, dtype=np.int64)
    features = [feature for feature in schema.of("event") if feature.table is not None]
    return [RawValues(feature, none, none, as_values(staged.distinct(feature.name))) for feature in features]


def _titles(schema: Schema, side: SideTable | None, items: Vocabulary) -> NDArray[np.str_] | None:
    """A readable name of every item; the raw id where the side table has none."""
    if schema.title is None or side is None:
        return None
    titles = np.array(["", *items.values.astype(str)], dtype=object)
    given = side.columns[schema.title].to_pandas()
    there = given.notna().to_numpy()
    titles[side.ids[there]] = given[there].astype(str).to_numpy(dtype=object)
    return titles.astype(str)
