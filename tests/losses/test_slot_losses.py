"""Ranking losses against loops over slots, candidates and actions."""

import math

import pytest
import torch

from recsys.losses.base import SlotScores
from recsys.losses.hybrid import Hybrid
from recsys.losses.pairwise import Pairwise
from recsys.losses.pointwise import Pointwise


def example() -> SlotScores:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(4, 3, 2, generator=generator, dtype=torch.float64)
    valid = torch.tensor([[True, True, True], [True, True, False], [True, False, False], [True, True, True]])
    return SlotScores(logits, torch.tensor([0, 1, 1, 0]), valid)


def test_pointwise_against_a_loop():
    given = example()
    expected = []
    for slot in range(4):
        terms = []
        for candidate in range(3):
            if not given.valid[slot, candidate]:
                continue
            for action in range(2):
                p = 1 / (1 + math.exp(-given.logits[slot, candidate, action].item()))
                chosen = candidate == 0 and action == given.action[slot]
                terms.append(-math.log(p if chosen else 1 - p))
        expected.append(sum(terms) / len(terms))
    assert Pointwise().rows(given).tolist() == pytest.approx(expected, rel=1e-12)


def test_pairwise_against_a_loop():
    given = example()
    expected = []
    for slot in range(4):
        y = given.logits[slot, :, given.action[slot]].tolist()
        terms = [math.log1p(math.exp(y[n] - y[0])) for n in (1, 2) if given.valid[slot, n]]
        expected.append(sum(terms) / len(terms) if terms else 0.0)
    assert Pairwise().rows(given).tolist() == pytest.approx(expected, rel=1e-12)


def test_hybrid_is_the_weighted_sum_and_its_neutral_weights_change_no_bit():
    given = example()
    both = Hybrid(pointwise=0.3, pairwise=2.0)(given)
    torch.testing.assert_close(both.loss, 0.3 * Pointwise()(given).loss + 2.0 * Pairwise()(given).loss)
    assert torch.equal(Hybrid(pointwise=1, pairwise=0)(given).loss, Pointwise()(given).loss)
    assert torch.equal(Hybrid(pointwise=0, pairwise=1)(given).loss, Pairwise()(given).loss)
    assert both.parts["pointwise"] == Pointwise()(given).loss


@pytest.mark.parametrize("weights", [(-1.0, 1.0), (0.0, 0.0), (math.nan, 1.0)])
def test_weights_that_make_no_loss_are_refused(weights):
    with pytest.raises(ValueError, match="weights"):
        Hybrid(*weights)
