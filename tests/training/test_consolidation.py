"""A network from a checkpoint of either kind, tables whole."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed.checkpoint as dcp
from torch import Tensor

from recsys.features.catalogue import Catalogue
from recsys.features.event_log import EventLog
from recsys.features.schema import Schema
from recsys.features.splits import LeaveLastOut
from recsys.models.synergen import SynerGen
from recsys.training.consolidation import load_weights, network_on_meta, table_gib, whole_network
from recsys.training.module import RecommenderModule
from recsys.training.objective import RetrievalObjective
from recsys.training.sharded_checkpoint import REPLICATED, CheckpointError

WIDTH, ITEMS, TAGS = 16, 40, 7

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def catalogue() -> Catalogue:
    random = np.random.default_rng(0)
    events = pd.DataFrame({"user_id": np.repeat(np.arange(30), 6), "item_id": random.integers(0, ITEMS, 180)})
    events["timestamp"] = np.arange(len(events))
    items = pd.DataFrame({"item_id": range(ITEMS), "tag": [f"t{item % TAGS}" for item in range(ITEMS)]})
    schema = Schema.parse({"name": "toy", "features": [{"name": "tag", "column": "tag", "type": "categorical"}]})
    return Catalogue.from_split(LeaveLastOut()(EventLog.from_frame(events, schema, items)), 20)


def module(**settings: object) -> RecommenderModule:
    return RecommenderModule(partial(SynerGen, width=WIDTH, layers=1, heads=2, **settings), RetrievalObjective())


@pytest.fixture
def trained(catalogue: Catalogue) -> dict[str, Tensor]:
    """The `state_dict` of a module."""
    torch.manual_seed(3)
    made = module()
    made.network = made.make_network(catalogue)
    return made.state_dict()


def is_table(name: str) -> bool:
    return "embeddings." in name or "embedding_bags." in name


def write(weights: dict[str, Tensor], path: Path, sharded: bool) -> Path:
    """A checkpoint of one file, or a folder as `TorchRecStrategy` leaves it."""
    if not sharded:
        torch.save({"state_dict": weights}, path)
        return path
    tables = {f"table.{name}": weight for name, weight in weights.items() if is_table(name)}
    dcp.save(tables | {"optimizer.state": torch.zeros(3)}, checkpoint_id=path, no_dist=True)
    torch.save({"state_dict": {n: w for n, w in weights.items() if not is_table(n)}}, path / REPLICATED)
    return path


@pytest.mark.parametrize("sharded", [False, True])
def test_the_network_has_the_weights_of_the_checkpoint(
    catalogue: Catalogue, trained: dict[str, Tensor], tmp_path: Path, sharded: bool
) -> None:
    path = write(trained, tmp_path / "last.ckpt", sharded)
    assert load_weights(path).keys() == trained.keys()
    network = whole_network(module(), catalogue, path)
    found = network.state_dict()
    assert {f"network.{name}" for name in found} == {name for name in trained if name.startswith("network.")}
    for name, value in found.items():
        assert value.device.type == "cpu" and torch.equal(value, trained[f"network.{name}"]), name
    assert not network.training
    vectors = network.item_vectors()
    torch.manual_seed(9)
    other = module().make_network(catalogue).eval()
    other.load_state_dict({name.removeprefix("network."): w for name, w in trained.items() if "network." in name})
    torch.testing.assert_close(vectors, other.item_vectors())


def test_a_network_on_meta_costs_no_table_and_no_random_number(catalogue: Catalogue) -> None:
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    network = network_on_meta(module(), catalogue)
    assert torch.equal(torch.rand(3), expected)
    devices = {name: weight.device.type for name, weight in network.named_parameters()}
    assert (
        {name for name, device in devices.items() if device == "meta"} == {n for n in devices if is_table(n)} != set()
    )


def test_what_tables_take(catalogue: Catalogue) -> None:
    rows = catalogue.n_items + 1 + catalogue.table_rows["tag"]
    assert table_gib(network_on_meta(module(), catalogue)) == rows * WIDTH * 4 / 2**30
    assert table_gib(module().make_network(catalogue)) == rows * WIDTH * 4 / 2**30


def test_what_cannot_be_read_is_named(catalogue: Catalogue, trained: dict[str, Tensor], tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nowhere.ckpt: no checkpoint there"):
        load_weights(tmp_path / "nowhere.ckpt")
    (tmp_path / "text.ckpt").write_text("no checkpoint")
    with pytest.raises(CheckpointError, match=r"text.ckpt: no checkpoint, or a damaged one"):
        load_weights(tmp_path / "text.ckpt")
    (tmp_path / "folder.ckpt").mkdir()
    with pytest.raises(CheckpointError, match=r"folder.ckpt: no checkpoint of sharded tables"):
        load_weights(tmp_path / "folder.ckpt")
    path = write(trained, tmp_path / "last.ckpt", sharded=False)
    with pytest.raises(CheckpointError, match=r"last.ckpt: was saved from another network or other data"):
        whole_network(module(hidden_ratio=3.5), catalogue, path)
