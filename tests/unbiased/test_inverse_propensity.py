"""Clicks over propensities are unbiased for relevance; clicks alone miss it by what is predicted."""

from __future__ import annotations

import pytest
import torch

from recsys.unbiased.click_loss import inverse_weights
from recsys.unbiased.click_models import PositionBased
from recsys.unbiased.inverse_propensity import InversePropensity

RHO = [0.9, 0.5, 0.2]


def test_inverse_propensities_are_unbiased_and_naive_clicks_miss_by_the_predicted_bias() -> None:
    """Sums of click amounts times log softmax, over 50,000 users of each of 8 lists; within 3 standard errors."""
    draw = torch.Generator().manual_seed(0)
    scores, relevance = torch.randn(8, 3, generator=draw), torch.rand(8, 3, generator=draw)
    logs, users = torch.log_softmax(scores, dim=1).double(), 50_000
    ideal = -(relevance * logs).sum(1)
    weights = inverse_weights(InversePropensity(RHO).log_relative)
    for row in range(8):
        click = (
            PositionBased(RHO).draw(relevance[row].expand(users, 3), torch.ones(users, 3, dtype=torch.bool), draw).click
        )
        corrected = -(click * weights * logs[row]).sum(1)
        assert abs(corrected.mean() - RHO[0] * ideal[row]) < 3 * corrected.std() / users**0.5
        naive = -(click * logs[row]).sum(1)
        predicted = -(torch.tensor(RHO) * relevance[row] * logs[row]).sum()
        assert abs(naive.mean() - predicted) < 3 * naive.std() / users**0.5
        assert abs(naive.mean() - RHO[0] * ideal[row]) > 3 * naive.std() / users**0.5


def test_only_ratios_of_propensities_count() -> None:
    from tests.unbiased.lists import L, shown

    scores, lists = shown()
    given = [0.9, 0.5, 0.3, 0.2][:L]
    half = InversePropensity([chance / 2 for chance in given])(scores, lists).loss
    torch.testing.assert_close(half, InversePropensity(given)(scores, lists).loss, rtol=1e-6, atol=0)
    assert InversePropensity(given).relative_propensities()[0].tolist() == pytest.approx([r / 0.9 for r in given])


@pytest.mark.parametrize("relative", [[], [1.0, 0.0], [1.0, float("nan")]])
def test_propensities_that_cannot_be_divided_by_are_refused(relative: list[float]) -> None:
    with pytest.raises(ValueError, match="above 0"):
        InversePropensity(relative)
