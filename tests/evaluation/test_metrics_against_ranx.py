"""The same numbers as ranx, an independent library."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from recsys.evaluation.metrics import ranking_metrics

ranx = pytest.importorskip("ranx")
pytestmark = pytest.mark.slow  # ranx compiles its metrics when they are first called


def test_metrics_equal_ranx() -> None:
    random = np.random.default_rng(1)
    users, items, length = 60, 80, 20
    ranked = np.stack([random.permutation(np.arange(1, items + 1))[:length] for _ in range(users)])
    relevant = [random.choice(np.arange(1, items + 1), random.integers(1, 30), replace=False) for _ in range(users)]
    qrels = ranx.Qrels({f"u{u:03d}": {f"i{i}": 1 for i in row} for u, row in enumerate(relevant)})
    run = ranx.Run({f"u{u:03d}": {f"i{i}": float(length - r) for r, i in enumerate(row)} for u, row in enumerate(ranked)})
    names = {"HR": "hit_rate", "Recall": "recall", "NDCG": "ndcg", "MRR": "mrr"}
    ks = (1, 5, 10, 20)
    theirs = ranx.evaluate(
        qrels, run, [f"{name}@{k}" for name in names.values() for k in ks], return_mean=False, make_comparable=True
    )
    offsets = torch.tensor([0, *np.cumsum([len(row) for row in relevant])])
    ours = ranking_metrics(torch.from_numpy(ranked), (torch.from_numpy(np.concatenate(relevant)), offsets), ks)
    for name, theirs_name in names.items():
        for k in ks:
            np.testing.assert_allclose(ours[f"{name}@{k}"], theirs[f"{theirs_name}@{k}"], atol=1e-6)


def test_map_equals_ranx_where_definitions_meet() -> None:
    """ranx divides by all relevant items, here by min(k, R); they agree once k reaches R."""
    random = np.random.default_rng(2)
    ranked = np.stack([random.permutation(np.arange(1, 31))[:20] for _ in range(40)])
    relevant = [random.choice(np.arange(1, 31), random.integers(1, 11), replace=False) for _ in range(40)]
    qrels = ranx.Qrels({f"u{u:03d}": {f"i{i}": 1 for i in row} for u, row in enumerate(relevant)})
    run = ranx.Run({f"u{u:03d}": {f"i{i}": float(20 - r) for r, i in enumerate(row)} for u, row in enumerate(ranked)})
    theirs = ranx.evaluate(qrels, run, "map@10", return_mean=False)
    offsets = torch.tensor([0, *np.cumsum([len(row) for row in relevant])])
    ours = ranking_metrics(torch.from_numpy(ranked), (torch.from_numpy(np.concatenate(relevant)), offsets), [10])
    np.testing.assert_allclose(ours["MAP@10"], theirs, atol=1e-6)
