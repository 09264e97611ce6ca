from __future__ import annotations

import math
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.features.event_log import EventLog
from recsys.features.schema import Schema
from recsys.features.tables import DataError
from recsys.features.vocabulary import HashBuckets, Vocabulary

EVENTS = pd.DataFrame({"user_id": [1, 1, 2, 2], "item_id": [10, 20, 30, 40], "timestamp": [1, 2, 3, 4]})


def schema(*features: dict, **more: object) -> Schema:
    return Schema.parse({"name": "toy", "features": list(features), **more})


def items(**columns: object) -> pd.DataFrame:
    return pd.DataFrame({"item_id": [40, 10, 99, 20]} | columns)


def decoded(log: EventLog, name: str, table: str | None = None) -> list[list]:
    """The raw values of every item but the padding, whose row must be empty."""
    column, vocabulary = log.item_features[name], log.vocabularies[table or name]
    assert len(column) == log.n_items + 1 and not len(column.row(0))
    return [vocabulary.decode(column.row(item)).tolist() for item in range(1, log.n_items + 1)]


def test_items_without_a_row_are_empty_and_counted() -> None:
    side = items(brand=["a", "b", "unused", None])
    log = EventLog.from_frame(EVENTS, schema({"name": "brand", "column": "brand", "type": "categorical"}), side)
    assert decoded(log, "brand") == [["b"], [], [], ["a"]]
    assert log.vocabularies["brand"].values.tolist() == ["a", "b"]
    assert log.table_rows == {"brand": 3, "item_id": 5}
    assert log.facts["items_without_side_row"] == 1 and log.facts["items_side_rows_excluded"] == 1


@pytest.mark.parametrize("separator", [None, "|"])
def test_lists_as_lists_and_as_text(separator: str | None) -> None:
    lists: list = [["x", "y", "z"], ["y"], ["unused"], None]
    joined = ["x|y | z|", "y", "unused", None]
    feature = {"name": "tags", "column": "tags", "type": "categorical_list", "separator": separator, "max_values": 2}
    log = EventLog.from_frame(EVENTS, schema(feature), items(tags=lists if separator is None else joined))
    assert decoded(log, "tags") == [["y"], [], [], ["x", "y"]]
    assert log.facts["tags_values_cut"] == 1 and log.facts["tags_values_dropped"] == 0
    assert log.table_rows["tags"] == 4  # `z` is cut from this item and still has a row


def test_lists_of_integers_from_parquet(tmp_path: Path) -> None:
    items(tags=[[3, 1], [], [7], [1]]).to_parquet(tmp_path / "items.parquet")
    feature = {"name": "tags", "column": "tags", "type": "categorical_list"}
    log = EventLog.from_frame(EVENTS, schema(feature), tmp_path / "items.parquet")
    assert decoded(log, "tags") == [[], [1], [], [3, 1]]


words = st.text(st.sampled_from("abÉ -7!"), max_size=12)


@settings(max_examples=25, deadline=None)
@given(st.lists(words, min_size=3, max_size=3))
def test_words_equal_a_loop(texts: list[str]) -> None:
    side = pd.DataFrame({"item_id": [10, 20, 30], "text": texts})
    log = EventLog.from_frame(EVENTS, schema({"name": "words", "column": "text", "type": "text"}), side)
    tokens = [re.findall(r"[^\W_]+", text.lower()) for text in texts]
    frequency = Counter(word for row in tokens for word in set(row))
    kept = [[word for word in row if frequency[word] >= 2] for row in tokens]
    assert decoded(log, "words") == [*kept, []]
    assert log.facts["words_values_dropped"] == sum(map(len, tokens)) - sum(map(len, kept))
    assert log.vocabularies["words"].values.tolist() == sorted(word for word, n in frequency.items() if n >= 2)


def test_hashed_words_fill_the_buckets_only() -> None:
    feature = {"name": "words", "column": "text", "type": "text"}
    hashed = schema(feature, tables={"words": {"encoding": "hash", "buckets": 5}})
    log = EventLog.from_frame(EVENTS, hashed, items(text=["Red shoe", "red hat", "unused", None]))
    encoder = HashBuckets(5)
    assert log.table_rows["words"] == 6
    assert log.item_features["words"].row(4).tolist() == encoder.encode(["red", "shoe"]).tolist()
    assert log.item_features["words"].row(1).tolist() == encoder.encode(["red", "hat"]).tolist()


def test_features_of_one_table_share_its_rows() -> None:
    features = [
        {"name": "brand", "column": "brand", "type": "categorical", "table": "names"},
        {"name": "rivals", "column": "rivals", "type": "categorical_list", "table": "names"},
        {"name": "likes", "column": "likes", "type": "categorical", "entity": "user", "table": "names"},
        {"name": "shop", "column": "shop", "type": "categorical", "entity": "event", "table": "names"},
    ]
    side = items(brand=["b", "a", "unused", None], rivals=[["a"], ["b", "c"], [], None])
    users = pd.DataFrame({"user_id": [2, 1], "likes": ["d", "a"]})
    log = EventLog.from_frame(EVENTS.assign(shop=["e", "a", "b", None]), schema(*features), side, users)
    assert log.vocabularies["names"].values.tolist() == ["a", "b", "c", "d", "e"]
    assert decoded(log, "brand", "names") == [["a"], [], [], ["b"]]
    assert decoded(log, "rivals", "names") == [["b", "c"], [], [], ["a"]]
    assert log.user_features["likes"].values.tolist() == [1, 4]
    assert log.columns["shop"].tolist() == [5, 1, 2, 0]
    assert log.table_rows == {"item_id": 5, "names": 6}
    assert log.to_frame()["shop"].tolist()[:3] == ["e", "a", "b"]


def test_a_feature_may_feed_the_table_of_item_ids() -> None:
    feature = {"name": "bought_with", "column": "with", "type": "categorical_list", "table": "item_id"}
    log = EventLog.from_frame(EVENTS, schema(feature), items(**{"with": [[10, 77], [20, 30], [10], []]}))
    assert decoded(log, "bought_with", "item_id") == [[20, 30], [], [], [10]]
    assert log.facts["bought_with_values_dropped"] == 1 and log.table_rows == {"item_id": 5}


@pytest.mark.parametrize(("unknown", "rows"), [("drop", 5), ("hash", 8)])
def test_policy_of_unknown_ids(unknown: str, rows: int) -> None:
    log = EventLog.from_frame(EVENTS, schema(item_table={"unknown": unknown, "unknown_buckets": 3}))
    assert log.table_rows["item_id"] == rows and log.n_items == 4
    assert log.items.encode([12345])[0] == 0  # no item of the catalogue, whatever row its vector would have
    code = int(log.encoders["item_id"].encode([12345])[0])
    assert code == 0 if unknown == "drop" else code in (5, 6, 7)


def test_policy_of_unknown_values_of_a_feature() -> None:
    feature = {"name": "brand", "column": "brand", "type": "categorical"}
    tables = {"brand": {"unknown": "hash", "unknown_buckets": 2}}
    log = EventLog.from_frame(EVENTS, schema(feature, tables=tables), items(brand=["a", "b", "unused", None]))
    assert log.table_rows["brand"] == 5
    assert log.encoders["brand"].encode(["unused", "a"]).tolist()[1] == 1
    assert log.encoders["brand"].encode(["unused"])[0] in (3, 4)


def test_numbers_are_standardised_over_the_items_of_the_log() -> None:
    feature = {"name": "price", "column": "price", "type": "numeric"}
    log = EventLog.from_frame(EVENTS, schema(feature), items(price=[1.0, 4.0, 1e9, np.nan]))
    assert log.item_numeric["price"].tolist() == [0, 1, 0, 0, -1] and log.item_numeric["price"].dtype == np.float32
    assert log.scaling == {"price": (2.5, 1.5)}
    constant = EventLog.from_frame(EVENTS, schema(feature), items(price=[2, 2, 2, 2]))
    assert constant.scaling == {"price": (2, 1)} and not constant.item_numeric["price"].any()


VECTOR = {"name": "image", "column": "pixels", "type": "vector"}
PIXELS: list = [[0.1, 2.0], None, [7.0, math.nan], [-1.0, 4.0]]  # of the items 40, 10, 99 (not in the log) and 20
EXPECTED = np.array([[0, 0], [0, 0], [-1, 4], [0, 0], [0.1, 2]], dtype=np.float32)


def test_vectors_are_kept_as_given_and_missing_ones_are_zeros() -> None:
    log = EventLog.from_frame(EVENTS, schema(VECTOR), items(pixels=PIXELS))
    assert log.item_vectors["image"].dtype == np.float32 and np.array_equal(log.item_vectors["image"], EXPECTED)
    assert log.facts["image_vectors_missing"] == 2  # item 10 has no value, item 30 no row
    assert log.table_rows == {"item_id": 5} and not log.item_features and not log.user_vectors


@pytest.mark.parametrize(
    "kind",
    [
        pa.list_(pa.float64()),
        pa.list_(pa.float32()),
        pa.list_(pa.float16()),
        pa.large_list(pa.float32()),
        pa.list_(pa.float32(), 2),
        pa.list_(pa.int16()),
    ],
    ids=str,
)
def test_vectors_from_parquet(tmp_path: Path, kind: pa.DataType) -> None:
    rows: list = [[3, -2], None, [7, 8], [-1, 4]]
    half = pa.types.is_float16(kind.value_type)
    column = pa.array([row and [np.float16(x) for x in row] for row in rows] if half else rows, kind)
    pq.write_table(pa.table({"item_id": [40, 10, 99, 20], "pixels": column}), tmp_path / "items.parquet")
    log = EventLog.from_frame(EVENTS, schema(VECTOR), tmp_path / "items.parquet")
    assert log.item_vectors["image"].tolist() == [[0, 0], [0, 0], [-1, 4], [0, 0], [3, -2]]


def test_arrays_are_vectors_and_users_have_them_too() -> None:
    users = pd.DataFrame({"user_id": [2, 1], "taste": list(np.eye(2, 3, dtype=np.float32))})
    log = EventLog.from_frame(
        EVENTS, schema({"name": "taste", "column": "taste", "type": "vector", "entity": "user"}), users=users
    )
    assert log.user_vectors["taste"].tolist() == [[0, 0, 0], [0, 1, 0], [1, 0, 0]] and not log.item_vectors


def test_a_bad_vector_is_found_in_its_file(tmp_path: Path) -> None:
    for name, ids, pixels in (("a", [99, 20], [[1.0], [1.0, 2.0]]), ("b", [98, 40, 10], [[], [1.0, 2.0], [3.0]])):
        pd.DataFrame({"item_id": ids, "pixels": pixels}).to_parquet(tmp_path / f"{name}.parquet")
    with pytest.raises(DataError) as caught:
        EventLog.from_frame(EVENTS, schema(VECTOR), tmp_path)
    assert str(caught.value) == (
        f"{tmp_path / 'b.parquet'}: column `pixels`, row 2 (from 0): the vector has 1 values, and that of row 1 "
        f"of {tmp_path / 'a.parquet'} has 2. Feature `image` needs finite vectors of one length; correct the row or "
        "leave its value empty (null), which counts as zeros"
    )


def test_titles_fall_back_to_the_raw_id() -> None:
    log = EventLog.from_frame(EVENTS, schema(title="name"), items(name=["Forty", "Ten", "unused", None]))
    assert log.item_titles is not None and log.item_titles.tolist() == ["", "Ten", "20", "30", "Forty"]


def test_csv_side_tables_and_logs_agree_on_ids(tmp_path: Path) -> None:
    EVENTS.to_csv(tmp_path / "log.csv", index=False)
    (tmp_path / "items.csv").write_text("item_id,price,brand\n10,1.5,007\n20,,7\nx,3,z\n30,2.5,007\n")
    both = schema(
        {"name": "price", "column": "price", "type": "numeric"},
        {"name": "brand", "column": "brand", "type": "categorical"},
    )
    log = EventLog.from_frame(tmp_path / "log.csv", both, tmp_path / "items.csv")  # type: ignore[arg-type]
    assert decoded(log, "brand") == [["007"], ["7"], ["007"], []]
    assert log.item_numeric["price"].tolist() == [0, -1, 0, 1, 0]
    assert log.facts["items_side_rows_excluded"] == 1


BRAND = {"name": "brand", "column": "brand", "type": "categorical"}
ERRORS = {
    "no table": ((BRAND,), None, "takes brand from the table of items, and none was given"),
    "no column": ((BRAND,), items(brands=1), "no column `brand`; did you mean `brands`.*features.brand.column"),
    "no key": ((BRAND,), items(brand=1).rename(columns={"item_id": "id"}), "no column `item_id`.*item_key"),
    "repeated key": ((BRAND,), pd.DataFrame({"item_id": [1, 10, 10], "brand": 1}), "row 2 .*the id 10 stands"),
    "null key": ((BRAND,), pd.DataFrame({"item_id": pd.array([10, None]), "brand": 1}), "row 1 .*id is missing"),
    "text key": ((BRAND,), pd.DataFrame({"item_id": ["10"], "brand": 1}), "ids of the log are integers"),
    "float": ((BRAND,), items(brand=1.5), "has type double; feature `brand`"),
    "no list": ((BRAND | {"type": "categorical_list"},), items(brand="a"), "needs lists"),
    "no text": ((BRAND | {"type": "text"},), items(brand=1), "needs text"),
    "no number": ((BRAND | {"type": "numeric"},), items(brand="a"), "needs numbers"),
    "infinite": ((BRAND | {"type": "numeric"},), items(brand=math.inf), "infinite in 3 rows"),
    "other length": (
        (VECTOR,),
        items(pixels=[[1.0], [2.0], [1.0, 2.0], [1, 2]]),
        "row 3 .*has 2 values.* row 0 .*has 1",
    ),
    "two lengths": ((VECTOR,), items(pixels=[[1], [1, 2], [], [1, 2, 3]]), r"row 1 .*has 2 values.*\(2 such rows\)"),
    "empty vector": ((VECTOR,), items(pixels=[[], [], [1.0], []]), "row 0 .*the vector has no values"),
    "not a number": ((VECTOR,), items(pixels=[[1.0], [math.nan], [1.0], [1.0]]), "row 1 .*holds a missing.*null"),
    "gap": ((VECTOR,), items(pixels=[[1.0, 2.0], [1.0, None], [1.0], [1.0, 3.0]]), "row 1 .*holds a missing"),
    "infinite vector": ((VECTOR,), items(pixels=[np.array([math.inf])] * 4), r"row 0 .*infinite.*\(3 such rows\)"),
    "beyond float32": ((VECTOR,), items(pixels=[[1e39], [1.0], [1.0], [1.0]]), "row 0 .*too large"),
    "no vector": ((VECTOR,), items(pixels=None), "column `pixels` is empty in every row of the log's items"),
    "none of the log": ((VECTOR,), items(pixels=[None, None, [1.0], None]), "is empty in every row"),
    "strings": ((VECTOR,), items(pixels=[["1"]] * 4), "needs lists of numbers.*write Parquet"),
    "nested": ((VECTOR,), items(pixels=[[[1.0]]] * 4), "needs lists of numbers"),
    "text of a vector": ((VECTOR,), items(pixels="[1, 2]"), "has type string; .*needs lists of numbers"),
    "half floats": (
        (VECTOR,),
        items(pixels=[np.ones(2, dtype=np.float16)] * 4),
        "column `pixels` holds 16-bit floats. Make",
    ),
    "two kinds": (
        (BRAND, {"name": "other", "column": "other", "type": "categorical", "table": "brand"}),
        items(brand="a", other=1),
        "table `brand` is shared by features of different types.*`other` brings int64",
    ),
}


@pytest.mark.parametrize("case", ERRORS)
def test_one_clear_error(case: str) -> None:
    features, side, expected = ERRORS[case]
    with pytest.raises(DataError) as caught:
        EventLog.from_frame(EVENTS, schema(*features), side)
    assert re.search(expected, str(caught.value)), str(caught.value)


def test_saved_side_features_come_back(tmp_path: Path) -> None:
    features = [BRAND, {"name": "price", "column": "price", "type": "numeric"}, {"name": "bio", "column": "bio"}]
    features.append(VECTOR)
    features[2] |= {"type": "text", "entity": "user"}
    users = pd.DataFrame({"user_id": [1, 2], "bio": ["likes red", "red, red"]})
    toy = schema(*features, title="brand", tables={"bio": {"encoding": "hash", "buckets": 9}})
    log = EventLog.from_frame(EVENTS, toy, items(brand=["a", "b", "c", None], price=[1, 2, 3, 4], pixels=PIXELS), users)
    log.save(tmp_path / "log")
    opened = EventLog.open(tmp_path / "log")
    assert opened.item_features["brand"].values.tolist() == log.item_features["brand"].values.tolist()
    assert opened.user_features["bio"].offsets.tolist() == [0, 0, 2, 4]
    assert opened.item_numeric["price"].tolist() == log.item_numeric["price"].tolist()
    assert isinstance(opened.item_vectors["image"], np.memmap)
    assert np.array_equal(opened.item_vectors["image"], EXPECTED) and not opened.user_vectors
    assert opened.facts["image_vectors_missing"] == 2
    assert opened.table_rows == log.table_rows and opened.encoders["bio"] == HashBuckets(9)
    assert isinstance(opened.encoders["brand"], Vocabulary)
    assert opened.item_titles is not None and opened.item_titles.tolist() == ["", "b", "20", "30", "a"]
