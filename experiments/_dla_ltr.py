"""Cells of judged queries: the learning-to-rank example of LightGBM, shown by a ranker that knows few of its grades."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from functools import cache
from typing import Any

import lightning as L
import torch
from _dla_cells import TOP, USERS, Cell, Training, World, run
from torch import Tensor

from recsys.features.judged_queries import load_judged
from recsys.losses.base import SlotScores
from recsys.losses.pairwise import Pairwise
from recsys.models.ltr_scorer import PointwiseScorer
from recsys.training.listwise import ListwiseModule
from recsys.unbiased.sessions import Sessions
from recsys.unbiased.shown_lists import ShownLists
from recsys.unbiased.synthetic_lists import JudgedLists

NAME, RANKER = "ltr_lightgbm", "linear"
METHODS = ("naive", "ipw_random", "ipw_true", "regression_em", "dual", "labels")


@dataclass(frozen=True)
class LtrSize(Training):
    """How the training queries are shared out and what is drawn; the smoke test has less of the latter.

    Attributes:
        production: queries whose grades train the production ranker; they are not shown.
        held_out: queries whose clicks choose the step at which a ranker is judged.
        validating: sessions of the held-out queries.
        every: steps between two looks at them.
    """

    steps: int = 2000
    production: int = 10
    held_out: int = 40
    validating: int = 100_000
    every: int = 50

    def make_world(self, ranker: str) -> World:
        made = queries(self)
        return World(made.shown, made.test)


SMOKE = LtrSize(steps=20, batch_size=64, shuffled=100_000, counted=100_000, validating=1000, every=5)


@dataclass(frozen=True)
class LtrCell(Cell):
    """One training."""

    @property
    def name(self) -> str:
        """Of its file."""
        return f"ltr-{super().name}"


def ltr_cells(seeds: int) -> list[Cell]:
    """Five severities; labels do not depend on them."""
    made = [
        LtrCell("position", 0.0 if method == "labels" else eta, RANKER, None, method, seed)
        for eta in (0.0, 0.5, 1.0, 1.5, 2.0)
        for method in METHODS
        for seed in range(seeds)
    ]
    return list(dict.fromkeys(made))


@dataclass(frozen=True)
class Queries:
    """The queries of the set; those that are shown are in the order of the production ranker, and cut.

    Attributes:
        shown: are clicked for training.
        held_out: are clicked for validation.
        test: whole lists.
    """

    shown: JudgedLists
    held_out: JudgedLists
    test: JudgedLists


@cache
def queries(size: LtrSize) -> Queries:
    """Of one draw of the training queries, the same for every cell."""
    train, test = (JudgedLists(*map(torch.from_numpy, load_judged(NAME)[part])) for part in ("train", "test"))
    documents = train.features[train.mask]
    train, test = (standardised(lists, documents) for lists in (train, test))
    drawn = torch.randperm(len(train.label), generator=torch.Generator().manual_seed(0))
    judged, held_out, shown = drawn.split(
        [size.production, size.held_out, len(drawn) - size.production - size.held_out]
    )
    ranker = production_ranker(_some(train, judged))
    with torch.no_grad():
        made = [lists.in_order(ranker(lists.features), TOP) for lists in (_some(train, shown), _some(train, held_out))]
    return Queries(*made, test)


def standardised(lists: JudgedLists, documents: Tensor) -> JudgedLists:
    """With the mean and the standard deviation of documents `[R, F]`; padding stays zero.

    The features of the set lie between 0 and 1, so that no logarithm is taken; those without deviation are centred.
    """
    deviation = documents.std(0, correction=0)
    values = (lists.features - documents.mean(0)) / torch.where(deviation > 0, deviation, 1.0)
    return lists._replace(features=values * lists.mask.unsqueeze(-1))


def _some(lists: JudgedLists, which: Tensor) -> JudgedLists:
    return JudgedLists(*(column[which] for column in lists))


def production_ranker(judged: JudgedLists, penalty: float = 0.01) -> PointwiseScorer:
    """A linear ranker of the pairwise logistic loss, each document against those of its query with lower grades.

    Args:
        judged: its training queries.
        penalty: of the squared norm of its weights.
    """
    lower = (judged.label.unsqueeze(2) > judged.label.unsqueeze(1)) & judged.mask.unsqueeze(1)
    query, own = (lower.any(2) & judged.mask).nonzero(as_tuple=True)
    valid = torch.cat([torch.ones(len(query), 1, dtype=torch.bool), lower[query, own]], dim=1)
    scorer, action = PointwiseScorer(judged.features.shape[2], hidden=()), torch.zeros(len(query), dtype=torch.int64)
    for weights in scorer.parameters():
        torch.nn.init.zeros_(weights)  # the loss is convex
    optimizer = torch.optim.LBFGS(scorer.parameters(), max_iter=200, line_search_fn="strong_wolfe")

    def step() -> float:
        optimizer.zero_grad()
        scores = scorer(judged.features)
        slots = torch.cat([scores[query, own].unsqueeze(1), scores[query]], dim=1)
        loss: Tensor = Pairwise()(SlotScores(slots.unsqueeze(2), action, valid)).loss
        loss = loss + penalty * sum(weights.square().sum() for weights in scorer.parameters())
        loss.backward()
        return loss.item()

    optimizer.step(step)
    return scorer


class BestByClicks(L.Callback):
    """Goes back to the scorer that puts most of the clicks on held-out lists at the top.

    A click counts by the inverse of its position's propensity, and by `1 / log2(rank + 1)` of the place that the scorer
    gives its document. Propensities are those that the loss has in the end, the same for all looks: with flatter ones
    the shown order looks better than it is. Without propensities all clicks count the same.

    Args:
        lists: held out, `click` being the numbers of clicks.
        every: steps between two looks.

    Attributes:
        chosen: step of the scorer that was kept.
    """

    def __init__(self, lists: ShownLists, every: int):
        self.lists, self.every, self.chosen = lists, every, 0
        self.looks: list[tuple[int, Tensor, dict[str, Any]]] = []

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: L.LightningModule, *_: Any) -> None:
        assert isinstance(pl_module, ListwiseModule)
        if trainer.global_step % self.every == 0:
            with torch.no_grad():
                scores = pl_module(self.lists.features)
            self.looks.append((trainer.global_step, scores, deepcopy(pl_module.scorer.state_dict())))

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        assert isinstance(pl_module, ListwiseModule)
        found = pl_module.loss.relative_propensities()
        amount = self.lists.click if found is None else self.lists.click / found
        self.chosen, _, best = max(self.looks, key=lambda look: discounted(look[1], amount, self.lists.mask))
        pl_module.scorer.load_state_dict(best)


def discounted(scores: Tensor, amount: Tensor, mask: Tensor) -> float:
    """Share of the amounts `[Q, L]` that is left when each is divided by `log2(rank + 1)` of its document."""
    order = scores.masked_fill(~mask, -torch.inf).argsort(dim=1, descending=True, stable=True)
    rank = torch.arange(1, scores.shape[1] + 1, dtype=torch.float64)
    return float(((amount * mask).gather(1, order) / torch.log2(rank + 1)).sum() / (amount * mask).sum())


def held_out_clicks(cell: Cell, size: LtrSize) -> ShownLists:
    """The held-out lists with the clicks of all their sessions; of labels: with their gains."""
    lists = queries(size).held_out
    click = torch.exp2(lists.label.float()) - 1
    if cell.method != "labels":
        sessions = Sessions(lists, USERS[cell.users](cell.eta), clicked_only=False, seed=40_001 + cell.seed)
        query, clicked = sessions.draw(size.validating)
        click = torch.zeros_like(click).index_add(0, query, clicked)
    return ShownLists(lists.features, click, lists.mask)


def run_ltr(cell: Cell, size: LtrSize) -> dict[str, Any]:
    """Trains and judges one cell."""
    best = BestByClicks(held_out_clicks(cell, size), size.every)
    return run(cell, size, [best]) | {"chosen_step": best.chosen}
