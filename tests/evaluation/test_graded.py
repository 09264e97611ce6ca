"""Graded metrics against scikit-learn, and a loop over the ways in which a reader stops."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.evaluation.graded import KS, graded_metrics


def example(queries: int = 30, documents: int = 12) -> tuple[Tensor, Tensor, Tensor]:
    draw = torch.Generator().manual_seed(0)
    scores = torch.randn(queries, documents, generator=draw)
    label = torch.randint(0, 5, (queries, documents), generator=draw)
    label[:, 0] = 1
    mask = torch.arange(documents) < torch.randint(2, documents + 1, (queries, 1), generator=draw)
    return scores, label.masked_fill(~mask, 0), mask


def test_ndcg_is_that_of_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    scores, label, mask = example()
    for q in range(len(scores)):
        gain = 2.0 ** label[q, mask[q]].numpy() - 1
        found = graded_metrics(scores[q : q + 1], label[q : q + 1], mask[q : q + 1])
        for k in KS:
            theirs = metrics.ndcg_score(gain[None], scores[q, mask[q]].numpy()[None], k=k)
            assert found[f"NDCG@{k}"].item() == pytest.approx(theirs, abs=1e-6)


def test_err_is_the_expected_reciprocal_rank_over_all_readers() -> None:
    """Every pattern of satisfaction with its chance; a reader stops at the first that satisfies."""
    scores, label, mask = example(queries=5, documents=6)
    found = graded_metrics(scores, label, mask, ks=[3, 6])
    for q in range(5):
        order = [d for d in scores[q].argsort(descending=True).tolist() if mask[q, d]]
        chance = [(2 ** int(label[q, d]) - 1) / 16 for d in order]
        for k in (3, 6):
            expected = 0.0
            for pattern in itertools.product([0, 1], repeat=len(order)):
                weight = np.prod([p if hit else 1 - p for p, hit in zip(chance, pattern, strict=True)])
                if any(pattern) and pattern.index(1) < k:
                    expected += weight / (pattern.index(1) + 1)
            assert found[f"ERR@{k}"][q].item() == pytest.approx(expected, abs=1e-12)


def test_padding_has_no_place_and_lists_without_relevance_no_value() -> None:
    scores, label, mask = example()
    other = graded_metrics(scores.masked_fill(~mask, 9.0), label.masked_fill(~mask, 4), mask)
    for name, value in graded_metrics(scores, label, mask).items():
        assert torch.equal(value, other[name])
    nothing = graded_metrics(scores[:1], torch.zeros_like(label[:1]), mask[:1])
    assert all(value.isnan().all() for value in nothing.values())


def test_grades_and_cut_offs_are_checked() -> None:
    scores, label, mask = example()
    with pytest.raises(ValueError, match="between 0 and 3"):
        graded_metrics(scores, label, mask, highest=3)
    with pytest.raises(ValueError, match="start at 1"):
        graded_metrics(scores, label, mask, ks=[0])
