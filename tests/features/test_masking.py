"""Two views of items: what is hidden in one is shown in the other, and related features are hidden together."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats

from recsys.features.catalogue import Catalogue
from recsys.features.masking import (
    CorrelatedMasking,
    DimensionMasking,
    FeatureMasking,
    RandomMasking,
    View,
    item_feature_names,
)
from recsys.features.schema import Schema

N_ITEMS = 64
MASKINGS: dict[str, Callable[[], FeatureMasking]] = {
    "random": RandomMasking,
    "random halves": lambda: RandomMasking(complementary=False),
    "correlated": CorrelatedMasking,
    "dimensions": DimensionMasking,
}


def catalogue(columns: dict[str, Sequence[int]]) -> Catalogue:
    """Items with one value in each column."""
    (n,) = {len(column) for column in columns.values()} or {N_ITEMS}
    features = [{"name": name, "column": name, "type": "categorical"} for name in columns]
    offsets = torch.arange(-1, n + 1).clamp(min=0)
    return Catalogue(
        schema=Schema.parse({"name": "shop", "features": features}),
        n_items=n,
        n_users=1,
        table_rows={"item_id": n + 1} | {name: max(column) + 1 for name, column in columns.items()},
        counts=torch.ones(n + 1, dtype=torch.int64),
        jagged={name: (torch.as_tensor(column), offsets) for name, column in columns.items()},
    )


def unrelated(k: int) -> Catalogue:
    """Items with k features, the id among them."""
    random = np.random.default_rng(k)
    return catalogue({f"f{at}": random.integers(1, 4, N_ITEMS).tolist() for at in range(1, k)})


def paired() -> Catalogue:
    """The features a and b are nearly the same, and so are c and d; a and c have nothing to do with each other."""
    a, c = (np.arange(N_ITEMS) // 8 % 4) + 1, (np.arange(N_ITEMS) % 4) + 1
    b, d = a.copy(), c.copy()
    b[:2], d[:2] = 4, 3
    return catalogue({"a": a.tolist(), "c": c.tolist(), "b": b.tolist(), "d": d.tolist()})


def ready(masking: FeatureMasking, of: Catalogue, seed: int = 0) -> FeatureMasking:
    masking.setup(of, seed)
    return masking


@pytest.mark.parametrize("k", range(2, 9))
@pytest.mark.parametrize("name", ["random", "correlated"])
def test_one_view_hides_what_the_other_shows(name: str, k: int) -> None:
    masking = ready(MASKINGS[name](), unrelated(k))
    for _ in range(50):
        first, second = masking.draw()
        assert not first.hidden & second.hidden
        assert first.hidden | second.hidden == set(masking.names) and len(masking.names) == k
        assert first.hidden and second.hidden
        assert first.value_dropout == second.value_dropout == 0.2 and first.dim_dropout == second.dim_dropout == 0


@pytest.mark.parametrize("k", [2, 4, 5])
def test_every_random_half_is_as_likely(k: int) -> None:
    masking = ready(RandomMasking(), unrelated(k))
    drawn = Counter(masking.draw()[0].hidden for _ in range(3000))
    halves = [frozenset(half) for half in itertools.combinations(masking.names, k // 2)]
    assert set(drawn) == set(halves)
    assert stats.chisquare([drawn[half] for half in halves]).pvalue > 1e-3


def test_halves_that_are_not_complementary_are_independent() -> None:
    masking = ready(RandomMasking(complementary=False), unrelated(4))
    pairs = [masking.draw() for _ in range(7200)]
    halves = [frozenset(half) for half in itertools.combinations(masking.names, 2)]
    drawn = Counter((first.hidden, second.hidden) for first, second in pairs)
    assert stats.chisquare([drawn[pair] for pair in itertools.product(halves, halves)]).pvalue > 1e-3
    both = sum("item_id" not in first.hidden | second.hidden for first, second in pairs)
    assert stats.binomtest(both, len(pairs), 1 / 4).pvalue > 1e-3  # the id shows in both views of every fourth pair


def test_related_features_are_hidden_together() -> None:
    masking = ready(CorrelatedMasking(), paired())
    pairs = [masking.draw() for _ in range(3000)]
    drawn = Counter(first.hidden - {"item_id"} for first, _ in pairs)
    assert all("item_id" in first.hidden for first, _ in pairs)
    # Each of five seeds is as likely; that of the id hides two features at random.
    expected = {frozenset(two): 1 / 30 for two in itertools.combinations("abcd", 2)}
    expected[frozenset("ab")] += 2 / 5
    expected[frozenset("cd")] += 2 / 5
    assert set(drawn) <= set(expected)
    assert stats.chisquare([drawn[two] for two in expected], [3000 * p for p in expected.values()]).pvalue > 1e-3


@pytest.mark.parametrize("k", range(3, 9))
def test_the_seed_the_id_and_the_most_related_are_hidden_in_the_first_view(k: int) -> None:
    masking = ready(CorrelatedMasking(), unrelated(k))
    assert masking.correlation is not None
    names, nmi = masking.correlation.names, masking.correlation.nmi
    assert names == masking.names[1:]
    of_seeds = set()
    for place, seed in enumerate(names):
        related = sorted(set(range(k - 1)) - {place}, key=lambda at: -nmi[place, at])[: k // 2 - 1]
        of_seeds.add(frozenset({"item_id", seed} | {names[at] for at in related}))
    of_the_id = {frozenset({"item_id", *some}) for some in itertools.combinations(names, k // 2)}
    drawn = {masking.draw()[0].hidden for _ in range(4000)}
    assert of_seeds <= drawn <= of_seeds | of_the_id
    assert all(len(hidden) == k // 2 + 1 for hidden in drawn)


def test_of_two_features_each_view_hides_one() -> None:
    masking = ready(CorrelatedMasking(), unrelated(2))
    drawn = Counter(tuple(tuple(view.hidden) for view in masking.draw()) for _ in range(1000))
    assert set(drawn) == {(("item_id",), ("f1",)), (("f1",), ("item_id",))}
    assert stats.binomtest(drawn[("item_id",), ("f1",)], 1000).pvalue > 1e-3


def test_dimensions_are_dropped_in_both_views_and_nothing_is_hidden() -> None:
    assert ready(DimensionMasking(0.3), unrelated(3)).draw() == (View(dim_dropout=0.3), View(dim_dropout=0.3))


@pytest.mark.parametrize("name", MASKINGS)
def test_views_come_from_a_generator_of_their_own(name: str, tmp_path: Path) -> None:
    state = torch.get_rng_state()
    masking = ready(MASKINGS[name](), unrelated(6), seed=5)
    for _ in range(3):
        masking.draw()
    torch.save(masking.state_dict(), tmp_path / "state.pt")
    later = [masking.draw() for _ in range(20)]
    resumed = ready(MASKINGS[name](), unrelated(6), seed=1)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert [resumed.draw() for _ in range(20)] == later
    assert torch.equal(resumed.generator.get_state(), masking.generator.get_state())
    again = ready(MASKINGS[name](), unrelated(6), seed=5)
    assert [again.draw() for _ in range(23)][3:] == later
    assert torch.equal(torch.get_rng_state(), state)


def test_features_of_items_are_the_id_and_those_of_the_schema_in_order() -> None:
    features = [
        {"name": "size", "column": "size", "type": "numeric"},
        {"name": "age", "column": "age", "type": "numeric", "entity": "user"},
        {"name": "brand", "column": "brand", "type": "categorical"},
        {"name": "asked", "type": "text", "entity": "query"},
        {"name": "image", "column": "image", "type": "vector"},
    ]
    schema = Schema.parse({"name": "shop", "events": {"query": "query"}, "features": features})
    items = Catalogue(schema, n_items=1, n_users=1, table_rows={"item_id": 2}, counts=torch.ones(2))
    assert item_feature_names(items) == ("item_id", "size", "brand", "image")


@pytest.mark.parametrize("name", MASKINGS)
def test_items_without_features_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"Masking masks features of items, and schema `shop` gives.*add features"):
        MASKINGS[name]().setup(catalogue({}))


def test_views_are_not_drawn_before_setup() -> None:
    with pytest.raises(RuntimeError, match=r"RandomMasking.setup\(catalogue, seed\) must be called"):
        RandomMasking().draw()


@pytest.mark.parametrize("share", [-0.1, 1.0, float("nan")])
def test_shares_lie_between_0_and_1(share: float) -> None:
    for wrong in (
        lambda: View(value_dropout=share),
        lambda: View(dim_dropout=share),
        lambda: RandomMasking(value_dropout=share),
        lambda: CorrelatedMasking(value_dropout=share),
        lambda: DimensionMasking(share),
    ):
        with pytest.raises(ValueError, match="must be at least 0 and below 1"):
            wrong()
