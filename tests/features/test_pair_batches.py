"""Batches of pairs against matrices of who had what."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.features import pair_batches, permutation
from recsys.features.event_log import EventLog
from recsys.features.pair_batch import InteractionBatch, PairBatch, TripleBatch
from recsys.features.pair_batches import AllPairs, PairBatches, PositivesAndUnlabeled, Triples
from recsys.features.permutation import Permutation
from recsys.features.schema import Schema
from recsys.features.splits import GlobalTime, Split

ITEMS, BATCH = 8, 16
KINDS: dict[str, Callable[[], PairBatches]] = {
    "all": AllPairs,
    "drawn": lambda: PositivesAndUnlabeled(3),
    "triples": lambda: Triples(4),
    "triples with positives": lambda: Triples(4, positives=True),
}
every_kind = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def split() -> Split:
    random = np.random.default_rng(1)
    frame = pd.DataFrame({"user_id": random.integers(0, 12, 70), "item_id": random.integers(0, ITEMS, 70)})
    frame["timestamp"] = 1_000_000 + 60 * np.arange(len(frame))
    frame["chance"] = random.uniform(0.1, 0.9, len(frame))
    schema = Schema.parse({"name": "toy", "events": {"propensity": "chance"}})
    return GlobalTime(0.1, 0.1)(EventLog.from_frame(frame, schema))


@pytest.fixture(scope="module")
def had(split: Split) -> np.ndarray:
    """`[n_users + 1, n_items + 1]`, the propensity of the first training event of each pair; 0 for unlabeled pairs."""
    matrix = np.zeros((split.log.n_users + 1, split.log.n_items + 1), dtype=np.float32)
    for user in range(1, split.log.n_users + 1):
        for event in reversed(range(split.train_start[user], split.train_end[user])):
            matrix[user, split.log.item_id[event]] = split.log.columns["propensity"][event]
    return matrix


def made(kind: str, split: Split, seed: int = 0, batch_size: int = BATCH) -> PairBatches:
    batches = KINDS[kind]()
    batches.setup(split, batch_size, seed)
    return batches


def columns(batch: InteractionBatch) -> list[list[float]]:
    return [value.tolist() for value in vars(batch).values() if value is not None]


@every_kind
def test_labels_and_propensities_are_those_of_the_log(kind: str, split: Split, had: np.ndarray) -> None:
    for batch in made(kind, split):
        users, items = batch.users.numpy(), batch.items.numpy()
        assert (users > 0).all() and (items > 0).all() and had[users].any(1).all()
        assert batch.lengths.tolist() == [1] * len(batch) and torch.equal(batch.item_id, batch.items)
        logged = had[users, items]
        if isinstance(batch, TripleBatch):
            others = batch.others.numpy()
            assert (logged > 0).all() and (others != items).all() and (others > 0).all()
            assert np.array_equal(batch.other_label.numpy(), had[users, others] > 0)
            assert kind == "triples with positives" or not batch.other_label.any()
        else:
            assert isinstance(batch, PairBatch)
            assert np.array_equal(batch.label.numpy(), logged > 0)
            logged = np.where(logged > 0, logged, 1)
        assert batch.propensity is not None
        np.testing.assert_allclose(batch.propensity.numpy(), logged)


def test_all_pairs_come_once_an_epoch_in_another_order_each(split: Split, had: np.ndarray) -> None:
    batches = made("all", split)
    epochs = [[(u, i) for batch in batches for u, i in zip(*columns(batch)[:2], strict=True)] for _ in range(2)]
    expected = sorted((u, i) for u in np.flatnonzero(had.any(1)) for i in range(1, ITEMS + 1))
    assert sorted(epochs[0]) == sorted(epochs[1]) == expected
    assert epochs[0] != epochs[1] and epochs[0] != expected


def test_positives_come_once_and_weights_make_up_for_those_not_drawn(split: Split, had: np.ndarray) -> None:
    batches = made("drawn", split)
    assert batches.rows_per_step == BATCH // 4
    positives, total = [], 0.0
    for batch in batches:
        assert isinstance(batch, PairBatch) and batch.weight is not None
        one = batch.label == 1
        assert int((~one).sum()) == 3 * int(one.sum()) and (batch.weight[one] == 1).all()
        positives += [*zip(batch.users[one].tolist(), batch.items[one].tolist(), strict=True)]
        total += float(batch.weight[~one].sum())
    assert sorted(positives) == [*zip(*map(np.ndarray.tolist, had.nonzero()), strict=True)]
    assert total == pytest.approx(int((had[had.any(1)][:, 1:] == 0).sum()), rel=1e-6)


def test_weighted_sums_of_drawn_pairs_estimate_sums_over_all(split: Split, had: np.ndarray) -> None:
    value = np.random.default_rng(5).normal(size=had.shape)
    wanted = had.any(1)[:, None] & (np.arange(ITEMS + 1) > 0)
    batches = made("drawn", split)
    found = []
    for _ in range(400):
        epoch = 0.0
        for batch in batches:
            assert isinstance(batch, PairBatch) and batch.weight is not None
            epoch += float((value[batch.users, batch.items] * batch.weight.numpy()).sum())
        found.append(epoch)
    assert abs(np.mean(found) - value[wanted].sum()) < 3 * np.std(found) / 20
    assert abs(np.mean(found) - value[had > 0].sum()) > 3 * np.std(found) / 20  # the unlabeled ones are not nothing


def test_other_items_are_uniform_and_drawn_anew(split: Split, had: np.ndarray) -> None:
    for kind in ("triples", "triples with positives"):
        batches = made(kind, split, batch_size=10_000)
        seen = np.zeros((*had.shape, ITEMS + 1))
        epochs = []
        for _ in range(300):
            (batch,) = batches
            assert isinstance(batch, TripleBatch)
            np.add.at(seen, (batch.users.numpy(), batch.items.numpy(), batch.others.numpy()), 1)
            epochs.append(batch.others.tolist())
        assert epochs[0] != epochs[1]
        for user, item in zip(*had.nonzero(), strict=True):
            allowed = np.arange(ITEMS + 1) > 0
            allowed &= (np.arange(ITEMS + 1) != item) if kind == "triples with positives" else had[user] == 0
            if not allowed.any():
                continue
            counts = seen[user, item]
            assert counts.sum() == counts[allowed].sum() == 1200
            mean = 1200 / allowed.sum()
            assert ((counts[allowed] - mean) ** 2 / mean).sum() < 40  # chi-square with at most 7 degrees


@every_kind
def test_a_resumed_epoch_goes_on_where_it_stopped(kind: str, split: Split) -> None:
    whole = made(kind, split)
    first = [columns(batch) for batch in whole]
    second = [columns(batch) for batch in whole]
    assert first != second
    stopped = made(kind, split)
    iterator = iter(stopped)
    assert columns(next(iterator)) == first[0] and columns(next(iterator)) == first[1]
    state = stopped.state_dict()
    resumed = made(kind, split, seed=99)
    resumed.load_state_dict(state)
    assert [columns(batch) for batch in resumed] == first[2:]
    assert [columns(batch) for batch in resumed] == second
    assert [columns(batch) for batch in made(kind, split, seed=1)] != first
    assert len(first) == len(whole)


@every_kind
def test_a_batch_moves_with_all_its_columns(kind: str, split: Split) -> None:
    batch = next(iter(made(kind, split)))
    moved = batch.to("meta")
    assert type(moved) is type(batch) and all(v is None or v.device.type == "meta" for v in vars(moved).values())


def test_what_cannot_be_drawn_is_refused(split: Split, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="batch_size"):
        made("all", split, batch_size=0)
    for kind in (PositivesAndUnlabeled, Triples):
        with pytest.raises(ValueError, match="n must be positive"):
            kind(0)
    monkeypatch.setattr(pair_batches, "MOST_PAIRS", 10)
    with pytest.raises(ValueError, match="use PositivesAndUnlabeled"):
        made("all", split)
    frame = pd.DataFrame({"user_id": [0, 0, 0, 0, 1], "item_id": [0, 1, 0, 1, 0], "timestamp": [1, 2, 3, 4, 5]})
    full = GlobalTime(0.2, 0.0)(EventLog.from_frame(frame, Schema(name="full")))
    for message, refused in (("no unlabeled pair", PositivesAndUnlabeled()), ("no unlabeled item", Triples())):
        with pytest.raises(ValueError, match=message):
            refused.setup(full, 4)


@pytest.mark.parametrize("n", [1, 2, 3, 5, 17, 64, 1000, 4097])
@pytest.mark.parametrize("small", [0, permutation.SMALL])
def test_a_permutation_is_one_to_one(n: int, small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(permutation, "SMALL", small)
    order = Permutation(n, [0, 1])
    assert sorted(order(np.arange(n)).tolist()) == list(range(n))
    assert order(np.arange(n)[::-1]).tolist() == order(np.arange(n)).tolist()[::-1]
    assert n < 17 or order(np.arange(n)).tolist() != Permutation(n, [0, 2])(np.arange(n)).tolist()


def test_a_long_permutation_is_held_nowhere_and_looks_random() -> None:
    n, blocks = 10**12 + 39, 50
    order = Permutation(n, [7])
    places = np.arange(n - 200_000, n)
    values = order(places)
    assert len(np.unique(values)) == len(values) and values.min() >= 0 and values.max() < n
    counts = np.bincount(values * blocks // n, minlength=blocks)
    assert ((counts - 4000) ** 2 / 4000).sum() < 49 + 5 * 98**0.5  # chi-square
    unit = values / n
    assert abs(np.corrcoef(unit[1:], unit[:-1])[0, 1]) < 4 / len(unit) ** 0.5
    assert abs(np.corrcoef(unit, places)[0, 1]) < 4 / len(unit) ** 0.5


def test_small_permutations_are_uniform_and_long_ones_nearly(monkeypatch: pytest.MonkeyPatch) -> None:
    for small in (permutation.SMALL, 0):
        monkeypatch.setattr(permutation, "SMALL", small)
        counts = np.zeros((6, 6))
        for seed in range(3000):
            counts[np.arange(6), Permutation(6, [seed])(np.arange(6))] += 1
        assert ((counts - 500) ** 2 / 500).sum() < 25 + 5 * 50**0.5
