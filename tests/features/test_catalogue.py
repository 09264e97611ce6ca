from __future__ import annotations

import json
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
