"""Ranking from slates against a loop over requests."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from recsys.features.batch import SequenceBatch
from recsys.features.catalogue import Catalogue
from recsys.features.negatives import Uniform
from recsys.features.slate_batches import BatchWithSlates, SlateBatches
from recsys.features.slate_table import SlateTable
from recsys.features.slates import SlateBatch
from recsys.features.splits import LeaveLastOut
from recsys.losses.info_nce import InfoNCE
from recsys.models.synergen import SynerGen
from recsys.training.joint_objective import JointObjective
from recsys.training.objective import Objective, ObjectiveError, RetrievalObjective
from recsys.training.with_slates import WithSlates, shown_scores
from recsys.unbiased.click_loss import ClickLoss
from recsys.unbiased.dual_learning import DualLearning
from recsys.unbiased.identifiability import position_r2, scores_r2
from recsys.unbiased.inverse_propensity import InversePropensity, NaiveClicks
from recsys.unbiased.regression_em import RegressionEM
from tests.features.slates import LONGEST, shown, toy_log

CPU = torch.device("cpu")
pytestmark = pytest.mark.filterwarnings("ignore")
LOSSES: dict[str, Callable[[], ClickLoss]] = {
    "naive": NaiveClicks,
    "inverse": lambda: InversePropensity([1.0, 0.7, 0.5, 0.3, 0.2]),
    "em": lambda: RegressionEM(LONGEST),
    "dual": lambda: DualLearning(LONGEST),
}


def made(per_step: int = 30, context: str | None = None) -> tuple[SynerGen, BatchWithSlates]:
    split = LeaveLastOut()(toy_log())
    slates = SlateTable(shown(), query="query", context=context).read(split.log).trainable(split)
    torch.manual_seed(0)
    network = SynerGen(Catalogue.from_split(split), width=16, layers=2, dropout=0.0, ranking=True)
    assert network.head is not None
    torch.nn.init.normal_(network.head.out.weight)  # it starts at zero, where all scores are those of retrieval
    return network, next(iter(SlateBatches(split, slates, per_step, 8, 50)))


def objective(loss: ClickLoss | None = None, weight: float = 1.0) -> WithSlates:
    main = JointObjective(InfoNCE(0.1), Uniform(20))
    return WithSlates(main, loss if loss is not None else DualLearning(LONGEST), weight)


def ready(made: Objective, network: SynerGen) -> Objective:
    made.setup(network.catalogue, 3, CPU)
    return made


def one_slate(batch: SlateBatch, row: int) -> tuple[Any, Tensor]:
    """The history of one request alone, and its items."""
    known = batch.histories
    assert known.query is not None and known.request_query is not None and known.request_timestamp is not None
    span = slice(*known.offsets[row : row + 2].tolist())
    history = type(known).build(
        user_id=known.user_id[row : row + 1],
        lengths=known.lengths[row : row + 1],
        item_id=known.item_id[span],
        timestamp=known.timestamp[span],
        extra={"action": known.features["action"].values()[span]},
        queries=known.queries,
        query=known.query[span],
        request_query=known.request_query[row : row + 1],
        request_timestamp=known.request_timestamp[row : row + 1],
    )
    return history, batch.item[row][batch.item[row] > 0]


def test_scores_are_those_of_each_item_alone_at_each_request() -> None:
    """A slate of one user and one item at a time: no item sees the other slots, and no user the others."""
    network, batch = made(per_step=12)
    assert batch.slates is not None
    scores, lists = shown_scores(network, batch.slates)
    seen = 0
    for row in range(len(batch.slates)):
        history, items = one_slate(batch.slates, row)
        alone = [network.candidate_scores(history, item.view(1, 1)).item() for item in items]
        torch.testing.assert_close(scores[row][lists.mask[row]], torch.tensor(alone), rtol=1e-4, atol=1e-5)
        seen += len(alone)
    assert seen == int(lists.mask.sum()) and scores.requires_grad


def test_a_score_does_not_depend_on_what_stands_beside_it() -> None:
    network, batch = made()
    assert batch.slates is not None
    item = batch.slates.item.clone()
    item[:, 1:] = torch.where(item[:, 1:] > 0, item[:, 1:] % network.n_items + 1, 0)
    before, _ = shown_scores(network, batch.slates)
    after, _ = shown_scores(network, replace(batch.slates, item=item, click=1 - batch.slates.click))
    torch.testing.assert_close(before[:, 0], after[:, 0], rtol=1e-5, atol=1e-6)
    assert not torch.allclose(before[:, 1], after[:, 1])


def loop_loss(name: str, scores: Tensor, click: Tensor, mask: Tensor) -> float:
    """Losses at the start, list by list: all examined alike, but for given propensities."""
    relative = [1.0, 0.7, 0.5, 0.3, 0.2]
    amounts = losses = relevance = 0.0
    for row in range(len(scores)):
        there = [place for place in range(scores.shape[1]) if mask[row, place]]
        total = math.log(sum(math.exp(scores[row, place].item()) for place in there))
        for place in there:
            s, c = scores[row, place].item(), click[row, place].item()
            if name == "em":
                t, r = 0.9, 1 / (1 + math.exp(-s))
                expected = c + (1 - c) * r * (1 - t) / (1 - t * r)
                losses += -expected * math.log(r) - (1 - expected) * math.log(1 - r)
                amounts += 1
                continue
            weight = c / relative[place] if name == "inverse" else c
            losses += weight * (total - s)
            amounts += weight
            if name == "dual":
                relevance += c * min(math.exp(scores[row, 0].item() - s), 50.0)
    value = losses / amounts
    if name == "dual":  # all logits are equal: each list's softmax is uniform over its places
        weighted = sum(
            click[row, place].item()
            * min(math.exp((scores[row, 0] - scores[row, place]).item()), 50.0)
            * math.log(int(mask[row].sum()))
            for row in range(len(scores))
            for place in range(scores.shape[1])
            if mask[row, place]
        )
        value += weighted / relevance
    return value


@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_is_that_of_a_loop_over_requests(name: str) -> None:
    network, batch = made()
    assert batch.slates is not None
    whole = ready(objective(LOSSES[name](), weight=0.5), network)
    main = ready(JointObjective(InfoNCE(0.1), Uniform(20)), network)(network, batch).loss
    loss, parts = whole(network, batch)
    scores, lists = shown_scores(network, batch.slates)
    assert lists.mask.all(0).tolist() != [True] * LONGEST and (lists.mask.sum(1) > 0).all()
    expected = loop_loss(name, scores.detach(), lists.click, lists.mask)
    assert parts["slates_loss"].item() == pytest.approx(expected, rel=1e-4)
    assert loss.item() == pytest.approx(main.item() + 0.5 * expected, rel=1e-5) == parts["loss"].item()
    r2 = position_r2([lists._replace(features=scores.detach().unsqueeze(-1))])
    assert parts["slates_position_r2"].item() == pytest.approx(r2) and 0 < r2 < 1


def gradients(loss: Tensor, weights: list[Any]) -> list[Tensor]:
    found = torch.autograd.grad(loss, weights, retain_graph=True, allow_unused=True)
    return [torch.zeros_like(w) if g is None else g.to_dense() for g, w in zip(found, weights, strict=True)]


def test_ranker_and_propensities_learn_from_their_own_losses_alone() -> None:
    """With propensities that are held the network learns the same, and they with a network that is held."""
    network, batch = made()
    assert batch.slates is not None
    dual = DualLearning(LONGEST)
    with torch.no_grad():
        dual.propensity.free.copy_(torch.tensor([[-0.2, -0.5, -0.9, -1.5]]))
    given = InversePropensity(dual.relative_propensities()[0].tolist(), largest_weight=dual.largest_weight)
    weights = list(network.parameters())
    results = []
    for loss in (dual, given):
        scores, lists = shown_scores(network, batch.slates)
        results.append(gradients(loss(scores, lists).loss, weights))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    assert any(bool(gradient.any()) for gradient in results[0])
    scores, lists = shown_scores(network, batch.slates)
    learned = torch.autograd.grad(dual(scores, lists).loss, dual.propensity.free)[0]
    held = torch.autograd.grad(dual(scores.detach(), lists).loss, dual.propensity.free)[0]
    assert torch.equal(learned, held) and bool(held.any())


def test_contexts_have_propensities_of_their_own() -> None:
    network, batch = made(context="device")
    dual = DualLearning(LONGEST, contexts=2)
    whole = ready(objective(dual), network)
    assert batch.slates is not None and batch.slates.context is not None
    click = batch.slates.click * (batch.slates.context == 1).unsqueeze(1)
    whole(network, replace(batch, slates=replace(batch.slates, click=click))).loss.backward()
    assert dual.propensity.free.grad is not None
    assert not dual.propensity.free.grad[0].any() and dual.propensity.free.grad[1].any()


def test_who_has_neither_history_nor_query_is_an_empty_list() -> None:
    network, batch = made()
    assert batch.slates is not None
    quiet = SynerGen(network.catalogue, width=16, layers=1, ranking=True, queries=False)
    slates = batch.slates
    rows = slates.histories.lengths == 0
    assert rows.any()  # they search, and this network does not read what for
    _, lists = shown_scores(quiet, slates)
    assert not lists.mask[rows].any() and not lists.click[rows].any() and lists.mask[~rows].any(1).all()
    assert shown_scores(network, slates)[1].mask.any(1).all()


def test_what_does_not_fit_is_refused() -> None:
    network, batch = made()
    with pytest.raises(ValueError, match="at least 0, not -1"):
        objective(weight=-1.0)
    plain = SequenceBatch(**{name: part for name, part in vars(batch).items() if name != "slates"})
    with pytest.raises(ObjectiveError, match=r"set `data\.slates`"):
        ready(objective(), network)(network, plain)
    headless = SynerGen(network.catalogue, width=16, layers=1)
    with pytest.raises(ObjectiveError, match="set `ranking: true`"):
        ready(objective(), headless)(headless, batch)


def test_what_scores_tell_of_positions_is_a_regression_on_them() -> None:
    network, batch = made()
    assert batch.slates is not None
    scores, lists = shown_scores(network, batch.slates)
    mask = lists.mask & (torch.rand(scores.shape, generator=torch.Generator().manual_seed(0)) < 0.8)
    expected = position_r2([lists._replace(features=scores.detach().unsqueeze(-1) * mask.unsqueeze(-1), mask=mask)])
    assert (
        scores_r2(scores, mask).item() == pytest.approx(expected, rel=1e-6)
        and not scores_r2(scores, mask).requires_grad
    )
    assert scores_r2(torch.zeros_like(scores), mask) == scores_r2(scores, torch.zeros_like(mask)) == 0


def test_retrieval_objectives_take_slates_too() -> None:
    network, batch = made()
    whole = ready(WithSlates(RetrievalObjective(InfoNCE(0.1), Uniform(20)), NaiveClicks()), network)
    loss, parts = whole(network, batch)
    assert loss.isfinite() and "slates_loss" in parts and whole.lookups == 2 and objective(weight=0.0).lookups == 1
