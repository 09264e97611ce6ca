"""Both ideals of NDCG by hand."""

from __future__ import annotations

import math

import pytest
import torch

from recsys.evaluation.full_ideal import full_ideal_ndcg
from recsys.evaluation.metrics import find_targets, target_metrics


def test_ideals_differ_for_users_with_more_relevant_items_than_places() -> None:
    ranked = torch.tensor([[5, 1, 2, 9], [3, 4, 5, 6], [1, 2, 3, 4], [8, 7, 6, 5]])
    wanted = [[1, 2, 3, 7], [4], [], [8, 7, 6]]
    offsets = torch.tensor([0, 4, 5, 5, 8])
    targets = find_targets(ranked, (torch.tensor([i for row in wanted for i in row]), offsets))
    whole, short = full_ideal_ndcg(targets, [2, 4]), target_metrics(targets, [2, 4])
    d = [1 / math.log2(r + 1) for r in range(1, 6)]  # of ranks 1, 2, ...
    expected = {2: [d[1] / sum(d[:4]), d[1] / d[0], (d[0] + d[1]) / sum(d[:3])]}
    expected[4] = [(d[1] + d[2]) / sum(d[:4]), d[1] / d[0], 1.0]
    for k in (2, 4):
        value = whole[f"NDCG-all@{k}"]
        assert value[[0, 1, 3]].tolist() == pytest.approx(expected[k]) and math.isnan(value[2])
    assert short["NDCG@2"][[0, 1, 3]].tolist() == pytest.approx([d[1] / (d[0] + d[1]), d[1] / d[0], 1.0])
    assert torch.equal(whole["NDCG-all@4"][[0, 1, 3]], short["NDCG@4"][[0, 1, 3]])
