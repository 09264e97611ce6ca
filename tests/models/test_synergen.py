"""SynerGen's retrieval half: causality, shifts of the clock, padding, item vectors, saving."""

import numpy as np
import pytest
import torch

from recsys.features.batch import SequenceBatch
from recsys.features.catalogue import Catalogue, gather_jagged
from recsys.features.schema import Schema
from recsys.models.embeddings import ItemEncoder
from recsys.models.rotary import IndexRotary, RoTE, SplitByDim, TimeRotary
from recsys.models.synergen import SynerGen

SCHEMA = Schema.parse({
    "name": "toy",
    "features": [
        {"name": "brand", "column": "brand", "type": "categorical"},
        {"name": "tags", "column": "tags", "type": "categorical_list", "table": "words"},
        {"name": "title", "column": "title", "type": "text", "table": "words", "pooling": "mean"},
        {"name": "price", "column": "price", "type": "numeric"},
    ],
    "tables": {"brand": {"dim": 4}},
})  # fmt: skip
N_ITEMS = 9


@pytest.fixture
def catalogue() -> Catalogue:
    lengths = torch.tensor([0, 2, 0, 1, 3, 1, 1, 2, 1, 1])
    offsets = torch.cat([torch.zeros(1, dtype=torch.int64), lengths.cumsum(0)])
    words = torch.randint(1, 7, (int(lengths.sum()),), generator=torch.Generator().manual_seed(0))
    one = torch.cat([torch.zeros(2, dtype=torch.int64), torch.arange(1, N_ITEMS + 1)])
    return Catalogue(
        schema=SCHEMA, n_items=N_ITEMS, n_users=3, table_rows={"item_id": N_ITEMS + 1, "brand": 4, "words": 7},
        counts=torch.tensor([0, 5, 3, 1, 0, 2, 2, 1, 1, 9]),
        jagged={
            "brand": (torch.arange(N_ITEMS) % 3 + 1, one),
            "tags": (words, offsets),
            "title": (words.flip(0), offsets),
        },
        numeric={"price": torch.linspace(-1, 1, N_ITEMS + 1)},
    )  # fmt: skip


def batch(items: list[list[int]], times: list[list[int]] | None = None) -> SequenceBatch:
    lengths = torch.tensor([len(row) for row in items])
    flat = torch.tensor([item for row in items for item in row], dtype=torch.int64)
    stamps = times if times is not None else [[1_500_000_000 + 86_400 * i for i in range(len(row))] for row in items]
    seconds = torch.tensor([t for row in stamps for t in row], dtype=torch.int64)
    return SequenceBatch.build(torch.arange(1, len(items) + 1), lengths, flat, seconds)


def network(catalogue: Catalogue, **arguments) -> SynerGen:
    torch.manual_seed(0)
    return SynerGen(catalogue, **({"width": 16, "layers": 2, "heads": 2, "dropout": 0.0} | arguments)).eval()


def queries(model: SynerGen, events: SequenceBatch) -> torch.Tensor:
    with torch.no_grad():
        return model(events, torch.tensor([1]))[0]


def test_an_event_changes_nothing_before_it(catalogue):
    model = network(catalogue)
    before = queries(model, batch([[1, 2, 3, 4, 5]]))
    times = [[1_500_000_000 + 86_400 * i for i in range(5)]]
    times[0][3] += 3600
    # The clock's reference is the newest event: its time must stay for bitwise equality, and does.
    after = queries(model, batch([[1, 2, 3, 9, 5]], times))
    assert torch.equal(before[:3], after[:3])
    assert not torch.equal(before[3:], after[3:])


@pytest.mark.parametrize("rotary", [IndexRotary(), TimeRotary(), SplitByDim()])
def test_ten_years_later_nothing_changes(catalogue, rotary):
    model = network(catalogue, rotary=rotary)
    now = batch([[1, 2, 3], [4, 5]])
    later = SequenceBatch.build(now.user_id, now.lengths, now.item_id, now.timestamp + 315_576_000)
    torch.testing.assert_close(queries(model, now), queries(model, later), atol=1e-4, rtol=0)


def test_rote_does_depend_on_the_clock(catalogue):
    model = network(catalogue, rotary=RoTE())
    now = batch([[1, 2, 3], [4, 5]])
    later = SequenceBatch.build(now.user_id, now.lengths, now.item_id, now.timestamp + 315_576_000)
    assert (queries(model, now) - queries(model, later)).abs().max() > 1e-4


def test_padding_and_neighbours_do_not_change_a_user(catalogue):
    model = network(catalogue)
    alone = queries(model, batch([[3, 1, 4]]))
    among = queries(model, batch([[9, 2, 6, 5, 3, 5], [3, 1, 4], [1]]))
    torch.testing.assert_close(alone, among[6:9], atol=1e-6, rtol=1e-5)


def test_forward_answers_candidates_in_their_order(catalogue):
    model = network(catalogue)
    events = batch([[1, 2], [3]])
    wanted = torch.tensor([7, 3, 7, 1])
    with torch.no_grad():
        _, vectors = model(events, wanted)
        of_all, items = model(events, None)
    torch.testing.assert_close(vectors, items[wanted])
    torch.testing.assert_close(of_all, queries(model, events))
    torch.testing.assert_close(items.norm(dim=1), torch.ones(N_ITEMS + 1))


def test_item_vector_is_the_sum_of_its_parts(catalogue):
    torch.manual_seed(0)
    encoder = ItemEncoder(catalogue, 8)
    ids = torch.tensor([4, 1, 2])
    with torch.no_grad():
        got = encoder(ids)
        for row, item in enumerate(ids.tolist()):
            expected = encoder.ids.embeddings["item_id"].weight[item].clone()
            for name, table in (("brand", "brand"), ("tags", "words"), ("title", "words")):
                values, offsets = catalogue.jagged[name]
                rows = values[offsets[item] : offsets[item + 1]]
                if len(rows):
                    pooled = encoder.bags.embedding_bags[table].weight[rows].mean(0)
                    expected += encoder.project[name](pooled) if name in encoder.project else pooled
            expected += encoder.numeric_map(catalogue.numeric["price"][item : item + 1])
            torch.testing.assert_close(got[row], expected)


def test_without_side_features_only_ids_count(catalogue):
    encoder = ItemEncoder(catalogue, 8, side_features=False)
    ids = torch.tensor([4, 1])
    assert torch.equal(encoder(ids), encoder.ids.embeddings["item_id"].weight[ids])


def test_gradients_touch_the_rows_of_the_batch_only(catalogue):
    model = network(catalogue)
    found, vectors = model(batch([[1, 2]]), torch.tensor([5, 1]))
    (found.sum() + vectors.sum()).backward()
    grad = model.items.ids.embeddings["item_id"].weight.grad
    assert grad.is_sparse
    assert grad._indices()[0].tolist() == [1, 2, 5]


def test_users_without_history_get_the_popular_items(catalogue):
    model = network(catalogue)
    scores = model.scores(batch([[], [1, 2]]))
    assert torch.equal(scores[0, 1:].argsort(descending=True, stable=True)[:3] + 1, torch.tensor([9, 1, 2]))
    assert torch.isfinite(scores[:, 1:]).all()
    found = queries(model, batch([[1, 2]]))[-1]
    with torch.no_grad():
        torch.testing.assert_close(scores[1, 1:], model(batch([[1]]), None)[1][1:] @ found)


def test_state_round_trip_gives_the_same_scores(catalogue):
    model = network(catalogue, rotary=TimeRotary(shortest=60.0), similarity="dot")
    copy = SynerGen.from_state(model.config(), model.state())
    assert torch.equal(model.scores(batch([[1, 2], []])), copy.scores(batch([[1, 2], []])))


def test_gather_jagged_against_a_loop():
    generator = np.random.default_rng(0)
    lengths = generator.integers(0, 4, 20)
    values = torch.from_numpy(generator.integers(0, 100, lengths.sum()))
    offsets = torch.from_numpy(np.concatenate([[0], np.cumsum(lengths)]))
    rows = torch.from_numpy(generator.integers(0, 20, 50))
    got, got_lengths = gather_jagged(values, offsets, rows)
    expected = [values[offsets[row] : offsets[row + 1]] for row in rows]
    assert torch.equal(got, torch.cat(expected))
    assert got_lengths.tolist() == [len(part) for part in expected]
