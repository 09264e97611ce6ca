"""The expectation step against the table of all outcomes, and the maximisation against known chances."""

from __future__ import annotations

import pytest
import torch

from recsys.unbiased.click_models import PositionBased
from recsys.unbiased.regression_em import RegressionEM, expected
from recsys.unbiased.shown_lists import ShownLists
from tests.unbiased.lists import L, shown


@pytest.mark.parametrize("click", [0, 1])
@pytest.mark.parametrize(("t", "r"), [(0.3, 0.8), (0.9, 0.1), (0.5, 0.5)])
def test_posteriors_are_those_of_the_table_of_outcomes(t: float, r: float, click: int) -> None:
    """Outcomes are (examined, relevant), and a click is made where both hold."""
    table = {(e, v): (t if e else 1 - t) * (r if v else 1 - r) for e in (0, 1) for v in (0, 1)}
    left = {outcome: chance for outcome, chance in table.items() if outcome[0] * outcome[1] == click}
    both = [sum(chance for outcome, chance in left.items() if outcome[k]) / sum(left.values()) for k in (0, 1)]
    found = expected(torch.tensor([t]), torch.tensor([[r]]), torch.tensor([[float(click)]]))
    assert [value.item() for value in found] == pytest.approx(both, rel=1e-6)


def test_certain_examination_and_relevance_without_a_click_stay_finite() -> None:
    assert all(value.isfinite().all() for value in expected(torch.ones(2), torch.ones(1, 2), torch.zeros(1, 2)))


def test_chances_of_examination_are_found_where_relevance_is_known() -> None:
    draw, rho = torch.Generator().manual_seed(0), [0.8, 0.5, 0.2]
    loss, mask = RegressionEM(3, step=0.2), torch.ones(2048, 3, dtype=torch.bool)
    for _ in range(150):
        relevance = 0.05 + 0.9 * torch.rand(2048, 3, generator=draw)
        click = PositionBased(rho).draw(relevance, mask, draw).click
        loss(torch.logit(relevance), ShownLists(torch.zeros(2048, 3, 1), click, mask))
    assert loss.examination.tolist() == pytest.approx(rho, rel=0.03)
    assert loss.relative_propensities()[0].tolist() == pytest.approx([1.0, 0.625, 0.25], rel=0.03)


def test_padding_has_no_influence_and_validation_changes_nothing() -> None:
    scores, lists = shown()
    loss, other = RegressionEM(L).double(), RegressionEM(L).double()
    first = loss(scores, lists).loss
    assert torch.equal(first, other(scores.detach().masked_fill(~lists.mask, 9.0), lists).loss)
    assert torch.equal(loss.examination, other.examination) and (loss.examination != 0.9).all()
    before = loss.eval().examination.clone()
    loss(scores, lists)
    assert torch.equal(loss.examination, before)


@pytest.mark.parametrize("arguments", [{"step": 0.0}, {"initial": 1.0}])
def test_steps_and_chances_are_checked(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        RegressionEM(10, **arguments)
