"""Requests that do not come from a split: somebody's table of requests and catalogue, as an evaluation set."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from recsys.evaluation.evaluation_set import EvaluationSet
from recsys.evaluation.relevance import target_counts
from recsys.evaluation.requests_table import ITEMS, SCHEMA, digest
from recsys.evaluation.result import EvaluationError
from recsys.features.jagged import offsets_of

_OF_EVENTS = ("history_times", "history_queries", "history_actions")


def given_set(
    frame: pd.DataFrame, items: pd.DataFrame, *, name: str = "given", filter_seen: bool = True
) -> EvaluationSet:
    """The evaluation set of requests that somebody brings. A cold item is a miss.

    Args:
        frame: a row is a request, see `given_requests`.
        items: the whole catalogue, `item_id` and `training_events`.
        name: to print.
        filter_seen: whether items of the history are kept out of lists; they are then counted and not asked for.

    Raises:
        EvaluationError: a table is not as it should be, or an item to be found is not in the catalogue.

    Example:
        >>> asked = pd.DataFrame({"history": [["a"], []], "relevant": [["a", "b"], ["c"]]})
        >>> catalogue = pd.DataFrame({"item_id": ["a", "b", "c"], "training_events": [3, 1, 0]})
        >>> facts = given_set(asked, catalogue).facts_of(None)
        >>> {name: facts[name] for name in ("requests", "targets", "seen_targets", "cold_item_targets")}
        {'requests': 2, 'targets': 2, 'seen_targets': 1, 'cold_item_targets': 1}
    """
    table, catalogue = given_requests(frame), _given_items(items)
    bare = EvaluationSet(name, table, catalogue, ())
    rows = np.arange(len(table))
    wanted, known = bare.item_ids("relevant", rows), bare.item_ids("history", rows)
    row_of = np.repeat(rows, wanted.lengths)
    if not wanted.values.all():
        row, item = row_of[wanted.values == 0][0], pc.list_flatten(table["relevant"]).to_numpy()[wanted.values == 0][0]
        raise EvaluationError(f"requests: row {row} wants `{item}`, which is not among the {len(catalogue):,} items")
    stride = len(catalogue) + 1
    pairs = np.unique(row_of * stride + wanted.values)
    again = np.isin(pairs, np.repeat(rows, known.lengths) * stride + known.values)
    kept = pairs[~again] if filter_seen else pairs
    offsets = offsets_of(np.bincount(kept // stride, minlength=len(rows)))
    texts = catalogue["item_id"].combine_chunks().take(pa.array(kept % stride - 1))
    relevant = pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), texts)
    table = table.set_column(table.column_names.index("relevant"), "relevant", relevant)
    rules = {
        "rule": name,
        "split_hash": hashlib.sha256(f"{digest(table)} {digest(catalogue)}".encode()).hexdigest(),
        "part": "given",
        "filter_seen": filter_seen,
        "cold_targets": "miss",
        "other_task_events": 0,
        "cold_users": 0,
    }
    tasks = list(dict.fromkeys(table["task"].to_pylist()))
    bare = EvaluationSet(name, table, catalogue, tuple({"task": task, **rules} for task in tasks))
    facts = []
    for task in tasks:
        own, found = bare.rows(task), bare.relevance(task)
        counted = target_counts(bare.users(own), found.wanted, found.judged, found.train_counts)
        facts.append(found.facts | counted | {"seen_targets": int(np.isin(pairs[again] // stride, own).sum())})
    return replace(bare, facts=tuple(facts))


def given_requests(frame: pd.DataFrame) -> pa.Table:
    """A table of requests that somebody brings, checked and completed.

    Args:
        frame: columns of `SCHEMA`; `relevant` and one of `user_id` and `history` are needed. Requests without `user_id`
            are of one user each.

    Raises:
        EvaluationError: a column is missing, unknown or of another type; the message names it.
    """
    unknown = sorted(set(map(str, frame.columns)) - set(SCHEMA.names))
    if unknown:
        raise EvaluationError(f"requests: no column `{unknown[0]}` is known; there are {', '.join(SCHEMA.names)}")
    if "relevant" not in frame or not {"user_id", "history"} & set(frame.columns):
        raise EvaluationError("requests: `relevant` and one of `user_id` and `history` are needed")
    if not len(frame):
        raise EvaluationError("requests: there is none")
    columns = {name: _column(frame[name], SCHEMA.field(name)) for name in SCHEMA.names if name in frame}
    columns.setdefault("user_id", pa.array([str(row) for row in range(len(frame))]))
    if "user" not in columns:
        columns["user"] = pa.array(pd.factorize(columns["user_id"].to_pandas())[0] + 1)
    columns.setdefault("history", pa.repeat(pa.scalar([], SCHEMA.field("history").type), len(frame)))
    columns.setdefault("query", pa.nulls(len(frame), pa.string()))
    columns.setdefault("task", pa.nulls(len(frame), pa.string()))
    for name in ("user", "user_id", "time"):
        if name in columns and columns[name].null_count:
            raise EvaluationError(f"requests: column `{name}` has missing values")
    for name in _OF_EVENTS:
        if name in columns:
            apart = pc.not_equal(pc.list_value_length(columns[name]), pc.list_value_length(columns["history"]))
            if pc.any(apart).as_py():
                row = apart.index(True).as_py()
                raise EvaluationError(f"requests: row {row}: `{name}` and `history` are of different length")
    return pa.table({name: columns[name] for name in SCHEMA.names if name in columns})


def _column(values: pd.Series, field: pa.Field) -> pa.Array:
    try:
        made = pa.Array.from_pandas(values, type=field.type)
    except pa.ArrowException as error:
        raise EvaluationError(f"requests: column `{field.name}` is not of type {field.type}: {error}") from None
    made = made.combine_chunks() if isinstance(made, pa.ChunkedArray) else made
    if pa.types.is_list(field.type):
        if made.flatten().null_count:
            raise EvaluationError(f"requests: column `{field.name}` has missing values within its lists")
        made = pc.fill_null(made, pa.scalar([], field.type))
    return made


def _given_items(items: pd.DataFrame) -> pa.Table:
    if not {"item_id", "training_events"} <= set(items.columns):
        raise EvaluationError("items: the columns `item_id` and `training_events` are needed")
    try:
        table = pa.Table.from_pandas(items[ITEMS.names], schema=ITEMS, preserve_index=False)
    except pa.ArrowException as error:
        raise EvaluationError(f"items: {error}") from None
    if any(column.null_count for column in table.columns) or not items["item_id"].is_unique:
        raise EvaluationError("items: missing values, or an item that stands in two rows")
    return table
