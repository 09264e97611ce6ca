"""Given vectors of items: looked up, projected, never changed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from recsys.features.batch import SequenceBatch
from recsys.features.catalogue import Catalogue
from recsys.features.schema import Schema
from recsys.models.artefact import load_model, save_model
from recsys.models.embeddings import ItemEncoder
from recsys.models.synergen import SynerGen
from recsys.training.optimizers import table_parameters

BRAND = {"name": "brand", "column": "brand", "type": "categorical"}
PRICE = {"name": "price", "column": "price", "type": "numeric"}
# The names hold a dot and the name of a method of modules: both are names of columns like any other.
VECTORS = [{"name": name, "column": name, "type": "vector"} for name in ("text.v2", "type")]
N_ITEMS, WIDTH = 6, 8


def vectors(dim: int) -> Tensor:
    values = torch.randn(N_ITEMS + 1, dim, generator=torch.Generator().manual_seed(dim))
    values[0] = 0
    return values


@pytest.fixture
def plain() -> Catalogue:
    """A catalogue without vectors."""
    return Catalogue(
        schema=Schema.parse({"name": "toy", "features": [BRAND, PRICE]}),
        n_items=N_ITEMS,
        n_users=2,
        table_rows={"item_id": N_ITEMS + 1, "brand": 3},
        counts=torch.tensor([0, 1, 2, 0, 3, 1, 1]),
        jagged={"brand": (torch.tensor([1, 2, 1, 2, 2, 1]), torch.tensor([0, 0, 1, 2, 3, 4, 5, 6]))},
        numeric={"price": torch.linspace(-1, 1, N_ITEMS + 1)},
    )


@pytest.fixture
def catalogue(plain: Catalogue) -> Catalogue:
    """The same with two vectors, one as wide as the model."""
    schema = Schema.parse({"name": "toy", "features": [VECTORS[0], BRAND, VECTORS[1], PRICE]})
    return replace(plain, schema=schema, vectors={"text.v2": vectors(3), "type": vectors(WIDTH)})


def encoder(catalogue: Catalogue, **arguments: bool) -> ItemEncoder:
    torch.manual_seed(0)
    return ItemEncoder(catalogue, WIDTH, **arguments)


def events() -> SequenceBatch:
    lengths, items = torch.tensor([3, 2]), torch.tensor([1, 2, 3, 6, 4])
    return SequenceBatch.build(torch.tensor([1, 2]), lengths, items, torch.arange(5) * 86_400)


def test_projections_are_added(plain: Catalogue, catalogue: Catalogue) -> None:
    with_vectors, without = encoder(catalogue), encoder(plain)
    ids = torch.tensor([5, 0, 2, 5])
    with torch.no_grad():
        expected = without(ids)
        for map_, values in zip(with_vectors.frozen, (vectors(3), vectors(WIDTH)), strict=True):
            weight = map_.project.weight
            by_hand = [[sum(w * x for w, x in zip(row, values[i], strict=True)) for row in weight] for i in ids]
            expected = expected + torch.tensor(by_hand)
        torch.testing.assert_close(with_vectors(ids), expected)


def test_vectors_change_no_other_initial_weight(plain: Catalogue, catalogue: Catalogue) -> None:
    few, many = encoder(plain).state_dict(), encoder(catalogue).state_dict()
    assert many.keys() - few.keys() == {"frozen.0.project.weight", "frozen.1.project.weight"}
    assert all(torch.equal(many[name], weight) for name, weight in few.items())


def test_without_side_features_vectors_are_left_out(plain: Catalogue, catalogue: Catalogue) -> None:
    ids = torch.arange(N_ITEMS + 1)
    few, many = encoder(plain, side_features=False), encoder(catalogue, side_features=False)
    assert few.state_dict().keys() == many.state_dict().keys() and torch.equal(few(ids), many(ids))
    assert not list(many.frozen.buffers())


def test_without_ids_the_side_features_are_left(catalogue: Catalogue) -> None:
    """What ids add is the whole difference, and items of the same features are the same."""
    whole = encoder(catalogue)
    bare = encoder(catalogue, ids=False)
    bare.load_state_dict({name: w for name, w in whole.state_dict().items() if not name.startswith("ids.")})
    ids = torch.tensor([5, 0, 2, 5])
    with torch.no_grad():
        table = whole.ids.embeddings["item_id"].weight
        torch.testing.assert_close(bare(ids) + table[ids], whole(ids))
    assert not [name for name, _ in bare.named_parameters() if "item_id" in name]


def test_an_item_of_nothing_is_refused(catalogue: Catalogue) -> None:
    with pytest.raises(ValueError, match="needs its id or side features"):
        encoder(catalogue, side_features=False, ids=False)


def test_training_leaves_the_vectors_alone(catalogue: Catalogue) -> None:
    torch.manual_seed(0)
    network = SynerGen(catalogue, width=WIDTH, heads=1, layers=1)
    frozen = network.items.frozen
    assert [name for name, _ in frozen.named_parameters()] == ["0.project.weight", "1.project.weight"]
    assert not any(values.requires_grad for values in frozen.buffers())
    projection = frozen[0].project.weight.detach().clone()
    tables = {id(weight) for weight in table_parameters(network)}
    dense = [weight for weight in network.parameters() if id(weight) not in tables]
    optimizer = torch.optim.AdamW(dense, lr=0.1, weight_decay=0.1)
    queries, items = network(events(), None)
    (queries @ items.T)[:, 1].sum().backward()
    optimizer.step()
    assert [values.grad for values in frozen.buffers()] == [None, None]
    assert torch.equal(frozen[0].values, vectors(3)) and torch.equal(frozen[1].values, vectors(WIDTH))
    assert not torch.equal(frozen[0].project.weight, projection)


def test_a_loaded_model_has_its_vectors(catalogue: Catalogue, tmp_path: Path) -> None:
    torch.manual_seed(0)
    network = SynerGen(catalogue, width=WIDTH, heads=1, layers=1).eval()
    save_model(network, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert isinstance(loaded, SynerGen) and torch.equal(loaded.items.frozen[0].values, vectors(3))
    scores = loaded.scores(events())
    assert torch.equal(scores, network.scores(events()))
    zeroed = replace(catalogue, vectors={name: torch.zeros_like(v) for name, v in catalogue.vectors.items()})
    other = SynerGen.from_state(network.config(), network.state() | {
        f"catalogue.{name}": values for name, values in zeroed.tensors().items()
    })  # fmt: skip
    assert not torch.equal(other.scores(events()), scores)  # the vectors do count


def test_the_vectors_are_not_copied(catalogue: Catalogue) -> None:
    assert encoder(catalogue).frozen[0].values.data_ptr() == catalogue.vectors["text.v2"].data_ptr()
