"""The same numbers as ranx, an independent library."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from recsys.evaluation.metrics import ranking_metrics

with pytest.MonkeyPatch.context() as patch:
    patch.setenv("NUMBA_DISABLE_JIT", "1")  # to compile its metrics takes ranx a minute; as Python they take a second
    ranx = pytest.importorskip("ranx")


def drawn(users: int, items: int, most: int, seed: int) -> tuple[torch.Tensor, Any, Any, Any]:
    """Ranked lists of length 20 and relevant items, for this package and for ranx."""
    random = np.random.default_rng(seed)
    ranked = np.stack([random.permutation(np.arange(1, items + 1))[:20] for _ in range(users)])
    relevant = [random.choice(np.arange(1, items + 1), random.integers(1, most), replace=False) for _ in range(users)]
    qrels = {f"u{u:03d}": {f"i{i}": 1 for i in row} for u, row in enumerate(relevant)}
    run = {f"u{u:03d}": {f"i{i}": 20.0 - r for r, i in enumerate(row)} for u, row in enumerate(ranked)}
    offsets = torch.tensor([0, *np.cumsum([len(row) for row in relevant])])
    jagged = torch.from_numpy(np.concatenate(relevant)), offsets
    return torch.from_numpy(ranked), jagged, ranx.Qrels(qrels), ranx.Run(run)


def test_metrics_equal_ranx() -> None:
    ranked, relevant, qrels, run = drawn(users=60, items=80, most=30, seed=1)
    names = {"HR": "hit_rate", "Recall": "recall", "NDCG": "ndcg", "MRR": "mrr"}
    ks = (1, 5, 10, 20)
    theirs = ranx.evaluate(qrels, run, [f"{name}@{k}" for name in names.values() for k in ks], return_mean=False)
    ours = ranking_metrics(ranked, relevant, ks)
    for name, theirs_name in names.items():
        for k in ks:
            np.testing.assert_allclose(ours[f"{name}@{k}"], theirs[f"{theirs_name}@{k}"], atol=1e-6)


def test_map_equals_ranx_where_the_definitions_meet() -> None:
    """ranx divides by all relevant items, this package by min(k, R); they agree once k reaches R."""
    ranked, relevant, qrels, run = drawn(users=40, items=30, most=11, seed=2)
    theirs = ranx.evaluate(qrels, run, "map@10", return_mean=False)
    np.testing.assert_allclose(ranking_metrics(ranked, relevant, [10])["MAP@10"], theirs, atol=1e-6)
