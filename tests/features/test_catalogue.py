from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file, save_file

from recsys.features.catalogue import Catalogue
from recsys.features.event_log import EventLog
from recsys.features.prepare import prepare
from recsys.features.schema import Schema
from recsys.features.splits import GlobalTime

SCHEMA = Schema.parse(
    {
        "name": "shop",
        "features": [
            {"name": "brand", "column": "brand", "type": "categorical"},
            {"name": "price", "column": "price", "type": "numeric"},
            {"name": "image", "column": "image", "type": "vector"},
            {"name": "text.v2", "column": "text", "type": "vector"},
            {"name": "taste", "column": "taste", "type": "vector", "entity": "user"},
        ],
    }
)
EVENTS = pd.DataFrame({"user_id": [1, 1, 2, 2], "item_id": [10, 20, 30, 10], "timestamp": [1, 2, 3, 4]})
ITEMS = pd.DataFrame(
    {
        "item_id": [30, 10],
        "brand": ["b", "a"],
        "price": [1.0, 3.0],
        "image": [[0.1, 0.2, 0.3], None],
        "text": [[5.0, 6.0], [7.0, 8.0]],
    }
)
USERS = pd.DataFrame({"user_id": [1], "taste": [[1.0]]})


def catalogue(log: EventLog) -> Catalogue:
    return Catalogue.from_split(GlobalTime(0.25, 0.0)(log))


def test_vectors_of_a_cached_log(tmp_path: Path) -> None:
    log = prepare(SCHEMA, EVENTS, ITEMS, USERS, cache_dir=tmp_path)
    assert isinstance(log.item_vectors["image"], np.memmap) and log.user_vectors["taste"].shape == (3, 1)
    vectors = catalogue(log).vectors
    assert list(vectors) == ["image", "text.v2"]  # a vector of users belongs to no item
    torch.testing.assert_close(
        vectors["image"], torch.tensor([[0, 0, 0], [0, 0, 0], [0, 0, 0], [0.1, 0.2, 0.3]]), rtol=0, atol=0
    )
    assert vectors["text.v2"].tolist() == [[0, 0], [7, 8], [0, 0], [5, 6]]


def test_config_and_tensors_are_all_of_it(tmp_path: Path) -> None:
    before = catalogue(EventLog.from_frame(EVENTS, SCHEMA, ITEMS, USERS))
    save_file(before.tensors(), tmp_path / "tensors.safetensors")
    after = Catalogue.from_parts(json.loads(json.dumps(before.config())), load_file(tmp_path / "tensors.safetensors"))
    assert after.config() == before.config()
    assert after.tensors().keys() == before.tensors().keys() >= {"vectors.image", "vectors.text.v2"}
    assert all(torch.equal(after.tensors()[name], tensor) for name, tensor in before.tensors().items())
    assert after.vectors["image"].dtype == torch.float32


def test_a_catalogue_saved_before_actions_and_queries_is_read() -> None:
    before = Catalogue(Schema(name="old"), n_items=2, n_users=1, table_rows={"item_id": 3}, counts=torch.ones(3))
    config = {name: value for name, value in before.config().items() if name not in ("actions", "query_dims")}
    assert Catalogue.from_parts(config, before.tensors()).config() == before.config()


PEOPLE = Schema.parse(
    {
        "name": "people",
        "user_table": {"min_count": 2},
        "features": [
            {"name": "brand", "column": "brand", "type": "categorical"},
            {"name": "hobbies_v2", "column": "hobbies", "type": "categorical_list", "entity": "user"},
            {"name": "age", "column": "age", "type": "numeric", "entity": "user"},
            {"name": "taste", "column": "taste", "type": "vector", "entity": "user"},
        ],
    }
)


def people() -> Catalogue:
    """Users a to d: b has one event, c two, of which one trains; d has no row in the side table."""
    events = pd.DataFrame({"user_id": list("aaabccdd"), "item_id": [10, 20, 30, 10, 10, 20, 20, 30]})
    events["timestamp"] = [1, 2, 3, 7, 2, 8, 3, 4]
    users = pd.DataFrame(
        {
            "user_id": list("bca"),
            "hobbies": [["chess"], [], ["run", "chess"]],
            "age": [20.0, None, 40.0],
            "taste": [[1.0, 2.0], [3.0, 4.0], None],
        }
    )
    return catalogue(EventLog.from_frame(events, PEOPLE, ITEMS, users))


def test_users_have_their_features_and_the_rows_of_ids_that_training_knows() -> None:
    of_users = people()
    assert (of_users.n_users, of_users.table_rows["user_id"]) == (4, 4)  # a, c and d come twice
    hobbies = {"chess": 1, "run": 2}
    values, offsets = of_users.user_jagged["hobbies_v2"]
    rows = [sorted(values[start:end].tolist()) for start, end in pairwise(offsets.tolist())]
    assert rows == [[], [hobbies["chess"], hobbies["run"]], [hobbies["chess"]], [], []]
    values, offsets = of_users.user_jagged["user_id"]
    assert (values.tolist(), offsets.tolist()) == ([1, 3], [0, 0, 1, 1, 1, 2])  # c is trained on, but has no target
    assert of_users.user_numeric["age"].tolist() == [0, 1, -1, 0, 0]
    assert of_users.user_vectors["taste"].tolist() == [[0, 0], [0, 0], [1, 2], [3, 4], [0, 0]]
    assert (list(of_users.jagged), of_users.numeric, of_users.vectors) == (["brand"], {}, {})


def test_users_are_saved_and_can_be_left_out() -> None:
    before = people()
    config = json.loads(json.dumps(before.config()))
    after = Catalogue.from_parts(config, before.tensors())
    assert after.tensors().keys() == before.tensors().keys()
    assert all(torch.equal(after.tensors()[name], tensor) for name, tensor in before.tensors().items())
    assert after.user_jagged.keys() == {"hobbies_v2", "user_id"}
    alone = {name: tensor for name, tensor in before.tensors().items() if not name.startswith("user_")}
    assert before.without_users().tensors().keys() == alone.keys()
    # So were models saved whose catalogue had no users.
    old = Catalogue.from_parts(config, alone)
    assert (old.user_jagged, old.user_numeric, old.user_vectors) == ({}, {}, {}) and old.jagged.keys() == {"brand"}
