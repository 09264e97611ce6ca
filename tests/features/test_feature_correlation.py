"""Mutual information of item features, against loops over every pair of values and against scikit-learn."""

from __future__ import annotations

import math
import tracemalloc
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from recsys.features.catalogue import Catalogue
from recsys.features.feature_correlation import BINS, BUCKETS, PLANES, FeatureCorrelation, feature_correlation
from recsys.features.jagged import JaggedColumn
from recsys.features.schema import Schema

Bags = Sequence[Sequence[int]]


def catalogue(
    bags: dict[str, Bags | JaggedColumn] | None = None,
    numeric: dict[str, Any] | None = None,
    vectors: dict[str, Any] | None = None,
) -> Catalogue:
    """Features of items 1, 2, ...; row 0, the padding, is added here and holds what must not be counted."""
    bags, numeric, vectors = bags or {}, numeric or {}, vectors or {}
    features = [{"name": name, "column": name, "type": "categorical_list"} for name in bags]
    features += [{"name": name, "column": name, "type": "numeric"} for name in numeric]
    features += [{"name": name, "column": name, "type": "vector"} for name in vectors]
    columns = {n: b if isinstance(b, JaggedColumn) else JaggedColumn.from_lists(b) for n, b in bags.items()}
    sizes = [len(values) for values in (*columns.values(), *numeric.values(), *vectors.values())]
    return Catalogue(
        schema=Schema.parse({"name": "toy", "features": features}),
        n_items=sizes[0],
        n_users=1,
        table_rows={"item_id": sizes[0] + 1},
        counts=torch.ones(sizes[0] + 1, dtype=torch.int64),
        jagged={
            name: (torch.from_numpy(column.values), torch.from_numpy(np.insert(column.offsets, 0, 0)))
            for name, column in columns.items()
        },
        numeric={n: torch.cat([torch.tensor([1e9]), torch.as_tensor(v).float()]) for n, v in numeric.items()},
        vectors={n: torch.nn.functional.pad(torch.as_tensor(v), (0, 0, 1, 0), value=9.0) for n, v in vectors.items()},
    )


def information(left: Bags, right: Bags) -> float:
    """By the definition, a pair of values at a time; an item without values has the value None."""
    n, together, of_left, of_right = len(left), Counter[Any](), Counter[Any](), Counter[Any]()
    for some, others in zip(left, right, strict=True):
        for a in some or [None]:
            of_left[a] += 1 / (n * max(len(some), 1))
            for b in others or [None]:
                together[a, b] += 1 / (n * max(len(some), 1) * max(len(others), 1))
        for b in others or [None]:
            of_right[b] += 1 / (n * max(len(others), 1))
    return sum(p * math.log(p / (of_left[a] * of_right[b])) for (a, b), p in together.items())


def entropy(bags: Bags) -> float:
    shares = Counter[Any]()
    for bag in bags:
        for value in bag or [None]:
            shares[value] += 1 / (len(bags) * max(len(bag), 1))
    return -sum(p * math.log(p) for p in shares.values())


def single(values: Any) -> JaggedColumn:
    return JaggedColumn(np.asarray(values, dtype=np.int64), np.arange(len(values) + 1))


BAG = st.lists(st.integers(1, 4), max_size=3)


@example([([1], [], []), ([1, 1, 1], [], [])])  # an entropy of 0 but for rounding
@settings(max_examples=100, deadline=None)
@given(st.lists(st.tuples(BAG, BAG, BAG), min_size=1, max_size=12))
def test_information_is_that_of_a_loop_over_pairs_of_values(items: list[tuple[list[int], ...]]) -> None:
    columns: list[Bags] = [list(column) for column in zip(*items, strict=True)]
    found = feature_correlation(catalogue({f"f{at}": bags for at, bags in enumerate(columns)}))
    assert found.names == ("f0", "f1", "f2")
    np.testing.assert_array_equal(found.mi, found.mi.T)
    for i, left in enumerate(columns):
        for j, right in enumerate(columns):
            expected = entropy(left) if i == j else information(left, right)
            assert found.mi[i, j] == pytest.approx(expected, abs=1e-12) and found.mi[i, j] >= 0
            root = math.sqrt(max(entropy(left) * entropy(right), 0))
            assert found.nmi[i, j] == pytest.approx(found.mi[i, j] / root if root > 1e-12 else 0, abs=1e-9)
    assert found.nmi.max() < 1 + 1e-9


def test_single_values_agree_with_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    brand = random.integers(1, 30, 2000)
    shelf = np.where(random.random(2000) < 0.6, brand % 7, random.integers(0, 7, 2000)) + 1
    found = feature_correlation(catalogue({"brand": single(brand), "shelf": single(shelf)}))
    assert found.mi[0, 1] == pytest.approx(metrics.mutual_info_score(brand, shelf), rel=1e-10)
    expected = metrics.normalized_mutual_info_score(brand, shelf, average_method="geometric")
    assert found.nmi[0, 1] == pytest.approx(expected, rel=1e-10)


def test_independent_features_tell_nothing_of_each_other() -> None:
    random = np.random.default_rng(1)
    n = 100_000
    found = feature_correlation(
        catalogue(
            {"brand": single(random.integers(1, 21, n)), "shelf": single(random.integers(1, 21, n))},
            {"price": random.lognormal(size=n)},
            {"image": random.normal(size=(n, 8)).astype(np.float32)},
        )
    )
    apart = ~np.eye(4, dtype=bool)
    assert found.mi[apart].max() < 1e-2 and found.mi.diagonal().min() > 1


def test_identical_features_tell_their_entropy() -> None:
    random = np.random.default_rng(2)
    brand, price = random.zipf(1.5, 5000).clip(max=300), random.normal(size=5000)
    image = random.normal(size=(5000, 5)).astype(np.float32)
    found = feature_correlation(
        catalogue(
            {"brand": single(brand), "maker": single(1000 - brand)},
            {"price": price, "cost": 3 * price + 1},
            {"image": image, "copy": 2 * image},
        )
    )
    for pair in (0, 2, 4):
        block = found.mi[pair : pair + 2, pair : pair + 2]
        np.testing.assert_allclose(block, np.full((2, 2), block[0, 0]), rtol=1e-10)
        np.testing.assert_allclose(found.nmi[pair : pair + 2, pair : pair + 2], 1, rtol=1e-10)
    assert found.mi[0, 0] == pytest.approx(entropy([[value] for value in brand]))


def test_having_no_value_is_a_value() -> None:
    bags = [[1], [], [1], []]
    found = feature_correlation(catalogue({"a": bags, "b": [[2, 2] if bag else [] for bag in bags]}))
    assert found.mi[0, 1] == pytest.approx(math.log(2))


def test_a_feature_that_is_always_the_same_tells_nothing() -> None:
    random = np.random.default_rng(3)
    found = feature_correlation(
        catalogue(
            {"brand": single(random.integers(1, 5, 50)), "shop": single(np.ones(50)), "none": [[]] * 50},
            {"price": np.zeros(50)},
            {"image": np.ones((50, 3), dtype=np.float32)},
        )
    )
    assert not found.mi[1:].any() and not found.nmi[1:].any()
    assert found.nmi[0].tolist() == [1, 0, 0, 0, 0]


def test_numbers_fall_in_equal_bins_by_rank() -> None:
    random = np.random.default_rng(4)
    price = random.permutation(np.geomspace(1e-3, 1e6, 20 * BINS))
    found = feature_correlation(catalogue({"tenth": single(price.argsort().argsort() // 20)}, {"price": price}))
    np.testing.assert_allclose(found.mi, math.log(BINS), rtol=1e-10)


@pytest.mark.parametrize("ones", [1, 30, 50, 99])
def test_a_number_of_two_values_is_no_coarser_than_they_are(ones: int) -> None:
    flag = np.repeat([0, 1], [100 - ones, ones])
    found = feature_correlation(catalogue({"flag": single(flag)}, {"number": flag}))
    np.testing.assert_allclose(found.nmi, 1, rtol=1e-9)


def test_vectors_that_lie_together_share_a_cell() -> None:
    random = np.random.default_rng(5)
    cluster = random.integers(0, 8, 4000)
    centres = random.normal(size=(8, 32))
    vectors = (centres[cluster] + 0.01 * random.normal(size=(4000, 32))).astype(np.float16)
    found = feature_correlation(catalogue({"cluster": single(cluster)}, vectors={"image": vectors}))
    assert found.mi[1, 1] <= PLANES * math.log(2) + 1e-9
    assert found.nmi[0, 1] > 0.6


def test_more_values_than_buckets_are_hashed() -> None:
    ids = np.arange(2 * BUCKETS) + 1
    found = feature_correlation(catalogue({"word": single(np.tile(ids, 2)), "last": single(np.tile(ids % 10, 2))}))
    assert math.log(BUCKETS / 2) < found.mi[0, 0] < math.log(BUCKETS)  # instead of the log of twice the buckets
    assert 0.4 * math.log(10) < found.mi[0, 1] < math.log(10)
    just = feature_correlation(catalogue({"word": single(np.tile(ids[:BUCKETS], 2))}))
    assert just.mi[0, 0] == pytest.approx(math.log(BUCKETS))


def test_memory_is_that_of_a_part_of_the_pairs() -> None:
    random = np.random.default_rng(6)
    columns = [JaggedColumn(random.integers(1, 5001, 20_000 * 32), np.arange(20_001) * 32) for _ in range(2)]
    items = catalogue({"a": columns[0], "b": columns[1]})
    tracemalloc.start()
    feature_correlation(items)
    peak = tracemalloc.get_traced_memory()[1] / 2**20
    tracemalloc.stop()
    assert peak < 140  # MiB; the 14 million pairs of values alone would take 160


def test_features_are_ranked_by_what_they_tell() -> None:
    mi = np.array(
        [[4.0, 1.0, 0.9, 0.5, 0.5], [1.0, 9.0, 0, 0, 0], [0.9, 0, 1.0, 0, 0], [0.5, 0, 0, 1, 0], [0.5, 0, 0, 0, 1]]
    )
    found = FeatureCorrelation(("a", "b", "c", "d", "e"), mi)
    assert found.ranked("a") == ["c", "d", "e", "b"]  # by .45, .25, .25 and .167: b's entropy makes it last
    assert found.ranked("d") == ["a", "b", "c", "e"]


def test_items_without_features_are_refused() -> None:
    empty = Catalogue(Schema(name="bare"), n_items=2, n_users=1, table_rows={"item_id": 3}, counts=torch.ones(3))
    with pytest.raises(ValueError, match="schema `bare` has no item features"):
        feature_correlation(empty)
