"""Requests as a table that any model can be asked by: names of users and items, texts of queries, no codes of a log."""

from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.evaluation.tasks import Requests, Task
from recsys.features.event_log import EventLog
from recsys.features.jagged import JaggedColumn, expand_ranges, offsets_of
from recsys.features.vocabulary import Vocabulary

SCHEMA = pa.schema(
    {
        "user": pa.int64(),
        "user_id": pa.string(),
        "history": pa.list_(pa.string()),
        "history_times": pa.list_(pa.int64()),
        "history_queries": pa.list_(pa.string()),
        "history_actions": pa.list_(pa.string()),
        "query": pa.string(),
        "time": pa.int64(),
        "task": pa.string(),
        "relevant": pa.list_(pa.string()),
    }
)
"""Every column that a table of requests may have."""

ITEMS = pa.schema({"item_id": pa.string(), "training_events": pa.int64()})
"""The catalogue beside it: item `i` (from 1) stands in row `i - 1`."""

JUDGES_ALONE = ("user", "task", "relevant")
"""Columns that no model is shown."""

_BLOCK = 4096
"""Requests whose histories are laid out at a time."""


def requests_table(log: EventLog, asked: Requests, task: Task | None, wanted: JaggedColumn) -> pa.Table:
    """The table of requests of a log.

    Args:
        log: the log.
        asked: the requests.
        task: their task.
        wanted: ids of the distinct items that each request wants.

    Returns:
        The columns of `SCHEMA` that the log can fill: `history_queries` where models read queries, `history_actions`
        where it has actions. An event without query or action has an empty text there.
    """
    names = {name: _names(log.vocabularies[name]) for name in ("query", "action") if name in log.columns}
    texts = {f"history_{plural}": name for name, plural in (("query", "queries"), ("action", "actions"))}
    if not log.schema.of("query"):
        texts.pop("history_queries")
    users, items = _names(log.users), _names(log.items)
    blocks = []
    for first in range(0, len(asked), _BLOCK):
        rows = np.arange(first, min(first + _BLOCK, len(asked)))
        lengths = asked.history_length[rows]
        events, offsets = expand_ranges(asked.history_start[rows], lengths), pa.array(offsets_of(lengths), pa.int32())
        relevant = wanted.gather(rows)
        columns: dict[str, Any] = {
            "user": asked.users[rows],
            "user_id": _taken(users, asked.users[rows]),
            "history": pa.ListArray.from_arrays(offsets, _taken(items, log.item_id[events])),
            "history_times": pa.ListArray.from_arrays(offsets, pa.array(log.timestamp[events], pa.int64())),
            "query": pa.nulls(len(rows), pa.string()),
            "time": log.timestamp[asked.targets.values[asked.targets.offsets[rows]]],
            "task": pa.array([task] * len(rows), pa.string()),
            "relevant": pa.ListArray.from_arrays(
                pa.array(relevant.offsets, pa.int32()), _taken(items, relevant.values)
            ),
        }
        if asked.query is not None:
            columns["query"] = _taken(names["query"], asked.query[rows])
        for column, name in texts.items():
            if name in names:
                columns[column] = pa.ListArray.from_arrays(offsets, _taken(names[name], log.columns[name][events]))
        blocks.append(pa.table({name: columns[name] for name in SCHEMA.names if name in columns}))
    return pa.concat_tables(blocks)


def items_table(log: EventLog, counts: NDArray[np.int64]) -> pa.Table:
    """The catalogue of a log.

    Args:
        log: the log.
        counts: `[n_items + 1]` training events of each item.
    """
    return pa.table([_names(log.items)[1:], counts[1:]], schema=ITEMS)


def digest(table: pa.Table) -> str:
    """sha256 over the columns of a table: their names and contents, however they are cut into chunks."""
    whole = hashlib.sha256()
    for name in table.column_names:
        whole.update(name.encode())
        parts = [hashlib.sha256() for _ in range(4)]  # missing values, lengths of lists, of texts, and the values
        for chunk in table[name].chunks:
            parts[0].update(chunk.is_null().to_numpy(zero_copy_only=False).tobytes())
            if pa.types.is_list(chunk.type):
                parts[1].update(_bytes(pc.list_value_length(chunk)))
                chunk = chunk.flatten()
            if pa.types.is_string(chunk.type):
                parts[2].update(_bytes(pc.binary_length(chunk)))
                parts[3].update(_text(chunk))
            else:
                parts[3].update(_bytes(chunk))
        for part in parts:
            whole.update(part.digest())
    return whole.hexdigest()


def _names(vocabulary: Vocabulary) -> pa.Array:
    """The raw value of each id as a text; an empty one for 0."""
    return pa.array(["", *vocabulary.values.astype(str)], pa.string())


def _taken(names: pa.Array, ids: NDArray[np.integer]) -> pa.Array:
    return names.take(pa.array(np.asarray(ids, dtype=np.int64)))


def _bytes(values: pa.Array) -> bytes:
    numbers: bytes = pc.fill_null(values, 0).cast(pa.int64()).to_numpy().tobytes()
    return numbers


def _text(values: pa.Array) -> bytes | memoryview:
    """The bytes of texts, one after the other."""
    whole = pc.fill_null(values, "")
    ends, content = whole.buffers()[1:]
    if content is None or not len(whole):
        return b""
    bounds = np.frombuffer(ends, np.int32)[whole.offset : whole.offset + len(whole) + 1]
    return memoryview(content)[bounds[0] : bounds[-1]]
