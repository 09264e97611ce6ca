"""Tables held in parts, and items whose rows are not their ids: against sums and products made by hand."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from recsys.features.batch import SequenceBatch
from recsys.features.catalogue import Catalogue
from recsys.features.event_log import EventLog
from recsys.features.queries import Queries
from recsys.features.schema import Schema, SchemaError
from recsys.features.splits import UserHoldout
from recsys.models.artefact import load_model, save_model
from recsys.models.compositional import Composition
from recsys.models.embeddings import ItemEncoder
from recsys.models.synergen import SynerGen
from recsys.training.optimizers import table_parameters
from recsys.training.sparse_adam import SparseAdam

N_ITEMS, N_WORDS, WIDTH = 40, 60, 8
WORDS = {"name": "words", "column": "w", "type": "categorical_list"}
TAGS = WORDS | {"name": "tags", "table": "words"}
ASKED = {"name": "asked", "type": "text", "entity": "query", "table": "words"}
METHODS = ["quotient_remainder", "double_hash"]
BATCH = (torch.tensor([1, 2]), torch.tensor([3, 2]), torch.tensor([1, 2, 3, 6, 4]), torch.arange(5) * 86_400)


def bag(seed: int) -> tuple[Tensor, Tensor]:
    """Up to four words for each item."""
    random = np.random.default_rng(seed)
    lengths = np.append(0, random.integers(0, 5, N_ITEMS))
    values = random.integers(1, N_WORDS + 1, lengths.sum())
    return torch.tensor(values), torch.tensor(np.append(0, lengths.cumsum()))


def catalogue(item_table: dict, words: dict, pooling: str = "mean", **more: object) -> Catalogue:
    features = [WORDS | {"pooling": pooling}, TAGS | {"pooling": pooling}, ASKED]
    schema = {"name": "toy", "events": {"query": "q"}, "features": features, "tables": {"words": words}}
    return Catalogue(
        schema=Schema.parse(schema | {"item_table": item_table}),
        n_items=N_ITEMS,
        n_users=2,
        table_rows={"item_id": N_ITEMS + 1, "words": N_WORDS + 1},
        counts=torch.arange(N_ITEMS + 1),
        jagged={"words": bag(1), "tags": bag(2)},
        **more,
    )


def parts_of(method: str, rows: int, row: int, m: int) -> tuple[int, int]:
    """The rows of both parts, from `Composition` for hashes (tested elsewhere) and by hand otherwise."""
    if method == "quotient_remainder":
        return ((row - 1) // m + 1, (row - 1) % m + 1) if row else (0, 0)
    schema = Schema.parse({"name": "t", "item_table": {"compression": {"method": method, "rows": m}}})
    toy = Catalogue(schema, rows - 1, 1, {"item_id": rows}, torch.zeros(rows))
    first, second = Composition.of(toy, "item_id").partition.places(torch.tensor([row]))
    return int(first), int(second)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("combine", ["sum", "product"])
@pytest.mark.parametrize("pooling", ["mean", "sum"])
def test_vectors_are_combined_from_a_row_of_each_part(method: str, combine: str, pooling: str) -> None:
    """Ids, bags of items and of queries, and the words that are matched beside the decoder."""
    compression = {"method": method, "rows": 5}
    toy = catalogue(
        {"compression": compression | {"combine": combine}, "dim": 3}, {"compression": compression}, pooling
    )
    torch.manual_seed(0)
    encoder = ItemEncoder(toy, WIDTH, queries=True, word_width=4)
    with torch.no_grad():
        encoder.word_match.query_weight.fill_(2.0)
    queries = Queries(jagged={"asked": (torch.tensor([7, 60, 7]), torch.tensor([0, 0, 3, 3]))})
    ids = torch.tensor([5, 0, 40, 5, 17])
    suffixes = Composition.of(toy, "item_id").partition.suffixes
    weight = dict(encoder.named_parameters())

    def looked_up(place: str, rows: int, row: int) -> Tensor:
        first, second = (
            weight[f"{place}{suffix}.weight"][at]
            for suffix, at in zip(suffixes, parts_of(method, rows, row, 5), strict=True)
        )
        return first * second if combine == "product" and "item_id" in place else first + second

    def pooled(place: str, words: list[int], pooling: str) -> Tensor:
        vectors = [looked_up(place, N_WORDS + 1, word) for word in words]
        total = torch.stack(vectors).sum(0) if vectors else torch.zeros(WIDTH if place.startswith("bags") else 4)
        return total / max(len(words), 1) if pooling == "mean" else total

    def words_of(feature: str, item: int) -> list[int]:
        values, offsets = toy.jagged[feature]
        return values[offsets[item] : offsets[item + 1]].tolist()

    with torch.no_grad():
        items, asked = encoder.with_queries(ids, queries)
        for at, item in enumerate(ids.tolist()):
            bags = "bags.embedding_bags.words"
            expected = encoder.project["item_id"](looked_up("ids.embeddings.item_id", N_ITEMS + 1, item))
            expected = expected + sum(pooled(bags, words_of(name, item), pooling) for name in ("words", "tags"))
            torch.testing.assert_close(items[at, :WIDTH], expected)
            match = "word_match.words.embedding_bags.match_words"
            total = sum(pooled(match, words_of(name, item), "sum") for name in ("words", "tags"))
            torch.testing.assert_close(items[at, WIDTH:], torch.nn.functional.normalize(total, dim=0))
        torch.testing.assert_close(asked[1, :WIDTH], pooled(bags, [7, 60, 7], pooling))
        torch.testing.assert_close(asked[1, WIDTH:], 2 * pooled(match, [7, 60, 7], "sum"))
        assert not asked[0].any() and not asked[2].any()


def test_parts_have_the_sizes_that_were_asked_for() -> None:
    compressed = {"compression": {"method": "quotient_remainder", "rows": 5}}
    encoder = ItemEncoder(catalogue(compressed, {}), WIDTH)
    shapes = {name: tuple(table.weight.shape) for name, table in encoder.ids.embeddings.items()}
    assert shapes == {"item_id/quotient": (9, WIDTH), "item_id/remainder": (6, WIDTH)}
    assert list(encoder.bags.embedding_bags) == ["words"]
    plain = ItemEncoder(catalogue({}, {}), WIDTH)
    assert list(plain.ids.embeddings) == ["item_id"]


@pytest.mark.parametrize("combine", ["sum", "product"])
def test_combined_vectors_start_with_the_deviation_of_plain_ones(combine: str) -> None:
    """Within 4 standard errors of .05, over 2000 rows of 32 numbers that share parts."""
    schema = Schema.parse(
        {"name": "t", "item_table": {"compression": {"method": "quotient_remainder", "rows": 2000, "combine": combine}}}
    )
    toy = Catalogue(schema, 8000, 1, {"item_id": 8001}, torch.zeros(8001))
    variances = []
    for seed in range(30):
        torch.manual_seed(seed)
        with torch.no_grad():
            vectors = ItemEncoder(toy, 32, init_std=0.05)(torch.arange(1, 8001))
        variances.append(float(vectors.double().square().mean()))
    error = np.std(variances, ddof=1) / 30**0.5
    assert abs(np.mean(variances) - 0.05**2) < 4 * error and error < 0.05 * 0.05**2


@pytest.mark.parametrize("method", METHODS)
def test_a_step_moves_the_looked_up_rows_alone(method: str) -> None:
    toy = catalogue({"compression": {"method": method, "rows": 6, "combine": "product"}}, {})
    torch.manual_seed(0)
    encoder = ItemEncoder(toy, WIDTH, side_features=False)
    tables = table_parameters(encoder)
    ids = torch.tensor([3, 11, 12])
    used = [set(part.tolist()) for part in encoder.id_rows.partition.places(ids)]
    before = [table.detach().clone() for table in encoder.ids.parameters()]
    optimizer = SparseAdam(tables, lr=0.1)
    encoder(ids).square().sum().backward()
    optimizer.step()
    for table, old, rows in zip(encoder.ids.parameters(), before, used, strict=True):
        assert table.grad.is_sparse
        assert set((table != old).any(1).nonzero().squeeze(1).tolist()) == rows


def rows_catalogue(rows: list[int], table: dict, **more: object) -> Catalogue:
    toy = catalogue(table, {}, **more)
    return replace(toy, item_rows=torch.tensor(rows), table_rows=toy.table_rows | {"item_id": max(rows) + 1})


def test_items_of_one_row_share_a_vector_and_its_gradient() -> None:
    rows = [0, *(1 + item % 7 for item in range(N_ITEMS))]
    toy = rows_catalogue(rows, {"encoding": "hash", "buckets": 7})
    torch.manual_seed(0)
    encoder = ItemEncoder(toy, WIDTH, side_features=False)
    table = encoder.ids.embeddings["item_id"].weight
    assert table.shape == (8, WIDTH)
    every = encoder(torch.arange(N_ITEMS + 1))
    assert torch.equal(every, table[torch.tensor(rows)])
    every.sum().backward()
    assert table.grad.to_dense()[:, 0].tolist() == [rows.count(row) for row in range(8)]


def test_items_without_a_row_are_their_side_features() -> None:
    rows = [0, 1, 0, 2, *[0] * (N_ITEMS - 3)]
    toy = rows_catalogue(rows, {"min_count": 2, "dim": 3})
    torch.manual_seed(0)
    whole = ItemEncoder(toy, WIDTH)
    bare = ItemEncoder(toy, WIDTH, ids=False)
    kept = {name: w for name, w in whole.state_dict().items() if not name.startswith(("ids.", "project.item_id"))}
    bare.load_state_dict(kept)
    ids = torch.arange(1, N_ITEMS + 1)
    with torch.no_grad():
        added = whole(ids) - bare(ids)
        table = whole.ids.embeddings["item_id"].weight
        torch.testing.assert_close(added[[0, 2]], whole.project["item_id"](table[[1, 2]]))
        assert torch.equal(whole(ids[3:]), bare(ids[3:])) and not added[1].any()
    whole(ids).sum().backward()
    assert table.grad.to_dense()[0].abs().sum() == 0 and table.grad.to_dense()[1].abs().sum() > 0


def test_items_of_nothing_at_all_are_refused() -> None:
    toy = rows_catalogue([0, 1, 0, 2, *[0] * (N_ITEMS - 3)], {"min_count": 2})
    with pytest.raises(SchemaError, match="no row, and no side features either; let them share rows with `unknown"):
        ItemEncoder(toy, WIDTH, side_features=False)
    ItemEncoder(rows_catalogue([0, *[1] * N_ITEMS], {"min_count": 2}), WIDTH, side_features=False)


@pytest.mark.parametrize(
    "table",
    [
        {"encoding": "hash", "buckets": 9},
        {"min_count": 3, "unknown": "hash", "unknown_buckets": 2},
        {"encoding": "hash", "buckets": 10**6, "compression": {"method": "double_hash", "rows": 12}},
    ],
    ids=str,
)
def test_a_model_of_a_log_keeps_its_rows_in_its_folder(table: dict, tmp_path: Path) -> None:
    """From the log to the loaded model; what the model looks up is what the log's encoder says."""
    random = np.random.default_rng(0)
    events = pd.DataFrame({"user_id": random.integers(0, 30, 300), "item_id": random.geometric(0.1, 300)})
    events["timestamp"] = range(300)
    log = EventLog.from_frame(events, Schema.parse({"name": "toy", "item_table": table}))
    toy = Catalogue.from_split(UserHoldout()(log))
    assert toy.item_rows.tolist() == [0, *log.encoders["item_id"].encode(log.items.values)]
    torch.manual_seed(0)
    network = SynerGen(toy, width=WIDTH, heads=1, layers=1).eval()
    items = torch.arange(1, log.n_items + 1)
    held = Composition.of(toy, "item_id")
    parts = [network.items.ids.embeddings[name].weight for name in held.names("item_id")]
    with torch.no_grad():
        rows = held.partition.places(toy.item_rows[items])
        assert torch.equal(network.items(items), sum(w[r] for w, r in zip(parts, rows, strict=True)))
        save_model(network, tmp_path / "model")
        loaded = load_model(tmp_path / "model")
        assert torch.equal(loaded.catalogue.item_rows, toy.item_rows)
        batch = SequenceBatch.build(*BATCH)
        assert torch.equal(loaded.scores(batch), network.scores(batch))
