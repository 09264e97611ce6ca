from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsys.retrieval.fusion import fuse
from recsys.retrieval.merging import ByReciprocalRank, BySource, Caps, Order, Shortfall, merge
from recsys.retrieval.order import TopK

N_ITEMS = 9
List = list[tuple[int, float]]


def tensors(lists: list[List]) -> list[TopK]:
    """One user's lists."""
    return [
        TopK(
            torch.tensor([[item for item, _ in row]], dtype=torch.int64).reshape(1, -1),
            torch.tensor([[score for _, score in row]], dtype=torch.float32).reshape(1, -1),
        )
        for row in lists
    ]


def looked_at(lists: list[List], order: Order) -> list[tuple[int, float, int]]:
    """(item, score, source) in the order in which they are looked at."""
    everything = [(item, score, source) for source, row in enumerate(lists) for item, score in row if item]
    if isinstance(order, ByReciprocalRank):
        ranked = fuse(
            [torch.tensor([[item for item, _ in row]], dtype=torch.int64).reshape(1, -1) for row in lists],
            N_ITEMS,
            N_ITEMS,
            weights=order.weights,
            constant=order.constant,
            tie_seed=order.tie_seed,
        ).items[0]
        rank = {item: place for place, item in enumerate(ranked.tolist()) if item}
        everything.sort(key=lambda entry: rank[entry[0]])
    return everything


def one_at_a_time(
    lists: list[List], k: int, quotas: list[int | None], order: Order, caps: Caps | None, minimum: list[float | None]
) -> tuple[list[int], list[float], list[int]]:
    lists = [
        [(item if low is None or score >= low else 0, score) for item, score in row]
        for row, low in zip(lists, minimum, strict=True)
    ]
    items: list[int] = []
    scores: list[float] = []
    sources: list[int] = []
    for item, score, source in looked_at(lists, order):
        quota = quotas[source]
        if item in items or len(items) == k or (quota is not None and sources.count(source) >= quota):
            continue
        if caps is not None:
            category = int(caps.categories[item])
            most = int(caps.most[category]) if isinstance(caps.most, Tensor) else caps.most
            if category and sum(int(caps.categories[other]) == category for other in items) >= most:
                continue
        items, scores, sources = [*items, item], [*scores, score], [*sources, source]
    return items, scores, sources


def why(
    lists: list[List], k: int, quotas: list[int | None], order: Order, caps: Caps | None, minimum: list[float | None]
) -> Shortfall:
    """Brings the rules in one after the other until fewer than k are left."""
    n = len(lists)
    no_quotas: list[int | None] = [None] * n
    no_minimum: list[float | None] = [None] * n
    for rules, reason in (
        ((no_quotas, order, None, no_minimum), Shortfall.TOO_FEW_ITEMS),
        ((no_quotas, order, None, minimum), Shortfall.MINIMUM),
        ((quotas, order, None, minimum), Shortfall.QUOTAS),
        ((quotas, order, caps, minimum), Shortfall.CAPS),
    ):
        if len(one_at_a_time(lists, k, *rules)[0]) < k:
            return reason
    return Shortfall.NONE


entry = st.tuples(st.integers(0, N_ITEMS), st.sampled_from([-1.5, 0.0, 0.25, 2.0]))
orders = st.sampled_from(
    [BySource(), ByReciprocalRank(), ByReciprocalRank(tie_seed=None, constant=1.0), ByReciprocalRank((3.0, 1.0, 2.0))]
)
caps_of = st.builds(
    lambda of, most: Caps(torch.tensor([0, *of], dtype=torch.int32), most),
    st.lists(st.integers(0, 3), min_size=N_ITEMS, max_size=N_ITEMS),
    st.one_of(
        st.integers(0, 3), st.lists(st.integers(0, 3), min_size=4, max_size=4).map(lambda most: torch.tensor(most))
    ),
)


@settings(max_examples=100)
@given(
    lists=st.lists(st.lists(entry, max_size=8), min_size=3, max_size=3),
    k=st.integers(1, 12),
    quotas=st.lists(st.none() | st.integers(0, 5), min_size=3, max_size=3),
    order=orders,
    caps=st.none() | caps_of,
    minimum=st.lists(st.none() | st.sampled_from([-1.5, 0.1, 5.0]), min_size=3, max_size=3),
)
def test_a_list_agrees_with_a_loop(
    lists: list[List],
    k: int,
    quotas: list[int | None],
    order: Order,
    caps: Caps | None,
    minimum: list[float | None],
) -> None:
    merged = merge(tensors(lists), k, n_items=N_ITEMS, quotas=quotas, order=order, caps=caps, minimum=minimum)
    items, scores, sources = one_at_a_time(lists, k, quotas, order, caps, minimum)
    empty = k - len(items)
    assert merged.items[0].tolist() == items + [0] * empty
    assert merged.scores[0].tolist() == scores + [float("-inf")] * empty
    assert merged.source[0].tolist() == sources + [-1] * empty
    assert merged.reason.tolist() == [why(lists, k, quotas, order, caps, minimum)]


@pytest.mark.parametrize("order", [BySource(), ByReciprocalRank()])
def test_rows_do_not_depend_on_each_other(order: Order) -> None:
    random = torch.Generator().manual_seed(0)
    lists = [
        TopK(torch.randint(0, N_ITEMS + 1, (60, width), generator=random), torch.rand(60, width, generator=random))
        for width in (6, 3, 9)
    ]
    caps = Caps(torch.arange(N_ITEMS + 1, dtype=torch.int32) % 4, 2)
    rules = {"n_items": N_ITEMS, "quotas": [3, 3, 2], "order": order, "caps": caps, "minimum": [0.3, 0.3, 0.5]}
    together = merge(lists, 5, **rules)
    assert len(set(together.reason.tolist())) >= 4  # most rules stop somebody
    for row in range(60):
        alone = merge([TopK(items[row : row + 1], scores[row : row + 1]) for items, scores in lists], 5, **rules)
        assert all(torch.equal(one[0], all_[row]) for one, all_ in zip(alone, together, strict=True))


def test_types_and_a_full_list() -> None:
    merged = merge(tensors([[(3, 1.0), (2, 0.5)]]), 2, n_items=N_ITEMS)
    assert [part.dtype for part in merged] == [torch.int64, torch.float32, torch.int16, torch.int8]
    assert (merged.items.tolist(), merged.reason.tolist()) == ([[3, 2]], [Shortfall.NONE])


def test_scores_of_another_scale_change_nothing() -> None:
    lists = [[(1, 0.1), (2, 0.05)], [(3, 900.0), (1, 800.0), (4, 700.0)]]
    scaled = [[(item, 1e4 * score) for item, score in row] for row in lists]
    for order in (BySource(), ByReciprocalRank()):
        first, second = (merge(tensors(some), 4, n_items=N_ITEMS, order=order) for some in (lists, scaled))
        assert torch.equal(first.items, second.items) and torch.equal(first.source, second.source)
    assert merge(tensors(lists), 4, n_items=N_ITEMS).items.tolist() == [[1, 2, 3, 4]]


def test_no_users_and_no_columns() -> None:
    none = TopK(torch.zeros(0, 3, dtype=torch.int64), torch.zeros(0, 3))
    assert merge([none], 4, n_items=N_ITEMS).items.shape == (0, 4)
    empty = TopK(torch.zeros(2, 0, dtype=torch.int64), torch.zeros(2, 0))
    for order in (BySource(), ByReciprocalRank()):
        merged = merge([empty, empty], 3, n_items=N_ITEMS, order=order)
        assert merged.items.tolist() == [[0, 0, 0]] * 2
        assert merged.reason.tolist() == [Shortfall.TOO_FEW_ITEMS] * 2


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"lists": []}, "same users"),
        ({"lists": [*tensors([[(1, 0.0)]]), TopK(torch.ones(2, 1).long(), torch.ones(2, 1))]}, "same users"),
        ({"quotas": [1, 2]}, "1 sources, not 2"),
        ({"minimum": []}, "and 0"),
        ({"quotas": [-1]}, "not negative"),
        ({"k": 0}, "at least 1"),
        ({"caps": Caps(torch.zeros(4, dtype=torch.int32), 1)}, "3 items"),
        ({"lists": tensors([[(10, 0.0)]])}, "0..9, found 10..10"),
        ({"lists": tensors([[(1, float("nan"))]])}, "source 0 gave 1 scores that are NaN"),
    ],
)
def test_wrong_input_is_refused(change: dict, what: str) -> None:
    given = {"lists": tensors([[(1, 0.0)]]), "k": 2, "n_items": N_ITEMS} | change
    with pytest.raises(ValueError, match=what):
        merge(**given)


@pytest.mark.parametrize(
    ("categories", "most", "what"), [([0, -1], 2, "-1..0"), ([0, 3], torch.tensor([0, 1, 1]), "1..2"), ([0], -1, "-1")]
)
def test_wrong_caps_are_refused(categories: list[int], most: int | Tensor, what: str) -> None:
    with pytest.raises(ValueError, match=what):
        Caps(torch.tensor(categories, dtype=torch.int32), most)
