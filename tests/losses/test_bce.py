"""Binary cross-entropy against torch's own."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from recsys.losses import BCE, SampledScores


def test_equals_torch_on_the_stacked_scores() -> None:
    torch.manual_seed(0)
    positive, negative = torch.randn(4, dtype=torch.float64), torch.randn(4, 3, dtype=torch.float64)
    weight = torch.rand(4, dtype=torch.float64)
    stacked = torch.cat((positive[:, None], negative), 1) / 0.5
    labels = torch.zeros_like(stacked)
    labels[:, 0] = 1
    rows = F.binary_cross_entropy_with_logits(stacked, labels, reduction="none").mean(1)
    loss = BCE(0.5)(SampledScores(positive, negative, weight=weight)).loss
    torch.testing.assert_close(loss, (rows * weight).sum() / weight.sum(), rtol=1e-13, atol=0)


def test_starts_at_log_two() -> None:
    assert BCE()(SampledScores(torch.zeros(3), torch.zeros(3, 7))).loss.item() == pytest.approx(math.log(2))


def test_a_hit_adds_nothing() -> None:
    negative = torch.tensor([[0.3, 5.0], [0.1, -0.2]], requires_grad=True)
    loss = BCE()(SampledScores(torch.zeros(2), negative, hits=torch.tensor([[0], [1]]))).loss
    loss.backward()
    softplus = [math.log1p(math.exp(score)) for score in (0.3, 0.1, -0.2)]
    assert loss.item() == pytest.approx((2 * math.log(2) + sum(softplus)) / 6, rel=1e-6)
    assert negative.grad is not None and negative.grad[0, 1] == 0 and negative.grad[0, 0] > 0
