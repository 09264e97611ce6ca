"""Networks of pairs against dense matrices and plain loops."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor

from recsys.features.batching import histories
from recsys.features.catalogue import Catalogue
from recsys.features.event_log import EventLog
from recsys.features.schema import Schema
from recsys.features.splits import GlobalTime, Split
from recsys.features.training_pairs import TrainingPairs
from recsys.models import light_gcn
from recsys.models.artefact import load_model, save_model
from recsys.models.interaction import InteractionNetwork
from recsys.models.light_gcn import LightGCN, normalized_adjacency, product
from recsys.models.matrix_factorization import MatrixFactorization
from recsys.models.pair_towers import PairTowers
from recsys.models.synergen import SynerGen

USERS, ITEMS = 14, 9
NETWORKS = [MatrixFactorization, LightGCN, PairTowers]


def toy(**schema: object) -> Split:
    """Users 1..12 with repeated events, and two who come after the cut."""
    random = np.random.default_rng(3)
    early = pd.DataFrame({"user_id": random.integers(0, USERS - 2, 90), "item_id": random.integers(0, ITEMS, 90)})
    late = pd.DataFrame({"user_id": [USERS - 2, USERS - 1, 0, 1], "item_id": [0, 1, 2, 3]})
    frame = pd.concat([early, late], ignore_index=True)
    frame["timestamp"] = 1_000_000 + 60 * np.arange(len(frame))
    frame["age"] = 1.0
    return GlobalTime(0.03, 0.03)(EventLog.from_frame(frame, Schema.parse({"name": "toy"} | schema)))


@pytest.fixture(scope="module")
def split() -> Split:
    return toy()


@pytest.fixture(scope="module")
def catalogue(split: Split) -> Catalogue:
    return Catalogue.from_split(split, interactions=True)


def made(kind: type[InteractionNetwork], catalogue: Catalogue, **arguments: object) -> InteractionNetwork:
    torch.manual_seed(0)
    return kind(catalogue, width=4, **arguments)  # type: ignore[call-arg, arg-type]


def table(network: InteractionNetwork, name: str) -> Tensor:
    """The one embedding table of a side."""
    return next(weight for key, weight in network.named_parameters() if key.startswith(f"{name}."))


def had(split: Split) -> np.ndarray:
    """`[n_users + 1, n_items + 1]` 0 or 1, by a loop over training events."""
    matrix = np.zeros((split.log.n_users + 1, split.log.n_items + 1))
    for user in range(1, split.log.n_users + 1):
        for event in range(split.train_start[user], split.train_end[user]):
            matrix[user, split.log.item_id[event]] = 1
    return matrix


def test_training_pairs_are_those_of_a_loop(split: Split) -> None:
    pairs, expected = TrainingPairs.of(split), had(split)
    assert [*zip(pairs.users.tolist(), pairs.items.tolist(), strict=True)] == [
        *zip(*map(list, expected.nonzero()), strict=True)
    ]
    users, items = (grid.ravel() for grid in np.mgrid[0 : split.log.n_users + 1, 0 : split.log.n_items + 1])
    assert np.array_equal(pairs.contains(users, items), expected[users, items] == 1)
    assert np.array_equal(split.log.item_id[pairs.event], pairs.items)
    assert np.array_equal(split.log.user_ids()[pairs.event], pairs.users)
    assert pairs.n_unlabeled == (expected[expected.any(1)][:, 1:] == 0).sum()


def test_unlabeled_items_are_uniform_over_those_not_had(split: Split) -> None:
    pairs, expected = TrainingPairs.of(split), had(split)
    random = np.random.default_rng(0)
    user = int(pairs.active_users[0])
    drawn = pairs.draw_unlabeled(np.full((100, 100), user), random)
    free = np.flatnonzero(expected[user, 1:] == 0) + 1
    counts = np.bincount(drawn.ravel(), minlength=ITEMS + 1)
    assert counts[free].sum() == 10_000
    assert ((counts[free] - 10_000 / len(free)) ** 2 / (10_000 / len(free))).sum() < 30  # chi-square, < 9 free
    users, items = pairs.draw_unlabeled_pairs(50_000, random)
    joint = np.zeros_like(expected)
    np.add.at(joint, (users, items), 1)
    allowed = (expected == 0) & expected.any(1)[:, None]
    allowed[:, 0] = False
    assert not joint[~allowed].any()
    mean = 50_000 / allowed.sum()
    assert ((joint[allowed] - mean) ** 2 / mean).sum() < allowed.sum() + 5 * (2 * allowed.sum()) ** 0.5


def test_a_user_who_had_everything_has_no_unlabeled_item() -> None:
    pairs = TrainingPairs(1, 2, np.array([1, 2]), np.array([0, 0, 2]), np.array([0, 1]))
    with pytest.raises(ValueError, match="user 1 had all 2 items"):
        pairs.draw_unlabeled(np.array([1]), np.random.default_rng(0))
    with pytest.raises(ValueError, match="no unlabeled pair"):
        pairs.draw_unlabeled_pairs(1, np.random.default_rng(0))


def dense_light_gcn(network: LightGCN, split: Split) -> Tensor:
    """`[users + items, width]` by dense matrices."""
    interactions = torch.from_numpy(had(split))
    users, items = interactions.shape
    adjacency = torch.zeros(users + items, users + items, dtype=torch.float64)
    adjacency[:users, users:], adjacency[users:, :users] = interactions, interactions.T
    root = adjacency.sum(1).clamp(min=1).rsqrt()
    adjacency = root[:, None] * adjacency * root[None]
    assert torch.allclose(normalized_adjacency(network.catalogue.interactions, ITEMS).to_dense().double(), adjacency)  # type: ignore[arg-type]
    embedded = torch.cat(
        [table(network, "users").double() * interactions.any(1)[:, None], table(network, "items").double()]
    )
    layers = [embedded]
    for _ in range(network.layers):
        layers.append(adjacency @ layers[-1])
    return torch.stack(layers).mean(0)


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_light_gcn_is_the_mean_of_dense_layers_and_so_is_its_gradient(
    layers: int, catalogue: Catalogue, split: Split
) -> None:
    network = made(LightGCN, catalogue, layers=layers)
    assert isinstance(network, LightGCN)
    users, items = torch.tensor([3, 1, 3, 7]), torch.tensor([2, 9, 2])
    weight = torch.randn(4, 3, generator=torch.Generator().manual_seed(1))
    vectors = network(users, items)
    ((vectors.users @ vectors.items.T) * weight).sum().backward()
    found = [table(network, name).grad for name in ("users", "items")]
    dense = dense_light_gcn(network, split)
    torch.testing.assert_close(vectors.users.double(), dense[users])
    torch.testing.assert_close(vectors.items.double(), dense[items + USERS + 1])
    for name in ("users", "items"):
        table(network, name).grad = None
    ((dense[users] @ dense[items + USERS + 1].T) * weight).sum().backward()
    for name, gradient in zip(("users", "items"), found, strict=True):
        expected = table(network, name).grad
        assert gradient is not None and expected is not None
        torch.testing.assert_close(gradient.to_dense(), expected.to_dense(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(vectors.user_norms, table(network, "users")[users].square().sum(1))
    torch.testing.assert_close(vectors.item_norms, table(network, "items")[items].square().sum(1))


def test_light_gcn_serves_the_weights_of_now(catalogue: Catalogue, split: Split) -> None:
    network = made(LightGCN, catalogue).eval()
    before = network.item_vectors()
    assert torch.equal(network.item_vectors(), before)
    with torch.no_grad():
        table(network, "items").mul_(2)
    torch.testing.assert_close(network.item_vectors()[:, :-1].double(), dense_light_gcn(network, split)[USERS + 1 :])  # type: ignore[arg-type]
    assert not torch.allclose(network.item_vectors(), before)


def test_light_gcn_propagates_once_for_losses_and_the_step_that_follows(
    catalogue: Catalogue, monkeypatch: pytest.MonkeyPatch
) -> None:
    network, other = made(LightGCN, catalogue), made(LightGCN, catalogue)
    calls: list[int] = []
    monkeypatch.setattr(light_gcn, "product", lambda *of: calls.append(1) or product(*of))  # type: ignore[func-returns-value]
    users, items = torch.tensor([3, 1, 3, 7]), torch.tensor([2, 9, 2, 5])
    for step in range(2):
        with torch.no_grad():
            measured = network(users, items)
        assert len(calls) == 3
        vectors = network(users, items)
        assert len(calls) == 3 and torch.equal(vectors.items, measured.items)
        for each in (vectors, other(users, items)):
            each.users.mul(each.items).sum().add(each.user_norms.sum() + each.item_norms.sum()).backward()
        calls.clear()
        for name in ("users", "items"):
            own, of_other = table(network, name), table(other, name)
            assert own.grad is not None and of_other.grad is not None
            assert torch.equal(own.grad.to_dense(), of_other.grad.to_dense())
            with torch.no_grad():
                own.sub_(own.grad.to_dense())
                of_other.sub_(of_other.grad.to_dense())
            own.grad = of_other.grad = None
        assert step == 1 or not torch.equal(network(users, items).users, vectors.users)  # the weights are others
        calls.clear()


def test_light_gcn_sees_steps_of_kernels_that_tell_torch_nothing(catalogue: Catalogue, split: Split) -> None:
    """Those of sharded tables, which are taken in backward, and of fused optimizers."""
    network = made(LightGCN, catalogue)
    users, items = torch.tensor([3, 1]), torch.tensor([2, 9])
    for _ in range(2):
        with torch.no_grad():
            before = network(users, items)
        network(users, items).users.sum().backward()
        for weight in network.parameters():
            version = weight._version
            weight.data.add_(0.1)
            assert weight._version == version
        with torch.no_grad():
            after = network(users, items)
        assert not torch.allclose(after.users, before.users)
        torch.testing.assert_close(after.users.double(), dense_light_gcn(network, split)[users])  # type: ignore[arg-type]


@pytest.mark.parametrize("biases", [False, True])
def test_matrix_factorization_is_an_inner_product_with_biases(biases: bool, catalogue: Catalogue) -> None:
    network = made(MatrixFactorization, catalogue, biases=biases)
    user, item = table(network, "users"), table(network, "items")
    users, items = torch.tensor([3, 1, 3]), torch.tensor([2, 9, 2])
    vectors = network(users, items)
    user, item = user.detach(), item.detach()
    for row, (u, i) in enumerate(zip(users.tolist(), items.tolist(), strict=True)):
        expected = float(user[u, :4] @ item[i, :4]) + (float(user[u, 4] + item[i, 4]) if biases else 0.0)
        assert float((vectors.users * vectors.items).detach().sum(-1)[row]) == pytest.approx(expected, abs=1e-6)
    torch.testing.assert_close(vectors.user_norms, user[users].square().sum(1))
    torch.testing.assert_close(vectors.item_norms, item[items].square().sum(1))


@pytest.mark.parametrize("kind", NETWORKS)
def test_gradients_are_sparse_with_one_row_an_id(kind: type[InteractionNetwork], catalogue: Catalogue) -> None:
    network = made(kind, catalogue)
    vectors = network(torch.tensor([3, 1, 3]), torch.tensor([2, 2, 5]))
    (vectors.users.sum() + vectors.items.sum()).backward()
    for name, distinct in (("users", 2), ("items", 2)):
        gradient = table(network, name).grad
        assert gradient is not None and gradient.is_sparse
        rows = gradient._indices()[0]
        assert len(rows) == len(rows.unique())
        assert kind is LightGCN or len(rows) == distinct


@pytest.mark.parametrize("kind", NETWORKS)
def test_users_are_known_by_their_training_events(kind: type[InteractionNetwork], split: Split) -> None:
    network = made(kind, Catalogue.from_split(split, interactions=True)).eval()
    log = split.log
    users = np.arange(log.n_users + 3)  # those of a later log too
    users[0] = 1
    batch = histories(log, users, 0 * users, 0 * users)
    scores, trained = network.scores(batch), split.train_end > split.train_start
    assert not trained.all()
    popularity = torch.log1p(torch.from_numpy(split.train_counts()).float())
    for row, user in enumerate(users):
        known = user <= log.n_users and trained[user]
        assert torch.equal(scores[row, 1:], popularity[1:]) is not bool(known)
    served = network.user_vectors(batch)[:, :-1]
    vectors = network(torch.from_numpy(users[:5]), torch.arange(ITEMS + 1))
    torch.testing.assert_close(vectors.users, served[:5])
    torch.testing.assert_close(vectors.items, network.item_vectors()[:, :-1])


@pytest.mark.parametrize("kind", NETWORKS)
@pytest.mark.parametrize("schema", [{}, {"user_table": {"dim": 3}, "item_table": {"dim": 2}}])
def test_a_saved_network_needs_no_training_data(
    kind: type[InteractionNetwork], schema: dict[str, object], tmp_path: Path
) -> None:
    split = toy(**schema)
    network = made(kind, Catalogue.from_split(split, interactions=True)).eval()
    save_model(network, tmp_path / "model")
    test = split.test
    batch = histories(split.log, test.users, test.history_start, test.history_end)
    assert torch.equal(load_model(tmp_path / "model").scores(batch), network.scores(batch))
    holds_pairs = any(name.startswith("catalogue.interactions") for name in network.state())
    assert holds_pairs is (kind is LightGCN)


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_catalogue_of_sequences_is_refused(kind: type[InteractionNetwork], split: Split) -> None:
    with pytest.raises(ValueError, match=r"data\.batches"):
        kind(Catalogue.from_split(split))  # type: ignore[call-arg]


def test_negative_layers_are_refused(catalogue: Catalogue) -> None:
    with pytest.raises(ValueError, match="layers"):
        LightGCN(catalogue, layers=-1)


def test_a_network_of_sequences_saves_no_pairs(split: Split) -> None:
    """Its folder is the same whether or not the catalogue knew them."""
    torch.manual_seed(0)
    plain = SynerGen(Catalogue.from_split(split), width=8)
    assert not {name for name in plain.state() if "interactions" in name or "user" in name}
    assert "user_id" not in plain.config()["catalogue"]["table_rows"]
