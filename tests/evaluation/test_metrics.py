from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.evaluation.metrics import debiased_metrics, find_targets, propensities, ranking_metrics

KS = (1, 3, 5)


def jagged(rows: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    values = torch.tensor([item for row in rows for item in row], dtype=torch.int64)
    return values, torch.tensor([0, *np.cumsum([len(row) for row in rows])], dtype=torch.int64)


def by_hand(ranked: list[int], relevant: set[int], k: int) -> dict[str, float]:
    """The formulas of the module, one rank after the other."""
    if not relevant:
        return dict.fromkeys(("HR", "Recall", "NDCG", "MRR", "MAP"), math.nan)
    hit, dcg, precision, reciprocal = 0, 0.0, 0.0, 0.0
    for rank, item in enumerate(ranked[:k], start=1):
        if item and item in relevant:
            hit += 1
            dcg += 1 / math.log2(rank + 1)
            precision += hit / rank
            reciprocal = reciprocal or 1 / rank
    ideal = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(relevant)) + 1))
    return {
        "HR": float(hit > 0),
        "Recall": hit / len(relevant),
        "NDCG": dcg / ideal,
        "MRR": reciprocal,
        "MAP": precision / min(k, len(relevant)),
    }


lists = st.lists(
    st.tuples(
        st.permutations(range(1, 10)).flatmap(lambda p: st.integers(0, 6).map(lambda n: [*p[:n], *[0] * (6 - n)])),
        st.lists(st.integers(0, 12), max_size=8),
    ),
    min_size=1,
    max_size=6,
)


@given(lists)
@settings(max_examples=150, deadline=None)
def test_metrics_equal_the_formulas_by_hand(case: list[tuple[list[int], list[int]]]) -> None:
    ranked = torch.tensor([row for row, _ in case])
    got = ranking_metrics(ranked, jagged([relevant for _, relevant in case]), KS)
    for k in KS:
        for user, (row, relevant) in enumerate(case):
            for name, value in by_hand(row, set(relevant) - {0}, k).items():
                assert got[f"{name}@{k}"][user].item() == pytest.approx(value, abs=1e-6, nan_ok=True), (name, k)


def test_no_user_and_no_relevant_item() -> None:
    empty = ranking_metrics(torch.zeros(0, 5, dtype=torch.int64), jagged([]), KS)
    assert all(len(value) == 0 for value in empty.values())
    nothing = ranking_metrics(torch.tensor([[1, 2, 3, 4, 5]]), jagged([[]]), KS)
    assert all(value.isnan().all() for value in nothing.values())


def test_a_repeated_item_counts_once_at_its_better_rank() -> None:
    got = ranking_metrics(torch.tensor([[7, 4, 4]]), jagged([[4, 4, 9]]), [3])
    assert got["Recall@3"].item() == 0.5
    assert got["MRR@3"].item() == 0.5


def test_targets_tell_rank_or_zero_across_chunks() -> None:
    generator = torch.Generator().manual_seed(0)
    ranked = torch.stack([torch.randperm(40, generator=generator)[:8] + 1 for _ in range(20_000)])
    relevant = torch.randint(1, 60, (20_000,), generator=generator)
    targets = find_targets(ranked, (relevant, torch.arange(20_001)))
    expected = [
        row.index(item) + 1 if item in row else 0 for row, item in zip(ranked.tolist(), relevant.tolist(), strict=True)
    ]
    assert targets.rank.tolist() == expected
    assert targets.row.tolist() == list(range(20_000))


def test_wrong_shapes_are_refused() -> None:
    with pytest.raises(ValueError, match="cut-off 6 does not fit"):
        ranking_metrics(torch.ones(1, 5, dtype=torch.int64), jagged([[1]]), [6])
    with pytest.raises(ValueError, match="2 rows of relevant items for 1 ranked lists"):
        ranking_metrics(torch.ones(1, 5, dtype=torch.int64), jagged([[1], [2]]), [1])


def debiased_by_hand(case: list[tuple[list[int], set[int]]], p: list[float], k: int) -> tuple[float, float]:
    gain = total = dcg = best = 0.0
    for ranked, relevant in case:
        total += sum(1 / p[item] for item in relevant)
        for rank, item in enumerate(ranked[:k], start=1):
            if item in relevant:
                gain += 1 / p[item]
                dcg += 1 / p[item] / math.log2(rank + 1)
        for rank, weight in enumerate(sorted((1 / p[item] for item in relevant), reverse=True)[:k], start=1):
            best += weight / math.log2(rank + 1)
    return gain / total, dcg / best


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_debiased_metrics_equal_the_formulas_by_hand(beta: float) -> None:
    random = np.random.default_rng(3)
    counts = np.array([0, 100, 50, 9, 4, 1, 0, 3, 20])
    case = [
        (random.permutation(np.arange(1, 9))[:6].tolist(), set(random.integers(1, 9, random.integers(1, 5)).tolist()))
        for _ in range(30)
    ]
    targets = find_targets(torch.tensor([row for row, _ in case]), jagged([sorted(rel) for _, rel in case]))
    got = debiased_metrics(targets, torch.tensor(counts), KS, beta)
    p = [(max(count, 1) / 100) ** beta for count in counts]
    assert propensities(torch.tensor(counts), beta).tolist() == pytest.approx(p)
    for k in KS:
        recall, ndcg = debiased_by_hand(case, p, k)
        assert got[f"Debiased Recall@{k}"].double().mean().item() == pytest.approx(recall, rel=1e-5)
        assert got[f"Debiased NDCG@{k}"].double().mean().item() == pytest.approx(ndcg, rel=1e-5)


def test_debiasing_undoes_observation_by_popularity() -> None:
    """Targets observed with known propensities: the weighted mean is the recall over all targets."""
    random = np.random.default_rng(0)
    n = 200_000
    popular = random.random(n) < 0.5  # item 1 or item 2; the model finds only item 1
    observed = random.random(n) < np.where(popular, 1.0, 0.25)  # counts 400 and 100, beta 1
    items = np.where(popular, 1, 2)[observed]
    ranked = torch.ones(len(items), 1, dtype=torch.int64)
    targets = find_targets(ranked, (torch.tensor(items), torch.arange(len(items) + 1)))
    for beta, recall in ((1.0, 0.5), (0.0, 0.8)):
        found = debiased_metrics(targets, torch.tensor([0, 400, 100]), [1], beta)["Debiased Recall@1"]
        assert found.mean().item() == pytest.approx(recall, abs=5e-3)
