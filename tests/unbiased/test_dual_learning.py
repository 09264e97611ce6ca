"""Dual learning against loops over lists, and what its two losses must not do to each other."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from recsys.unbiased.click_loss import ClickLoss, softmax_loss
from recsys.unbiased.dual_learning import DualLearning
from recsys.unbiased.inverse_propensity import InversePropensity, NaiveClicks
from recsys.unbiased.regression_em import RegressionEM
from recsys.unbiased.shown_lists import ShownLists
from tests.unbiased.lists import B, L, shown

RELATIVE = [1.0, 0.7, 0.4, 0.1]


def dual(relative: list[float] | None = RELATIVE, largest_weight: float | None = None) -> DualLearning:
    made = DualLearning(L, largest_weight=largest_weight).double()
    if relative is not None:
        made.propensity.set_relative(torch.tensor(relative, dtype=torch.float64))
    return made


def log_softmax(values: list[float]) -> list[float]:
    total = math.log(sum(math.exp(value) for value in values))
    return [value - total for value in values]


def by_loop(scores: Tensor, lists: ShownLists, logits: list[float], largest: float = math.inf) -> tuple[float, float]:
    """Ranker's and propensities' loss."""
    sums, amounts = [0.0, 0.0], [0.0, 0.0]
    for row in range(len(scores)):
        shown_here = [i for i in range(scores.shape[1]) if lists.mask[row, i]]
        f, g = [scores[row, i].item() for i in shown_here], [logits[i] for i in shown_here]
        for which, (of_loss, of_weight) in enumerate(((f, g), (g, f))):
            logs = log_softmax(of_loss)
            for place, column in enumerate(shown_here):
                if lists.click[row, column]:
                    amount = min(math.exp(of_weight[0] - of_weight[place]), largest)
                    sums[which] -= amount * logs[place]
                    amounts[which] += amount
    return sums[0] / amounts[0], sums[1] / amounts[1]


@pytest.mark.parametrize("largest", [None, 1.5])
def test_both_losses_are_the_sums_over_lists(largest: float | None) -> None:
    scores, lists = shown()
    output = dual(largest_weight=largest)(scores, lists)
    expected = by_loop(scores, lists, [math.log(r) for r in RELATIVE], largest or math.inf)
    assert output.parts["ranker"].item() == pytest.approx(expected[0], rel=1e-6)
    assert output.parts["propensity"].item() == pytest.approx(expected[1], rel=1e-6)
    assert output.loss.item() == pytest.approx(sum(expected), rel=1e-6)
    assert not any(part.requires_grad for part in output.parts.values())


def test_each_part_learns_from_its_own_loss_alone() -> None:
    """The gradients are those of weighted softmax losses whose weights are constants."""
    scores, lists = shown()
    loss = dual()
    of_scores, of_logits = torch.autograd.grad(loss(scores, lists).loss, [scores, loss.propensity.free])
    constant = (1 / torch.tensor(RELATIVE, dtype=torch.float64)).expand(B, L)
    ranker = softmax_loss(scores, lists.click * constant, lists.mask)
    torch.testing.assert_close(of_scores, torch.autograd.grad(ranker, scores)[0])
    logits = torch.tensor(RELATIVE, dtype=torch.float64).log().requires_grad_()
    weights = (scores[:, :1] - scores).exp().detach()
    propensity = softmax_loss(logits.expand(B, L), lists.click * weights, lists.mask)
    torch.testing.assert_close(of_logits[0], torch.autograd.grad(propensity, logits)[0][1:])


def test_the_scale_of_weights_is_irrelevant() -> None:
    scores, lists = shown()
    amount = lists.click * torch.rand(B, L, dtype=torch.float64)
    once, seven = (softmax_loss(scores, amount * factor, lists.mask) for factor in (1, 7))
    torch.testing.assert_close(once, seven, rtol=1e-12, atol=0)


def test_propensities_at_the_truth_are_inverse_propensity_weighting() -> None:
    """Loss and gradient bit for bit, so that equal seeds give equal rankers."""
    scores, lists = shown()
    fixed, given = dual().float(), InversePropensity(RELATIVE)
    fixed.propensity.set_relative(torch.tensor(RELATIVE))
    scores = scores.detach().float().requires_grad_()
    lists = lists._replace(click=lists.click.float())
    ours, theirs = fixed(scores, lists), given(scores, lists)
    assert torch.equal(ours.parts["ranker"], theirs.loss)
    assert torch.equal(torch.autograd.grad(ours.loss, scores)[0], torch.autograd.grad(theirs.loss, scores)[0])


def test_the_first_step_is_that_of_naive_clicks() -> None:
    scores, lists = shown()
    ours, naive = dual(relative=None)(scores, lists), NaiveClicks()(scores, lists)
    assert torch.equal(ours.parts["ranker"], naive.loss)
    assert torch.equal(InversePropensity([1.0] * L)(scores, lists).loss, naive.loss)


def test_weights_are_against_the_document_shown_first_and_not_against_the_best() -> None:
    scores = torch.tensor([[0.0, 3.0, 1.0]], dtype=torch.float64)
    lists = ShownLists(torch.zeros(1, 3, 1), torch.ones(1, 3).double(), torch.ones(1, 3, dtype=torch.bool))
    loss = DualLearning(3, largest_weight=None).double()
    weights = [1.0, math.exp(-3.0), math.exp(-1.0)]
    (gradient,) = torch.autograd.grad(loss(scores, lists).loss, loss.propensity.free)
    expected = [1 / 3 - weight / sum(weights) for weight in weights]
    assert gradient[0].tolist() == pytest.approx(expected[1:], rel=1e-6)


def test_order_of_the_shown_list_decides() -> None:
    """The same documents and clicks in another order are another log."""
    scores, lists = shown()
    loss = dual()
    whole = lists._replace(mask=torch.ones_like(lists.mask))
    turned = whole._replace(click=whole.click.flip(1))
    assert not torch.isclose(loss(scores.flip(1), turned).parts["ranker"], loss(scores, whole).parts["ranker"])
    torch.testing.assert_close(NaiveClicks()(scores.flip(1), turned).loss, NaiveClicks()(scores, whole).loss)


def test_clip_cuts_weights_and_says_how_many() -> None:
    """Of the clicked documents alone."""
    scores, lists = shown()
    output = dual(largest_weight=1.5)(scores, lists)
    heavy = [RELATIVE[i] < 1 / 1.5 for _, i in lists.click.nonzero().tolist()]
    assert output.parts["clipped_examination"].item() == pytest.approx(sum(heavy) / len(heavy))
    far = [(scores[r, 0] - scores[r, i]).exp().item() > 1.5 for r, i in lists.click.nonzero().tolist()]
    assert 0 < sum(far) < len(far) and output.parts["clipped_relevance"].item() == pytest.approx(sum(far) / len(far))
    free = dual()(scores, lists)
    assert free.parts["clipped_examination"] == 0 and not torch.isclose(free.loss, output.loss)


def test_padding_has_no_influence() -> None:
    scores, lists = shown()
    loss = dual()
    other = scores.detach().masked_fill(~lists.mask, 90.0).requires_grad_()
    clicked = lists._replace(click=lists.click.masked_fill(~lists.mask, 1.0))
    assert torch.equal(loss(other, clicked).loss, loss(scores, lists).loss)
    (gradient,) = torch.autograd.grad(loss(other, clicked).loss, other)
    assert not gradient[~lists.mask].any() and gradient.isfinite().all()


def test_lists_without_clicks_add_nothing() -> None:
    scores, lists = shown()
    kept = lists.click.any(1)
    assert 0 < kept.sum() < B
    torch.testing.assert_close(dual()(scores[kept], lists.clicked()).loss, dual()(scores, lists).loss)
    nothing = lists._replace(click=torch.zeros_like(lists.click))
    loss = dual()
    output = loss(scores, nothing)
    assert output.loss == 0 and all(part.isfinite() for part in output.parts.values())
    assert all(not g.any() for g in torch.autograd.grad(output.loss, [scores, loss.propensity.free]))


@pytest.mark.parametrize("largest", [None, 50.0])
def test_scores_far_apart_stay_finite(largest: float | None) -> None:
    scores, lists = shown()
    far = (scores.detach().float() * 1e4).requires_grad_()
    loss = dual(largest_weight=largest).float()
    output = loss(far, lists._replace(click=lists.click.float()))
    assert output.loss.isfinite() and torch.autograd.grad(output.loss, far)[0].isfinite().all()


def test_short_scores_are_summed_in_float32() -> None:
    scores, lists = shown()
    output = dual().float()(scores.detach().bfloat16(), lists._replace(click=lists.click.float()))
    assert output.loss.dtype == torch.float32


def test_contexts_learn_apart() -> None:
    scores, lists = shown()
    loss = DualLearning(L, contexts=2).double()
    with torch.no_grad():
        loss.propensity.free.normal_(generator=torch.Generator().manual_seed(0))
    context = torch.tensor([0, 0, 0, 1, 1, 1])
    both = loss(scores, lists._replace(context=context))
    (gradient,) = torch.autograd.grad(both.loss, loss.propensity.free, retain_graph=True)
    alone = DualLearning(L).double()
    alone.propensity.set_relative(loss.propensity.relative()[1])
    first = lists._replace(click=lists.click * (context == 1).unsqueeze(1))
    (own,) = torch.autograd.grad(alone(scores, first).loss, alone.propensity.free)
    assert torch.nn.functional.cosine_similarity(gradient[1], own[0], dim=0) > 0.999999
    with pytest.raises(ValueError, match="context of each list"):
        loss(scores, lists)


def test_a_bound_below_one_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 1"):
        DualLearning(10, largest_weight=0.5)
    with pytest.raises(ValueError, match="at least 1"):
        InversePropensity([1.0], largest_weight=0.5)


def test_longer_lists_than_positions_are_refused() -> None:
    scores, lists = shown()
    for loss in (DualLearning(L - 1), InversePropensity([1.0] * (L - 1))):
        with pytest.raises(ValueError, match=f"lists of {L} positions"):
            loss(scores, lists)


@pytest.mark.parametrize("loss", [dual(), InversePropensity(RELATIVE), NaiveClicks(), RegressionEM(L).double()])
def test_lists_without_documents_add_nothing(loss: ClickLoss) -> None:
    """As a process gets one that has no part in the last batch."""
    scores, lists = shown()
    emptied = lists._replace(mask=lists.mask & (torch.arange(B) != 3).unsqueeze(1), click=lists.click.clone())
    others = torch.arange(B) != 3
    kept = ShownLists(lists.features[others], lists.click[others], lists.mask[others])
    (gradient,) = torch.autograd.grad(copy.deepcopy(loss)(scores, emptied).loss, scores)
    (expected,) = torch.autograd.grad(copy.deepcopy(loss)(scores[others], kept).loss, scores)
    torch.testing.assert_close(gradient, expected)
    assert not gradient[3].any()
