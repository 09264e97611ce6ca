"""gBCE: the paper's formula, its neutral setting and what it calibrates."""

from __future__ import annotations

import math

import pytest
import torch

from recsys.losses import BCE, GBCE, SampledScores


def scores(rows: int = 5, negatives: int = 8) -> SampledScores:
    generator = torch.Generator().manual_seed(1)
    return SampledScores(torch.randn(rows, generator=generator), torch.randn(rows, negatives, generator=generator))


def test_no_calibration_is_bce_bit_for_bit() -> None:
    assert torch.equal(GBCE(t=0, n_items=50)(scores()).loss, BCE()(scores()).loss)


@pytest.mark.parametrize("t", [0.25, 0.75, 1.0])
def test_is_the_formula_of_the_paper(t: float) -> None:
    given, alpha = scores(), 8 / 49
    beta = alpha * (t * (1 - 1 / alpha) + 1 / alpha)
    positive = -(given.positive.sigmoid() ** beta).log()
    negative = -(1 - given.negative.sigmoid()).log().sum(1)
    expected = ((positive + negative) / 9).mean()
    torch.testing.assert_close(GBCE(t=t, n_items=50)(given).loss, expected, rtol=1e-5, atol=0)


def test_full_calibration_recovers_the_probability() -> None:
    """One item with probability p, N of n - 1 others drawn: at t = 1 the minimum has sigmoid(score) = p."""
    n_items, negatives, p = 101, 10, 0.3
    rate = negatives / (n_items - 1)
    score = torch.zeros((), dtype=torch.float64, requires_grad=True)
    loss = GBCE(t=1.0, n_items=n_items)
    optimizer = torch.optim.LBFGS([score], max_iter=100, tolerance_grad=1e-12)

    def closure() -> torch.Tensor:
        # Rows where the item is the positive, and where it is one of the negatives, in their expected proportions.
        optimizer.zero_grad()
        others = torch.full((2, negatives), -1e4, dtype=torch.float64)
        negative = torch.stack((others[0], torch.cat((score[None], others[1][1:]))))
        positive = torch.stack((score, score.new_tensor(1e4)))
        weight = torch.tensor([p, (1 - p) * rate], dtype=torch.float64)
        value = loss(SampledScores(positive, negative, weight=weight)).loss
        value.backward()
        return value

    optimizer.step(closure)
    assert score.sigmoid().item() == pytest.approx(p, rel=1e-4)


def test_the_trainer_may_tell_the_catalogue() -> None:
    loss = GBCE(t=0.5)
    with pytest.raises(RuntimeError, match="n_items"):
        loss(scores())
    loss.setup(n_items=9)
    assert loss.beta(8) == 1
    assert math.isclose(loss.beta(4), 0.75)


def test_bad_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        GBCE(t=1.5)
    with pytest.raises(ValueError, match="more than"):
        GBCE(n_items=8)(scores())
