"""Queries of a log and new ones: the same text gives the same rows."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.features.event_log import EventLog
from recsys.features.queries import Queries
from recsys.features.query_reader import QueryReader
from recsys.features.schema import Schema
from recsys.features.tables import DataError
from recsys.features.vocabulary import HashBuckets

TITLES = ["Red shoe", "Red hat", "Green-tea tin", "Hat of wool"]
ASKED = ["red SHOE", None, "wool", "", "shoe red", "tin hat", "wool", "!!", "wool"]


def schema(**tables: object) -> Schema:
    return Schema.parse(
        {
            "name": "shop",
            "events": {"query": "asked"},
            "features": [
                {"name": "title", "column": "title", "type": "text", "table": "words"},
                {"name": "words", "type": "text", "entity": "query", "max_values": 3},
                {"name": "runs", "type": "text", "entity": "query", "characters": [2, 3]},
            ],
            "tables": tables | {"runs": {"encoding": "hash", "buckets": 50}},
        }
    )


def log_of(asked: list[str | None] = ASKED, **tables: object) -> EventLog:
    items = pd.DataFrame({"item_id": range(4), "title": TITLES})
    events = pd.DataFrame({"user_id": 1, "item_id": np.arange(len(asked)) % 4, "timestamp": range(len(asked))})
    return EventLog.from_frame(events.assign(asked=asked), schema(**tables), items)


def rows(queries: Queries, name: str, row: int) -> list[int]:
    values, offsets = queries.jagged[name]
    return values[offsets[row] : offsets[row + 1]].tolist()


def reader_of(log: EventLog) -> QueryReader:
    reader = QueryReader.of(log.schema, log.encoders, log.sentence_models)
    assert reader is not None
    return reader


def test_the_words_of_queries() -> None:
    """`words` is shared with the titles; a query counts once for each event."""
    log = log_of()
    count = Counter(word for text in TITLES for word in set(re.findall(r"\w+", text.lower())))
    for text in ASKED:
        count.update(set(re.findall(r"\w+", (text or "").lower())))
    vocabulary = log.vocabularies["words"]
    assert vocabulary.values.tolist() == sorted(word for word, n in count.items() if n >= 2)
    distinct = log.vocabularies["query"].values.tolist()
    assert distinct == sorted({text for text in ASKED if text}), "an empty text is no query"
    column = log.query_features["words"]
    assert len(column) == len(distinct) + 1 and not len(column.row(0))
    for code, text in enumerate(distinct, 1):
        known = [word for word in re.findall(r"\w+", text.lower()) if count[word] >= 2]
        assert vocabulary.decode(column.row(code)).tolist() == known[:3]
    assert log.table_rows == {"item_id": 5, "runs": 51, "words": len(vocabulary) + 1}
    assert log.facts["words_values_dropped"] == 0 and log.facts["runs_values_cut"] == 0


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(0, 5), max_size=20))
def test_the_queries_of_codes_equal_a_loop(codes: list[int]) -> None:
    log = log_of()
    queries, local = log.queries(np.array(codes, dtype=np.int32))
    assert len(queries) == len(set(codes) - {0}) + 1
    for code, row in zip(codes, local.tolist(), strict=True):
        assert (row == 0) == (code == 0)
        for name, column in log.query_features.items():
            assert rows(queries, name, row) == column.row(code).tolist()
    assert not rows(queries, "words", 0)


@pytest.mark.parametrize("words", [{}, {"unknown": "hash", "unknown_buckets": 4}, {"encoding": "hash", "buckets": 9}])
def test_a_text_read_anew_gives_the_rows_of_the_log(words: dict) -> None:
    log = log_of(words=words)
    reader = reader_of(log)
    order = [ASKED[i] for i in (4, 0, 3, 1, 4, 7, 2)]
    new, fresh = reader.read(order)
    assert fresh.tolist() == [1, 2, 0, 0, 1, 3, 4]
    codes = log.vocabularies["query"].encode(pd.Index([text or None for text in order], dtype="str"))
    old, local = log.queries(codes)
    for name in log.query_features:
        for here, there in zip(fresh, local, strict=True):
            assert rows(new, name, here) == rows(old, name, there)


def test_a_new_text_follows_the_table_s_policy_and_is_counted() -> None:
    reader = reader_of(log_of())
    queries, local = reader.read(["unheard-of Red red shoe hat", "unheard-of red red SHOE hat"])
    known = reader.vocabularies["words"].encode(["red", "red", "shoe"]).tolist()
    assert local.tolist() == [1, 2] and rows(queries, "words", 1) == rows(queries, "words", 2) == known
    assert reader.facts["words_values_dropped"] == 4 and reader.facts["words_values_cut"] == 2
    assert reader.facts["runs_values_dropped"] == 0
    assert list(reader.vocabularies) == ["words"] and reader.encoders["runs"] == HashBuckets(50)


def test_no_text_at_all() -> None:
    for asked in ([], [None, ""]):
        queries, local = reader_of(log_of()).read(asked)
        assert len(queries) == 1 and local.tolist() == [0] * len(asked)
    assert QueryReader.of(Schema(name="plain"), {}, {}) is None


def test_saved_queries_come_back(tmp_path: Path) -> None:
    log = log_of()
    log.save(tmp_path / "log")
    opened = EventLog.open(tmp_path / "log")
    assert isinstance(opened.query_features["words"].values, np.memmap)
    codes = np.arange(len(log.vocabularies["query"]) + 1)
    one, two = log.queries(codes)[0], opened.queries(codes)[0]
    for name in log.query_features:
        assert all(a.equal(b) for a, b in zip(one.jagged[name], two.jagged[name], strict=True))
    assert opened.facts == log.facts


def test_queries_of_numbers_are_refused_and_numbers_in_text_are_text(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"events frame: column `asked` has type BIGINT; feature `words` reads"):
        log_of([7, 8, 7])  # type: ignore[list-item]
    pd.DataFrame({"user_id": 1, "item_id": range(4), "timestamp": 5, "asked": ["42", "42", "7", None]}).to_csv(
        tmp_path / "log.csv", index=False
    )
    items = pd.DataFrame({"item_id": range(4), "title": TITLES})
    log = EventLog.from_frame(tmp_path / "log.csv", schema(), items)  # type: ignore[arg-type]
    assert log.vocabularies["query"].values.tolist() == ["42", "7"]
    assert "42" in log.vocabularies["words"].values and "7" not in log.vocabularies["words"].values


def test_a_request_is_a_code_and_no_part_of_equality() -> None:
    frame = pd.DataFrame(
        {"user_id": 1, "item_id": [1, 1, 2, 3], "timestamp": 9, "ask": ["r2", "r1", "r2", None], "asked": "x"}
    )
    log = EventLog.from_frame(frame, Schema.parse({"name": "toy", "events": {"request_id": "ask", "query": "asked"}}))
    assert log.facts["events_merged"] == 1, "the same item at the same time is one event, whatever the request"
    assert log.columns["request_id"].tolist() == [2, 2, 0]
    assert log.to_frame()["request_id"].tolist()[:2] == ["r2", "r2"]
