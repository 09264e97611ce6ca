"""Indexes of FAISS and rankers over them, against exact lists."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from recsys.retrieval.approximate import ApproximateRanker, RecallError, check_recall, measured_recall
from recsys.retrieval.item_index import HNSW, INDEX, IVFPQ, MANIFEST, Flat, IndexFileError, IndexKind, ItemIndex
from recsys.retrieval.order import TopK
from recsys.retrieval.topk import Ranker
from tests.retrieval.test_scan import Products, vectors
from tests.retrieval.test_topk import Vectors, as_argument, batch_of, brute_force, cases, jagged, per_user, positions

pytest.importorskip("faiss", reason="the extra `ann` is not installed")

KINDS = (Flat(), IVFPQ(lists=16, probes=16, codes=12), HNSW(links=16, search_width=64))


@pytest.fixture(scope="module")
def model() -> Products:
    return Products(vectors("normal", 60, 24, 0), vectors("normal", 3001, 24, 1))


@given(case=cases())
@settings(max_examples=60, deadline=None)
def test_over_a_complete_index_lists_are_exact(case: dict[str, Any]) -> None:
    """Ties, k above what is allowed, nothing left, all kinds of lists."""
    table, k = case["table"], case["k"]
    users, n_items = len(table), table.shape[1] - 1
    allowed = per_user(case["allow"], users) or [set(range(1, n_items + 1))] * users
    seen, denied = (per_user(case[name], users) or [set()] * users for name in ("seen", "deny"))
    allowed = [a - s - d - {0} for a, s, d in zip(allowed, seen, denied, strict=True)]
    lists = {name: as_argument(case[name], users) for name in ("seen", "allow", "deny")}
    shared = {name: ids for name, ids in lists.items() if isinstance(ids, Tensor)}
    model = Vectors(torch.from_numpy(table))
    index = ItemIndex.build(model.item_vectors().contiguous(), Flat())
    ranker = ApproximateRanker(model, index, **shared, tie_seed=case["tie_seed"])
    found = ranker(batch_of(users), k, **{name: ids for name, ids in lists.items() if name not in shared})
    expected = brute_force(table, k, allowed, positions(n_items, case["tie_seed"]))
    scores = [[row[item] if item else -np.inf for item in best] for row, best in zip(table, expected, strict=True)]
    np.testing.assert_array_equal(found.scores.numpy(), np.array(scores, dtype=np.float32))
    assert ranker.short == 0
    for row, mine, best, of in zip(table, found.items.tolist(), expected, allowed, strict=True):
        # An index that is asked for n items may leave out some of those that tie with the last.
        last = row[best[-1]] if best[-1] else -np.inf
        assert [i for i in mine if i and row[i] > last] == [i for i in best if i and row[i] > last]
        assert set(mine) - {0} <= of and len(set(mine) - {0}) == len(set(best) - {0})


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_lists_hold_no_removed_item_and_exact_scores(model: Products, kind: IndexKind) -> None:
    index = ItemIndex.build(model.items, kind)
    ranker, exact = ApproximateRanker(model, index), Ranker(model, scan="fp32")
    seen = jagged(exact(batch_of(60), 50).items.tolist())  # the best, so that many more have to be asked for
    found, wanted = ranker(batch_of(60), 20, seen=seen), exact(batch_of(60), 20, seen=seen)
    assert ranker.short == 0
    recall = measured_recall(wanted, found)
    assert recall.value > 0.8 and recall.low < recall.value <= recall.high and recall.users == 60
    for row in range(60):
        items = found.items[row].tolist()
        assert len(set(items)) == 20 and not set(items) & set(seen.values[row * 50 : row * 50 + 50].tolist())
        both = dict(zip(wanted.items[row].tolist(), wanted.scores[row].tolist(), strict=True))
        mine = dict(zip(items, found.scores[row].tolist(), strict=True))
        assert all(mine[item] == both[item] for item in mine.keys() & both.keys())
        assert found.scores[row].tolist() == sorted(found.scores[row].tolist(), reverse=True)


def test_allowed_items_are_ranked_exactly_without_the_index(model: Products) -> None:
    index = ItemIndex.build(model.items, IVFPQ(lists=16, probes=1, codes=2))
    allow = jagged([[5, 9, 9, 2999]] * 59 + [[]])
    deny = jagged([[9]] + [[]] * 59)
    found = ApproximateRanker(model, index)(batch_of(60), 3, allow=allow, deny=deny)
    assert torch.equal(found.items, Ranker(model)(batch_of(60), 3, allow=allow, deny=deny).items)


def test_who_gets_too_few_is_recorded(model: Products) -> None:
    index = ItemIndex.build(model.items, Flat())
    best = Ranker(model)(batch_of(60), 40).items
    seen = jagged([best[0].tolist(), *[[]] * 59])
    ranker = ApproximateRanker(model, index, most=44)
    found = ranker(batch_of(60), 10, seen=seen)
    assert ranker.short == 1
    assert (found.items != 0).sum(1).tolist() == [4] + [10] * 59
    assert ApproximateRanker(model, index)(batch_of(60), 10, seen=seen).items.all()


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.name)
def test_an_index_is_built_and_read_back_the_same(model: Products, kind: IndexKind, tmp_path: Path) -> None:
    first, again = ItemIndex.build(model.items, kind), ItemIndex.build(model.items, kind)
    first.save(tmp_path / "a")
    again.save(tmp_path / "b")
    assert (tmp_path / "a" / INDEX).read_bytes() == (tmp_path / "b" / INDEX).read_bytes()
    loaded = ItemIndex.load(tmp_path / "a")
    assert loaded.kind == kind and (loaded.n_items, loaded.d) == (3000, 24)
    assert torch.equal(loaded.search(model.users, 30), first.search(model.users, 30))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"], "nothing temporary is left"


def test_another_seed_gives_another_index(model: Products) -> None:
    kinds = [IVFPQ(lists=16, probes=2, codes=4, seed=seed) for seed in (0, 1)]
    found = [ItemIndex.build(model.items, kind).search(model.users, 30) for kind in kinds]
    assert not torch.equal(*found)


def test_damaged_folders_are_refused(model: Products, tmp_path: Path) -> None:
    folder = tmp_path / "index"
    with pytest.raises(IndexFileError, match="no saved index here"):
        ItemIndex.load(folder)
    ItemIndex.build(model.items[:50], Flat()).save(folder)
    with pytest.raises(IndexFileError, match="exists"):
        ItemIndex.build(model.items[:50], Flat()).save(folder)
    content = bytearray((folder / INDEX).read_bytes())
    content[-3] ^= 1
    (folder / INDEX).write_bytes(content)
    with pytest.raises(IndexFileError, match="altered since it was saved"):
        ItemIndex.load(folder)
    (folder / INDEX).unlink()
    with pytest.raises(IndexFileError, match="missing"):
        ItemIndex.load(folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    for wrong, words in (
        ({**manifest, "version": 9}, "another version"),
        ({**manifest, "kind": "x"}, "not a manifest"),
        ({**manifest, "settings": {"refine": 0}}, "not a manifest"),
    ):
        (folder / MANIFEST).write_text(json.dumps(wrong))
        with pytest.raises(IndexFileError, match=words):
            ItemIndex.load(folder)


def test_recall_below_the_limit_is_refused_with_what_was_measured(model: Products) -> None:
    exact = Ranker(model)
    poor = ApproximateRanker(model, ItemIndex.build(model.items, IVFPQ(lists=64, probes=1, codes=4, refine=1)))
    with pytest.raises(
        RecallError, match=r"recall@10 .* is 0\.\d+ \(95 % interval .* 60 users\), below 0\.9: .*refine"
    ):
        check_recall(poor, exact, batch_of(60), 10, 0.9)
    good = ApproximateRanker(model, ItemIndex.build(model.items, Flat()))
    assert check_recall(good, exact, batch_of(60), 10, 0.9).value == 1.0


def test_the_interval_of_recall_covers_the_true_mean() -> None:
    random = np.random.default_rng(0)
    covered = 0
    for _ in range(200):
        hits = random.random((80, 10)) < 0.9
        exact = torch.arange(1, 11).repeat(80, 1)
        found = exact * torch.from_numpy(hits)
        recall = measured_recall(TopK(exact, exact.float()), TopK(found, found.float()))
        assert recall.value == pytest.approx(hits.mean())
        covered += recall.low <= 0.9 <= recall.high
    assert covered >= 190


def test_wrong_arguments_are_refused(model: Products) -> None:
    index = ItemIndex.build(model.items, Flat())
    ranker = ApproximateRanker(model, index)
    with pytest.raises(ValueError, match="k must be at least 1"):
        ranker(batch_of(2), 0)
    with pytest.raises(ValueError, match="1 rows of ids for 2 users"):
        ranker(batch_of(2), 1, seen=jagged([[2]]))
    with pytest.raises(ValueError, match="holds 3000 items and the model knows 99"):
        ApproximateRanker(Products(model.users, model.items[:100]), index)
    with pytest.raises(ValueError, match="24 dimensions and the model 3"):
        ApproximateRanker(Products(torch.rand(2, 3), torch.rand(3001, 3)), index)(batch_of(2), 1)
    for bad in (torch.nan, torch.inf):
        items, users = model.items.clone(), model.users.clone()
        items[5, 2] = users[1, 1] = bad
        with pytest.raises(ValueError, match="item vectors that are NaN or infinite"):
            ItemIndex.build(items, Flat())
        with pytest.raises(ValueError, match="user vectors that are NaN or infinite"):
            ApproximateRanker(Products(users, model.items), index)(batch_of(2), 1)
    assert ranker(batch_of(0), 4).items.shape == (0, 4)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: IVFPQ(codes=0), "ivf_pq: codes must be at least 1, not 0"),
        (lambda: HNSW(links=1), "hnsw: links must be at least 2, not 1"),
        (lambda: Flat(refine=0), "flat: refine must be at least 1, not 0"),
        (lambda: ItemIndex.build(torch.rand(51, 24), IVFPQ(lists=16)), "learns from 50 items.*256 at least.*`Flat`"),
        (lambda: ItemIndex.build(torch.rand(301, 24), IVFPQ(lists=512)), "learns from 300 items.*512 at least"),
    ],
)
def test_settings_that_an_index_cannot_have_are_refused(make: Callable[[], object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()
