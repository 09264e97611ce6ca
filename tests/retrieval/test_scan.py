"""Scans in narrow formats, against brute force: what they rule out and what they give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from recsys.features.batch import SequenceBatch
from recsys.models.recommender import VectorRecommender
from recsys.retrieval import blocks, scan
from recsys.retrieval.order import TopK
from recsys.retrieval.scan_tables import BFloatTable, FloatTable, IntTable, ScanTable, pair_scores
from recsys.retrieval.topk import Ranker
from tests.retrieval.test_topk import (
    Table,
    Vectors,
    as_argument,
    batch_of,
    brute_force,
    cases,
    jagged,
    per_user,
    positions,
)

FORMATS = ("auto", "bf16", "int8", "fp32")
TABLES = (BFloatTable, IntTable, FloatTable)


class Products(VectorRecommender):
    """Two tables of vectors."""

    def __init__(self, users: Tensor, items: Tensor) -> None:
        self.users, self.items, self.n_items = users, items, len(items) - 1

    def user_vectors(self, batch: SequenceBatch) -> Tensor:
        return self.users[batch.user_id]

    def item_vectors(self, ids: Tensor | None = None) -> Tensor:
        return self.items if ids is None else self.items[ids]

    def config(self) -> dict[str, Any]:
        return {}

    def state(self) -> dict[str, Tensor]:
        return {"users": self.users, "items": self.items}

    @classmethod
    def from_state(cls, config: dict[str, Any], state: dict[str, Tensor]) -> Products:
        return cls(**state)


def by_halves(users: np.ndarray, items: np.ndarray) -> np.ndarray:
    """All scores `[U, n]` in the order of additions of `pair_scores`, by a loop."""
    terms = [users[:, j, None] * items[None, :, j] for j in range(users.shape[1])]
    while len(terms) > 1:
        half = (len(terms) + 1) // 2
        terms = [a + b for a, b in zip(terms[:half], terms[half:], strict=False)] + terms[len(terms) - half : half]
    return terms[0]


def vectors(kind: str, n: int, d: int, seed: int) -> Tensor:
    """Vectors that are hard for one step or another."""
    random = np.random.default_rng(seed)
    values = random.standard_normal((n, d))
    if kind == "half units":  # in the middle between two numbers of bfloat16, where rounding errs most
        values = np.sign(values) * (1 + (2 * random.integers(0, 128, (n, d)) + 1) / 256)
    elif kind == "popularity":  # one dimension that dominates all
        values[:, -1] = random.pareto(1, n) * 1e4
    elif kind == "large":
        values *= 10.0 ** random.uniform(10, 18)
    elif kind == "small":
        values *= 10.0 ** random.uniform(-45, -30)
    elif kind == "mixed":
        values *= 10.0 ** random.uniform(-25, 15, (n, 1))
    elif kind == "tied":
        values = random.integers(-1, 2, (n, d)).astype(float)
    elif kind == "alike":  # all scores within the error of a scan
        values = 1 + values * 1e-4
    elif kind == "negative":
        values = -np.abs(values)
    return torch.from_numpy(values.astype(np.float32))


KINDS = ("normal", "half units", "popularity", "large", "small", "mixed", "tied", "alike", "negative")


@pytest.mark.parametrize("format", FORMATS)
@given(case=cases())
@settings(max_examples=60, deadline=None)
def test_equals_brute_force(format: Any, case: dict[str, Any]) -> None:
    """Ties, k above what is allowed, nothing left, small blocks and budgets."""
    table, k = case["table"], case["k"]
    users, n_items = len(table), table.shape[1] - 1
    allowed = per_user(case["allow"], users) or [set(range(1, n_items + 1))] * users
    seen, denied = (per_user(case[name], users) or [set()] * users for name in ("seen", "deny"))
    allowed = [a - s - d - {0} for a, s, d in zip(allowed, seen, denied, strict=True)]
    lists = {name: as_argument(case[name], users) for name in ("seen", "allow", "deny")}
    shared = {name: ids for name, ids in lists.items() if isinstance(ids, Tensor) and name != "seen"}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_ITEM_BLOCK", case["item_block"])
        patch.setattr(scan, "_PAIRS", 64)
        model = Vectors(torch.from_numpy(table))
        ranker = Ranker(model, **shared, tie_seed=case["tie_seed"], budget=case["budget"], scan=format)
        found = ranker(batch_of(users), k, **{name: ids for name, ids in lists.items() if name not in shared})
    expected = brute_force(table, k, allowed, positions(n_items, case["tie_seed"]))
    assert found.items.tolist() == expected
    scores = [[row[item] if item else -np.inf for item in best] for row, best in zip(table, expected, strict=True)]
    np.testing.assert_array_equal(found.scores.numpy(), np.array(scores, dtype=np.float32))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("format", FORMATS[1:])
def test_lists_of_hard_vectors_are_those_of_all_scores(format: Any, kind: str) -> None:
    users, items = vectors(kind if kind != "large" else "normal", 7, 13, 1), vectors(kind, 601, 13, 2)
    users[3] = 0.0
    users[5] = users[4]
    scores = by_halves(users.numpy(), items.numpy())
    expected = brute_force(scores, 20, [set(range(1, 601))] * 7, positions(600, 0))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(blocks, "_ITEM_BLOCK", 128)
        found = Ranker(Products(users, items), scan=format)(batch_of(7), 20)
    assert found.items.tolist() == expected
    np.testing.assert_array_equal(found.scores.numpy(), np.take_along_axis(scores, np.array(expected), 1))


@pytest.mark.parametrize("item_kind", KINDS)
@pytest.mark.parametrize("user_kind", KINDS)
@pytest.mark.parametrize("table_of", TABLES)
def test_a_scan_errs_by_no_more_than_the_bound(table_of: type[ScanTable], user_kind: str, item_kind: str) -> None:
    for seed, d in enumerate((1, 2, 31, 64, 257)):
        users, items = vectors(user_kind, 40, d, seed), vectors(item_kind, 256, d, seed + 100)
        if seed == 2:  # the same direction: all errors add up
            items[:40] = users * 0.75
        exact = users.double() @ items.double().T
        scored = pair_scores(users.repeat_interleave(256, 0), items.repeat(40, 1)).view(40, 256).double()
        assert bool(torch.isfinite(scored).all())
        table = table_of(items[None])
        scanned = table.scanned(users)
        out = torch.empty(256, 40, dtype=table.score_dtype)
        table.scores(scanned, 0, out)
        value = out.T.double() * (scanned.unit[:, None] * table._unit[0] if out.dtype == torch.int32 else 1.0)
        error = table.error(scanned, 0)[:, None]
        rounded = value.abs() * (2.0**-8 if out.dtype == torch.bfloat16 else 0.0)
        for real in (exact, scored):
            off = (real / scanned.scale[:, None] - value).abs()
            assert bool((off <= error + rounded).all())
        _cut_keeps_what_reaches_it(table, scanned, out, scored / scanned.scale[:, None])


def _cut_keeps_what_reaches_it(table: ScanTable, scanned: Any, out: Tensor, scored: Tensor) -> None:
    """The comparison of a scan, with the limit at each of some scores in turn."""
    integers = table.integers(out)
    table.make_sortable(integers)
    for column in (0, 17, 101):
        limit = scored[:, column]
        cut = table.cut(limit - table.error(scanned, 0), scanned, 0)
        reached = scored >= limit[:, None]
        assert bool((cut[:, None] <= integers.T)[reached].all())
        low, high = table.between(integers[column].clone(), torch.arange(len(limit)), scanned, 0)
        error = table.error(scanned, 0)
        assert bool(((low - error <= limit) & (limit <= high + error)).all())


def test_a_bound_of_half_the_size_would_not_hold() -> None:
    """The bound is not loose: vectors of a unit and a half come close to it."""
    users = torch.full((1, 64), 1 + 1 / 256)
    table = BFloatTable(users[None])
    scanned = table.scanned(users)
    out = torch.empty(1, 1, dtype=torch.bfloat16)
    table.scores(scanned, 0, out)
    exact = (users.double() ** 2).sum() / scanned.scale
    assert float((exact - out.double()).abs()) > 0.5 * float(table.error(scanned, 0))


@pytest.mark.parametrize("table_of", TABLES)
def test_the_bound_holds_for_a_block_whose_squares_are_below_the_range_of_float32(table_of: type[ScanTable]) -> None:
    for seed in range(10):
        users, items = vectors("normal", 40, 9, seed), vectors("normal", 192, 9, seed + 100).view(2, 96, 9)
        items[1] *= 1e-24
        table = table_of(items)
        scanned, out = table.scanned(users), torch.empty(96, 40, dtype=table.score_dtype)
        table.scores(scanned, 1, out)
        integers, error = table.integers(out), table.error(scanned, 1)
        table.make_sortable(integers)
        exact = users.double() @ items[1].double().T / scanned.scale[:, None]
        for column in (0, 50, 95):
            low, high = table.between(integers[column].clone(), torch.arange(40), scanned, 1)
            assert bool(((low - error <= exact[:, column]) & (exact[:, column] <= high + error)).all())


@pytest.mark.parametrize("format", FORMATS[1:])
def test_dominating_popularity_does_not_loosen_the_bound_of_other_users(format: Any) -> None:
    users, items = vectors("normal", 6, 33, 0), vectors("popularity", 4001, 33, 1)
    users[:, -1] = 0.0
    users[0] = 0.0
    users[0, -1] = 1.0
    scores = by_halves(users.numpy(), items.numpy())
    scored = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "pair_scores", lambda u, v: scored.append(len(u)) or pair_scores(u, v))
        found = Ranker(Products(users, items), scan=format)(batch_of(6), 10)
    assert found.items.tolist() == brute_force(scores, 10, [set(range(1, 4001))] * 6, positions(4000, 0))
    assert sum(scored) < 6 * 100, "most items are ruled out by the scan"


def test_results_do_not_depend_on_batch_block_threads_or_format() -> None:
    users, items = vectors("normal", 300, 48, 0), vectors("normal", 3001, 48, 1)
    seen = jagged(np.random.default_rng(0).integers(1, 3001, (300, 20)).tolist())
    reference = Ranker(Products(users, items), scan="fp32")(batch_of(300), 30, seen=seen)
    before = torch.get_num_threads()
    for format, block, threads, step in (("bf16", 96, 3, 300), ("int8", 1000, 1, 7), ("fp32", 128, 2, 41)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(blocks, "_ITEM_BLOCK", block)
            ranker = Ranker(Products(users, items), scan=format, budget=10_000)
            try:
                torch.set_num_threads(threads)
                parts = [_part(ranker, range(at, min(at + step, 300)), seen) for at in range(0, 300, step)]
            finally:
                torch.set_num_threads(before)
        assert torch.equal(torch.cat([part.items for part in parts]), reference.items)
        assert torch.equal(torch.cat([part.scores for part in parts]), reference.scores)


def _part(ranker: Ranker, rows: range, seen: Any) -> TopK:
    one = torch.ones(len(rows), dtype=torch.int64)
    values = seen.values[rows.start * 20 : rows.stop * 20]
    own = (values, torch.arange(len(rows) + 1) * 20)
    return ranker(SequenceBatch.build(torch.tensor(rows), one, one, one), 30, seen=own)


@pytest.mark.parametrize("format", FORMATS)
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_scores_that_are_not_finite_are_refused(format: Any, bad: float) -> None:
    users, items = torch.rand(3, 4), torch.rand(20, 4)
    items[7, 1] = bad
    with pytest.raises(ValueError, match="scores that are NaN or infinite"):
        Ranker(Products(users, items), scan=format)(batch_of(3), 2, seen=jagged([[7], [7], [7]]))
    items[7, 1], users[2, 0] = 1.0, bad
    with pytest.raises(ValueError, match="scores that are NaN or infinite"):
        Ranker(Products(users, items), scan=format)(batch_of(3), 2)


def test_users_whose_scores_might_overflow_are_ranked_by_products_and_the_others_scanned() -> None:
    users, items = vectors("normal", 4, 8, 0), vectors("normal", 100, 8, 1)
    scanned = Ranker(Products(users, items), scan="bf16")(batch_of(4), 5)
    users[2] *= 2.0**125 / users[2].norm()
    found = Ranker(Products(users, items), scan="bf16")(batch_of(4), 5)
    assert torch.equal(found.scores[[0, 1, 3]], scanned.scores[[0, 1, 3]])
    assert torch.equal(found.items, scanned.items)
    items *= 1e4
    with pytest.raises(ValueError, match="scores that are NaN or infinite"):
        Ranker(Products(users, items), scan="bf16")(batch_of(4), 5)


def test_a_model_without_vectors_is_ranked_as_it_is_without_a_scan() -> None:
    model = Table(torch.rand(3, 50))
    found = Ranker(model, scan="auto")(batch_of(3), 9)
    assert torch.equal(found.items, Ranker(model)(batch_of(3), 9).items)


def test_nobody_and_nothing() -> None:
    assert Ranker(Products(torch.rand(0, 3), torch.rand(9, 3)), scan="bf16")(batch_of(0), 4).items.shape == (0, 4)
    nothing = Ranker(Products(torch.rand(2, 3), torch.rand(9, 3)), deny=torch.arange(1, 9), scan="bf16")
    assert nothing(batch_of(2), 4).items.tolist() == [[0] * 4] * 2
