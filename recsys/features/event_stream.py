"""The events in log order, chunk by chunk: codes joined in, sorted, duplicates merged."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

import numpy as np
import pandas as pd
import pyarrow as pa

from recsys.features.column_store import Chunk
from recsys.features.schema import Schema
from recsys.features.staging import Staged
from recsys.features.tables import ROW, quote
from recsys.features.vocabulary import Encoder, Vocabulary

_CHUNK = 1 << 19


def sorted_events(
    staged: Staged, encoders: Mapping[str, Encoder], scaling: Mapping[str, tuple[float, float]]
) -> Iterator[Chunk]:
    """Chunks of events in log order: (user, timestamp, order column, row in the source).

    Args:
        staged: the checked events.
        encoders: how the coded columns become codes, by the column's name.
        scaling: mean and standard deviation of numeric event features.

    Yields:
        Chunks with `user_id`, `item_id` and further codes int32, `timestamp` int64, `weight` and the like.
    """
    selected, joins = [], []
    for name in staged.coded:
        encoder = encoders[name]
        if isinstance(encoder, Vocabulary) and not encoder.unknown_buckets:
            values = encoder.values
        else:  # values without a row of their own have codes, too
            values = staged.distinct(name)
        codes = encoder.encode(values).astype(np.int32)
        mapping = f"codes_{name}"
        arrays = {"raw": pa.Array.from_pandas(values), "code": pa.array(codes)}
        staged.connection.register(mapping, pa.table(arrays))
        joins.append(f"LEFT JOIN {quote(mapping)} ON {quote(mapping)}.raw = {_value(staged, name)}")
        selected.append(f"coalesce({quote(mapping)}.code, 0) AS {quote(name)}")
    for name in staged.columns:
        if name in staged.coded or name == "sort_key":
            continue
        value = _value(staged, name)
        if name in scaling:
            mean, deviation = scaling[name]
            value = f"CAST(({value} - {mean!r}) / {deviation!r} AS FLOAT)"
        selected.append(f"{value} AS {quote(name)}")
    sort_key = [_value(staged, "sort_key")] if "sort_key" in staged.columns else []
    order = ", ".join([f"{quote('codes_user_id')}.code", _value(staged, "timestamp"), *sort_key, ROW])
    query = f"SELECT {', '.join(selected)} FROM staged {' '.join(joins)} ORDER BY {order}"
    for batch in staged.connection.sql(query).to_arrow_reader(_CHUNK):
        yield {name: batch[name].to_numpy(zero_copy_only=False) for name in batch.schema.names}


def _value(staged: Staged, name: str) -> str:
    return staged.columns[name].value


def merge_duplicates(chunks: Iterable[Chunk], schema: Schema) -> Iterator[Chunk]:
    """Keeps the first of events that are equal in user, item and time (and action and query).

    Equal events are neighbours up to other events of the same user and second, so that a chunk can be judged once
    the run of its last second is complete; that run is carried over to the next chunk.
    """
    if schema.duplicates == "keep":
        yield from chunks
        return
    carried: Chunk | None = None
    for chunk in chunks:
        if carried is not None:
            chunk = {name: np.concatenate([carried[name], chunk[name]]) for name in chunk}
        starts = np.flatnonzero(~_same_as_previous(chunk))
        last = int(starts[-1])
        carried = {name: values[last:].copy() for name, values in chunk.items()}
        if last:
            yield _first_of_equals({name: values[:last] for name, values in chunk.items()})
    if carried is not None:
        yield _first_of_equals(carried)


def _same_as_previous(chunk: Chunk) -> np.ndarray:
    """`[rows]` bool: same user and second as the row before."""
    same = np.zeros(len(chunk["user_id"]), dtype=bool)
    same[1:] = (np.diff(chunk["user_id"]) == 0) & (np.diff(chunk["timestamp"]) == 0)
    return same


def _first_of_equals(chunk: Chunk) -> Chunk:
    """The chunk without repeated events; only rows that share user and second are compared."""
    same = _same_as_previous(chunk)
    candidates = same.copy()
    candidates[:-1] |= same[1:]
    keys = [name for name in ("user_id", "item_id", "timestamp", "action", "query") if name in chunk]
    rows = np.flatnonzero(candidates)
    repeated = pd.DataFrame({name: chunk[name][rows] for name in keys}).duplicated().to_numpy()
    if not repeated.any():
        return chunk
    keep = np.ones(len(same), dtype=bool)
    keep[rows[repeated]] = False
    return {name: values[keep] for name, values in chunk.items()}
