"""Two towers: what each reads, that training and serving compare the same, and whom they know."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.features.batch import SequenceBatch
from recsys.features.batching import TrainingBatches
from recsys.features.catalogue import Catalogue
from recsys.features.event_log import EventLog
from recsys.features.masking import View
from recsys.features.schema import Schema
from recsys.features.splits import LeaveLastOut, Split
from recsys.losses.info_nce import InfoNCE
from recsys.models.artefact import load_model, save_model
from recsys.models.maskable import MaskableItems, maskable_items
from recsys.models.synergen import SynerGen
from recsys.models.two_tower import TwoTower, causal_means
from recsys.training.auxiliary import WithAuxiliary
from recsys.training.feature_masking import FeatureMaskingSSL
from recsys.training.objective import RetrievalObjective
from recsys.training.spread_out import SpreadOut

N_USERS, N_ITEMS = 12, 15
WORDS = ["red", "blue", "soap", "oil"]
SCHEMA = Schema.parse(
    {
        "name": "shop",
        "events": {"query": "query"},
        "user_table": {},
        "features": [
            {"name": "brand", "column": "brand", "type": "categorical"},
            {"name": "words", "column": "title", "type": "text", "table": "words"},
            {"name": "asked", "type": "text", "entity": "query", "table": "words"},
            {"name": "age", "column": "age", "type": "numeric", "entity": "user"},
            {"name": "job", "column": "job", "type": "categorical", "entity": "user"},
        ],
    }
)


@pytest.fixture(scope="module")
def split() -> Split:
    """Users of 7 events, half of which answer a query; of user 12 there is one event, and of user 11 no feature."""
    random = np.random.default_rng(0)
    user = np.append(np.repeat(np.arange(1, N_USERS), 7), N_USERS)
    events = pd.DataFrame({"user_id": user, "item_id": random.integers(0, N_ITEMS, len(user))})
    events["timestamp"] = 1_000_000 + 60 * np.arange(len(events))
    events["query"] = pd.Series(random.choice(WORDS, len(user))).where(random.random(len(user)) < 0.5)
    items = pd.DataFrame({"item_id": range(N_ITEMS), "brand": random.choice(["a", "b", "c"], N_ITEMS)})
    items["title"] = [" ".join(random.choice(WORDS, 2, replace=False)) for _ in range(N_ITEMS)]
    users = pd.DataFrame({"user_id": [*range(1, N_USERS - 1), N_USERS]})
    users["age"], users["job"] = random.integers(20, 60, len(users)).astype(float), ["x", "y"] * 5 + ["x"]
    with pytest.warns(UserWarning, match="leave_last_out"):
        return LeaveLastOut()(EventLog.from_frame(events, SCHEMA, items, users))


@pytest.fixture(scope="module")
def catalogue(split: Split) -> Catalogue:
    return Catalogue.from_split(split)


@pytest.fixture(scope="module")
def batch(split: Split) -> SequenceBatch:
    return next(iter(TrainingBatches(split, 16, 50)))


def made(catalogue: Catalogue, **arguments: Any) -> TwoTower:
    torch.manual_seed(0)
    return TwoTower(catalogue, **{"width": 8, "hidden": (12,), "dim": 6, **arguments}).eval()


def histories(users: list[int], *items: list[int], **more: Any) -> SequenceBatch:
    flat = torch.tensor([item for history in items for item in history], dtype=torch.int64)
    lengths = torch.tensor([len(history) for history in items])
    return SequenceBatch.build(torch.tensor(users), lengths, flat, torch.arange(len(flat)), **more)


def prefixes(batch: SequenceBatch) -> SequenceBatch:
    """The history up to each event as that of a user, who asks for what the target answered."""
    assert batch.queries is not None and batch.target_query is not None
    items, users = [], []
    for user, start, end in zip(batch.user_id.tolist(), batch.offsets[:-1], batch.offsets[1:], strict=True):
        for last in range(int(start) + 1, int(end) + 1):
            items.append(batch.item_id[int(start) : last].tolist())
            users.append(user)
    return histories(users, *items, queries=batch.queries, request_query=batch.target_query)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 6), max_size=8), st.integers(0, 1000))
def test_causal_means_are_those_of_a_loop(lengths: list[int], seed: int) -> None:
    vectors = torch.randn(sum(lengths), 3, generator=torch.Generator().manual_seed(seed), requires_grad=True)
    offsets = torch.tensor([0, *np.cumsum(lengths)])
    rows = vectors.split(lengths) if lengths else ()
    expected = [row[: end + 1].mean(0) for row in rows for end in range(len(row))]
    found = causal_means(vectors, offsets)
    torch.testing.assert_close(found, torch.stack(expected) if expected else vectors.new_zeros(0, 3))
    if expected:
        weight = torch.randn(found.shape, generator=torch.Generator().manual_seed(seed + 1))
        (by_loop,) = torch.autograd.grad((torch.stack(expected) * weight).sum(), vectors)
        (by_sums,) = torch.autograd.grad((found * weight).sum(), vectors)
        torch.testing.assert_close(by_sums, by_loop, rtol=1e-5, atol=1e-6)


def test_causal_means_do_not_drown_in_the_rows_before() -> None:
    """A running sum in single precision has 6e-8 of what it adds up to: here a hundred times the numbers wanted."""
    large, small = torch.full((1000, 2), 1e5), torch.tensor([[1.0, 2.0], [3.0, 5.0]])
    found = causal_means(torch.cat([large, small]), torch.tensor([0, 1000, 1002]))
    torch.testing.assert_close(found[1000:], torch.tensor([[1.0, 2.0], [2.0, 3.5]]), rtol=1e-6, atol=0)
    torch.testing.assert_close(found[:1000], large)


@pytest.mark.parametrize("arguments", [{}, {"user_features": False}, {"queries": False}, {"hidden": ()}])
def test_serving_compares_what_training_did(
    catalogue: Catalogue, batch: SequenceBatch, arguments: dict[str, Any]
) -> None:
    """Cosines of the same vectors, of each history on its own: no user saw what came later, and nothing corrects."""
    network = made(catalogue, **arguments)
    with torch.no_grad():
        users, items = network(batch, None)
        some = torch.tensor([3, 9, 3, 1])
        again, of_some = network(batch, some)
    served = network.scores(prefixes(batch))
    torch.testing.assert_close(served[:, 1:], (users @ items.T)[:, 1:], rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(again, users, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(of_some, items[some], rtol=1e-5, atol=1e-6)
    for vectors in (users, items):
        torch.testing.assert_close(vectors.norm(dim=1), torch.ones(len(vectors)))


def test_a_user_is_made_of_three_parts(catalogue: Catalogue, batch: SequenceBatch) -> None:
    """Each by hand; untrained, items and words enter as they are."""
    network = made(catalogue)
    asking = prefixes(batch)
    assert network.users is not None and asking.queries is not None and asking.request_query is not None
    with torch.no_grad():
        found = network.user_vectors(asking)
        for row in range(len(asking)):
            history = asking.item_id[int(asking.offsets[row]) : int(asking.offsets[row + 1])]
            vectors, asked = network.items.encoder.with_queries(history, asking.queries)
            x = vectors.mean(0) + network.users(asking.user_id[row : row + 1])[0] + asked[asking.request_query[row]]
            expected = torch.nn.functional.normalize(network.user_tower(x), dim=-1)
            torch.testing.assert_close(found[row, :-1], expected, rtol=1e-5, atol=1e-6)
    assert (asking.request_query > 0).any() and (asking.request_query == 0).any()


def test_events_change_nothing_before_them(catalogue: Catalogue) -> None:
    network = made(catalogue)
    with torch.no_grad():
        short, _ = network(histories([1, 2], [3, 4], [7]), torch.tensor([1]))
        long, _ = network(histories([1, 2], [3, 4, 9, 9], [7, 1]), torch.tensor([1]))
    torch.testing.assert_close(long[[0, 1, 4]], short)


def test_a_user_of_whom_something_is_known_needs_no_history(catalogue: Catalogue) -> None:
    """User 11 has an id, 12 features but no id that training knows; nobody else has anything."""
    network = made(catalogue)
    nobody, later = 0, N_USERS + 5
    vectors = network.user_vectors(histories([1, 2, 11, 12, nobody, later], [], [], [], [], [], []))
    known = torch.tensor([True, True, True, True, False, False])
    torch.testing.assert_close(vectors[:, :-1].norm(dim=1), known.float())
    assert torch.equal(vectors[:, -1], (~known).float())
    assert len({tuple(row) for row in vectors[known].round(decimals=4).tolist()}) == 4
    popular = network.scores(histories([nobody], []))[0, 1:]
    torch.testing.assert_close(popular, catalogue.counts[1:].float().log1p())
    plain = made(catalogue, user_features=False)
    torch.testing.assert_close(plain.scores(histories([1], []))[0, 1:], popular)
    # Others of the batch, and whether they have histories, change nothing.
    mixed = network.user_vectors(histories([12, 1, nobody, 2], [], [3, 4], [5], []))
    torch.testing.assert_close(mixed[[0, 3]], vectors[[3, 1]])
    assert network.user_vectors(histories([])).shape == (0, 7)


def test_nobody_looks_up_what_somebody_does(catalogue: Catalogue) -> None:
    """Where tables are sharded a rank without users has to take part in the lookups of the others."""
    network = made(catalogue)
    assert network.users is not None
    lookups: list[str] = []
    for name, tables in (("ids", network.items.encoder.ids), ("bags", network.items.encoder.bags)):
        tables.register_forward_pre_hook(lambda *_, name=name: lookups.append(name))
    network.users.bags.register_forward_pre_hook(lambda *_: lookups.append("users"))
    for batch in (histories([1, 2], [3], []), histories([])):
        lookups.clear()
        assert network.user_vectors(batch).shape == (len(batch), 7)
        assert sorted(lookups) == ["bags", "ids", "users"]


def test_a_search_needs_neither(catalogue: Catalogue, split: Split) -> None:
    network = made(catalogue)
    queries, rows = split.log.queries(np.array([1, 2, 0]))
    asking = histories([0, 0, 0], [], [], [], queries=queries, request_query=torch.from_numpy(rows))
    found = network.user_vectors(asking)
    assert found[:, -1].tolist() == [0, 0, 1] and not torch.allclose(found[0], found[1])
    without = made(catalogue, queries=False).user_vectors(asking)
    assert without[:, -1].tolist() == [1, 1, 1]


def test_it_learns_what_users_like(split: Split, catalogue: Catalogue) -> None:
    """The loss of an objective goes down in tables and towers alike."""
    network, objective = made(catalogue).train(), RetrievalObjective(InfoNCE(0.2))
    objective.setup(catalogue, 0, torch.device("cpu"))
    dense = [weight for name, weight in network.named_parameters() if "embedding" not in name]
    tables = [weight for name, weight in network.named_parameters() if "embedding" in name]
    optimizers = [torch.optim.Adam(dense, lr=0.01), torch.optim.SparseAdam(tables, lr=0.01)]
    losses = []
    for _ in range(60):
        for batch in TrainingBatches(split, 16, 50):
            loss, _ = objective(network, batch)
            loss.backward()
            for optimizer in optimizers:
                optimizer.step()
                optimizer.zero_grad()
            losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_it_is_saved_with_its_users(catalogue: Catalogue, batch: SequenceBatch, tmp_path: Path) -> None:
    network = made(catalogue, maskable=True, hide_untrained_ids=True, feature_dropout=0.1, dropout=0.3)
    save_model(network, tmp_path / "model")
    loaded = load_model(tmp_path / "model")
    assert isinstance(loaded, TwoTower) and loaded.hyperparameters == network.hyperparameters
    assert torch.equal(loaded.scores(prefixes(batch)), network.scores(prefixes(batch)))
    stranger = histories([3, 0], [], [])
    assert torch.equal(loaded.user_vectors(stranger), network.user_vectors(stranger))


def test_a_model_that_reads_no_users_keeps_none(catalogue: Catalogue) -> None:
    network = SynerGen(catalogue, width=8, heads=1, layers=1)
    assert not [name for name in network.state() if "user_" in name]
    assert [name for name in made(catalogue).state() if name.startswith("catalogue.user_")]


def test_views_go_through_the_tower(catalogue: Catalogue) -> None:
    network = made(catalogue, maskable=True)
    items: MaskableItems = maskable_items(network)
    assert items.feature_names == ("item_id", "brand", "words")
    ids = torch.arange(1, N_ITEMS + 1)
    views = [View(), View(frozenset({"item_id", "words"})), View(value_dropout=0.5)]
    found = items.views(ids, views, torch.Generator().manual_seed(1))
    encoded = network.items.encoder.views(ids, views, torch.Generator().manual_seed(1))
    for vectors, view in zip(found, encoded, strict=True):
        torch.testing.assert_close(vectors, network.items.tower(view))
    torch.testing.assert_close(found[0], network.items(ids))
    same_brand = catalogue.jagged["brand"][0] == 1
    torch.testing.assert_close(found[1][same_brand], found[1][same_brand][:1].expand(int(same_brand.sum()), -1))
    with pytest.raises(TypeError, match=r"TwoTower has nothing to show.*`maskable: true`"):
        maskable_items(made(catalogue))


def test_a_maskable_network_is_the_plain_one_with_default_vectors(catalogue: Catalogue) -> None:
    plain, masked = made(catalogue).state_dict(), made(catalogue, maskable=True).state_dict()
    assert masked.keys() - plain.keys() == {"items.encoder.defaults"}
    assert all(torch.equal(masked[name], weight) for name, weight in plain.items())


def with_grad(network: TwoTower) -> set[str]:
    """Names of the weights that have a gradient other than 0."""
    grads = {name: weight.grad for name, weight in network.named_parameters() if weight.grad is not None}
    return {name for name, grad in grads.items() if (grad.coalesce().values() if grad.is_sparse else grad).any()}


def test_the_self_supervised_term_teaches_the_tower_of_items_alone(catalogue: Catalogue, batch: SequenceBatch) -> None:
    network, term = made(catalogue, maskable=True), FeatureMaskingSSL(weight=1.0)
    term.setup(catalogue, 0, torch.device("cpu"))
    term(network).loss.backward()
    taught = with_grad(network)
    assert taught and all(name.startswith("items.") for name in taught)
    assert any(name.startswith("items.tower.") for name in taught)
    assert {"items.encoder.defaults", "items.encoder.ids.embeddings.item_id.weight"} <= taught
    other = made(catalogue, maskable=True)
    RetrievalObjective.forward(objective := retrieval(catalogue), other, batch).loss.backward()
    assert objective.random_state() and {name.split(".")[0] for name in with_grad(other)} == {
        "items",
        "user_tower",
        "users",
        "history_map",
        "query_map",
    }


def retrieval(catalogue: Catalogue) -> RetrievalObjective:
    objective = RetrievalObjective()
    objective.setup(catalogue, 0, torch.device("cpu"))
    return objective


def test_auxiliaries_train_with_it(catalogue: Catalogue, batch: SequenceBatch) -> None:
    """And with weight 0 they are not there."""
    network = made(catalogue, maskable=True)
    main = retrieval(catalogue)
    expected = main(network, batch).loss
    for weight in (0.0, 0.5):
        objective = WithAuxiliary(RetrievalObjective(), [FeatureMaskingSSL(weight=weight), SpreadOut(weight=weight)])
        objective.setup(catalogue, 0, torch.device("cpu"))
        loss, parts = objective(network, batch)
        assert torch.equal(loss, expected) == (weight == 0) and loss.isfinite()
        assert ("feature_masking" in parts) == (weight > 0)


def test_dropout_is_of_training_alone(catalogue: Catalogue, batch: SequenceBatch) -> None:
    network, plain = made(catalogue, dropout=0.5), made(catalogue)
    assert torch.equal(network(batch, None)[0], plain(batch, None)[0])
    assert not torch.equal(network.train()(batch, None)[0], plain(batch, None)[0])


def test_users_of_a_log_without_tables_for_them_are_their_histories(catalogue: Catalogue, batch: SequenceBatch) -> None:
    schema = Schema.parse({"name": "bare"})
    bare = replace(catalogue.without_users(), schema=schema, jagged={}, table_rows={"item_id": N_ITEMS + 1})
    network = made(bare)
    assert network.users is None and network.query_map is None
    with torch.no_grad():
        found = network.user_vectors(histories([1, 2], [4, 5], [4, 5]))
    assert torch.equal(found[0], found[1])
