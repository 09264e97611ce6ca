"""What every loss over clicked lists must do; a new one is tested by existing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from torch import Tensor

import recsys.unbiased
from recsys.losses.base import LossOutput
from recsys.unbiased.click_loss import ClickLoss
from recsys.unbiased.shown_lists import ShownLists
from tests.contract.classes import Settings, build, check_docstring, check_refusals, concrete
from tests.unbiased.lists import B, L, shown

RELATIVE = [1.0, 0.6, 0.3, 0.1]

SETTINGS: dict[str, list[Settings]] = {
    "DualLearning": [{"positions": L}, {"positions": L, "contexts": 2, "largest_weight": None}],
    "InversePropensity": [{"relative": RELATIVE}, {"relative": RELATIVE, "largest_weight": 2.0}],
}
"""What a loss is made with, by class; without a row it is made with its defaults."""

REFUSED: dict[str, list[Settings]] = {
    "DualLearning": [{"largest_weight": 0.9}, {"largest_weight": math.nan}, {"positions": 0}, {"contexts": 0}],
    "InversePropensity": [
        {"relative": []},
        {"relative": [1.0, 0.0]},
        {"relative": [1.0, -1.0]},
        {"relative": [1.0, math.nan]},
        {"relative": [math.inf, 1.0]},
        {"largest_weight": 0.9},
    ],
    "RegressionEM": [{"step": 0.0}, {"step": 1.1}, {"step": math.nan}, {"initial": 0.0}, {"initial": 1.0}],
}

LOSSES = list(concrete(recsys.unbiased, ClickLoss))


@dataclass(frozen=True)
class Case:
    """A loss, made anew for every batch since it may learn from one, and what it is given."""

    kind: type[ClickLoss]
    settings: Settings
    scores: Tensor
    lists: ShownLists

    def loss(self) -> ClickLoss:
        """The loss, whose parameters are not those of the start, at which all weights are one."""
        loss = build(self.kind, self.settings).to(torch.promote_types(self.scores.dtype, torch.float32))
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for parameter in loss.parameters():
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
        return loss

    def __call__(self) -> LossOutput:
        output: LossOutput = self.loss()(self.scores, self.lists)
        return output

    def gradients(self) -> list[Tensor]:
        """Those of the scores, and of the parameters of the loss."""
        loss = self.loss()
        return list(torch.autograd.grad(loss(self.scores, self.lists).loss, [self.scores, *loss.parameters()]))

    def given(self, scores: Tensor | None = None, **fields: Any) -> Case:
        """The same loss of other scores or lists."""
        scores = self.scores if scores is None else scores.detach().clone().requires_grad_()
        return replace(self, scores=scores, lists=self.lists._replace(**fields))

    def rows(self, rows: Tensor) -> Case:
        """These of the lists."""
        return self.given(self.scores[rows], **{name: value[rows] for name, value in self.lists._asdict().items()})

    def cast(self, dtype: torch.dtype) -> Case:
        """Scores in this type, and clicks in one that is at least float32."""
        click = self.lists.click.to(torch.promote_types(dtype, torch.float32))
        return self.given(self.scores.to(dtype), click=click)


def cases() -> Iterator[Any]:
    scores, lists = shown()
    lists = lists._replace(context=torch.arange(B) % 2)
    for kind in LOSSES:
        for number, settings in enumerate(SETTINGS.get(kind.__name__, [{}])):
            name = kind.__name__ + (f" {number}" if number else "")
            yield pytest.param(Case(kind, settings, scores, lists), id=name)


every_case = pytest.mark.parametrize("case", list(cases()))
every_class = pytest.mark.parametrize("kind", [pytest.param(kind, id=kind.__name__) for kind in LOSSES])


def assert_same(found: Case, expected: Case, rtol: float = 1e-12, atol: float = 1e-14) -> None:
    torch.testing.assert_close(found().loss, expected().loss, rtol=rtol, atol=atol)
    for a, b in zip(found.gradients()[1:], expected.gradients()[1:], strict=True):
        torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def test_the_losses_are_found() -> None:
    assert {"NaiveClicks", "InversePropensity", "DualLearning", "RegressionEM"} <= {kind.__name__ for kind in LOSSES}


@every_class
def test_says_where_it_comes_from_or_shows_its_use(kind: type) -> None:
    check_docstring(kind)


@every_class
def test_refuses_what_it_says_that_it_refuses(kind: type) -> None:
    check_refusals(kind, REFUSED, SETTINGS.get(kind.__name__, [{}])[0])


@every_case
def test_is_a_finite_scalar_with_detached_parts(case: Case) -> None:
    loss, parts = case()
    assert loss.shape == () and loss.isfinite() and loss.requires_grad and loss > 0
    assert torch.equal(parts["loss"], loss)
    assert all(part.shape == () and part.isfinite() and not part.requires_grad for part in parts.values())


@every_case
def test_every_clicked_list_moves_its_scores_and_padding_has_no_gradient(case: Case) -> None:
    gradient = case.gradients()[0]
    assert gradient[case.lists.click.any(1)].any(1).all()
    assert not gradient[~case.lists.mask].any()


@every_case
def test_a_click_is_better_explained_by_a_higher_score(case: Case) -> None:
    """The gradient pushes the only document up that was clicked in a list, in the first position or further down."""
    for position in range(2):
        click = torch.zeros(B, L, dtype=torch.float64).index_fill(1, torch.tensor([position]), 1.0)
        assert (case.given(click=click).gradients()[0][:, position] < 0).all()


@every_case
def test_the_ranker_and_the_model_of_examination_do_not_train_each_other(case: Case) -> None:
    """Each is a constant in the gradient of the other, else weights would be made small in place of fitting clicks."""
    loss = case.loss()
    parameters = list(loss.parameters())
    (gradient,) = torch.autograd.grad(loss(case.scores, case.lists).loss, case.scores, create_graph=True)
    crossed = torch.autograd.grad((gradient * gradient.detach()).sum(), [case.scores, *parameters], allow_unused=True)
    assert crossed[0] is not None  # of the scores on themselves
    assert all(one is None or not one.any() for one in crossed[1:])


@every_case
def test_float32_and_float64_agree(case: Case) -> None:
    short = case.cast(torch.float32)
    long = short.cast(torch.float64)
    torch.testing.assert_close(short().loss.double(), long().loss, rtol=1e-5, atol=0)
    for a, b in zip(short.gradients(), long.gradients(), strict=True):
        torch.testing.assert_close(a.double(), b, rtol=1e-4, atol=1e-6)


@every_case
def test_bfloat16_scores_are_summed_in_float32(case: Case) -> None:
    short = case.cast(torch.bfloat16)
    assert short().loss.dtype == torch.float32
    torch.testing.assert_close(short().loss, short.cast(torch.float32)().loss, rtol=1e-6, atol=0)


@every_case
def test_order_of_lists_is_irrelevant(case: Case) -> None:
    assert_same(case.rows(torch.randperm(B, generator=torch.Generator().manual_seed(5))), case)


@every_case
def test_is_a_mean_over_lists(case: Case) -> None:
    assert_same(case.rows(torch.arange(B).repeat(3)), case)


@every_case
def test_lists_without_documents_change_nothing(case: Case) -> None:
    longer = case.rows(torch.tensor([*range(B), 0, 0]))
    there = (torch.arange(B + 2) < B).unsqueeze(1)
    emptied = longer.given(click=longer.lists.click * there, mask=longer.lists.mask & there)
    assert_same(emptied, case)
    assert torch.equal(emptied.gradients()[0][B:], torch.zeros(2, L, dtype=torch.float64))


@every_case
@pytest.mark.parametrize("fill", [-40.0, 40.0])
def test_padding_changes_nothing(case: Case, fill: float) -> None:
    padding = ~case.lists.mask
    features, click = (
        case.lists.features.masked_fill(padding.unsqueeze(-1), fill),
        case.lists.click.masked_fill(padding, 1),
    )
    filled = case.given(case.scores.masked_fill(padding, fill), features=features, click=click)
    assert_same(filled, case)
    assert torch.equal(filled.gradients()[0][padding], torch.zeros_like(case.scores[padding]))


@every_case
def test_nothing_shown_and_nothing_clicked_gives_zero(case: Case) -> None:
    nothing = case.given(click=torch.zeros_like(case.lists.click), mask=torch.zeros_like(case.lists.mask))
    for empty in (nothing, nothing.rows(torch.arange(0))):
        loss, parts = empty()
        assert loss == 0 and all(part.isfinite() for part in parts.values())
        assert not any(gradient.any() for gradient in empty.gradients())


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_extreme_scores_stay_finite(case: Case, dtype: torch.dtype) -> None:
    sign = case.scores.detach().sign()
    for factor, size in itertools.product((sign, -sign, sign.abs(), -sign.abs()), (40.0, 1e4)):
        extreme = case.given(factor * size).cast(dtype)
        loss, parts = extreme()
        assert loss.isfinite() and all(part.isfinite() for part in parts.values())
        assert all(gradient.isfinite().all() for gradient in extreme.gradients())
        # What it has learned from such a batch goes on to be finite.
        learned = extreme.loss()
        learned(extreme.scores, extreme.lists)
        assert all(value.isfinite().all() for value in learned.state_dict().values())


@every_case
def test_evaluation_changes_no_state(case: Case) -> None:
    loss = case.loss().eval()
    before = {name: value.clone() for name, value in loss.state_dict().items()}
    assert torch.equal(loss(case.scores, case.lists).loss, loss(case.scores, case.lists).loss)
    assert all(torch.equal(value, before[name]) for name, value in loss.state_dict().items())


@every_case
def test_propensities_are_relative_to_the_first_position_and_bound_the_lists(case: Case) -> None:
    loss = case.loss()
    relative = loss.relative_propensities()
    if relative is None:
        assert not loss.state_dict()
        return
    assert relative.dim() == 2 and relative.shape[1] >= L and (relative > 0).all() and not relative.requires_grad
    assert torch.equal(relative[:, 0], torch.ones_like(relative[:, 0]))
    longer = relative.shape[1] + 1
    mask = torch.ones(B, longer, dtype=torch.bool)
    lists = ShownLists(torch.zeros(B, longer, 1), mask.double(), mask, case.lists.context)
    with pytest.raises(ValueError, match=f"lists of {longer} positions"):
        loss(torch.zeros(B, longer, dtype=torch.float64), lists)
