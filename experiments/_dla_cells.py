"""The cells of the study of dual learning: a world, users, a method and a seed; and how one is trained and judged."""

from __future__ import annotations

import abc
import logging
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from typing import Any

import lightning as L
import torch
from torch import Tensor

from recsys.evaluation.graded import graded_metrics
from recsys.models.ltr_scorer import PointwiseScorer
from recsys.training.callbacks import interruptible
from recsys.training.list_data import ListBatches
from recsys.training.listwise import ListwiseModule
from recsys.unbiased.click_loss import ClickLoss
from recsys.unbiased.click_models import Cascade, ClickModel, PositionBased, TrustBias, UserBrowsing
from recsys.unbiased.dual_learning import DualLearning
from recsys.unbiased.identifiability import position_r2
from recsys.unbiased.inverse_propensity import InversePropensity, NaiveClicks
from recsys.unbiased.randomisation import shuffled_propensities
from recsys.unbiased.regression_em import RegressionEM
from recsys.unbiased.sessions import Sessions
from recsys.unbiased.shown_lists import ShownLists
from recsys.unbiased.synthetic_lists import JudgedLists, SyntheticQueries

TOP, CHUNK = 10, 100_000
USERS: dict[str, Callable[[float], ClickModel]] = {
    "position": lambda eta: PositionBased(eta=eta),
    "trust": lambda eta: TrustBias(eta=eta),
    "browsing": lambda eta: UserBrowsing(eta=eta),
    "cascade": lambda eta: Cascade(satisfied=0.5),
}
RANKERS: dict[str, dict[str, float]] = {
    "weak": {"linear": 0.3, "curved": 0.0, "noise": 1.0},
    "medium": {"linear": 0.7, "curved": 0.0, "noise": 1.0},
    "strong": {"linear": 1.0, "curved": 1.0, "noise": 0.1},
}
METHODS = ("naive", "ipw_random", "ipw_true", "regression_em", "dual", "dual_clip_10", "labels")


@dataclass(frozen=True)
class World:
    """Shown training lists and whole test lists."""

    shown: JudgedLists
    test: JudgedLists


@dataclass(frozen=True)
class Training(abc.ABC):
    """How much is trained and counted, and in which world."""

    steps: int = 4000
    batch_size: int = 256
    shuffled: int = 10_000_000
    counted: int = 1_000_000

    @abc.abstractmethod
    def make_world(self, ranker: str) -> World:
        """The same queries for every ranker."""


@dataclass(frozen=True)
class Size(Training):
    """Synthetic queries of one draw; the smoke test has less of everything."""

    train: int = 1500
    test: int = 500
    documents: int = 30

    def make_world(self, ranker: str) -> World:
        made = SyntheticQueries(seed=0)
        train, test = made.draw(self.train, self.documents), made.draw(self.test, self.documents)
        return World(train.in_order(made.production_scores(train, **RANKERS[ranker]), TOP), test)


SMOKE = Size(train=60, test=40, steps=20, batch_size=64, shuffled=100_000, counted=100_000)


@dataclass(frozen=True)
class Cell:
    """One training.

    Attributes:
        users: a key of `USERS`.
        eta: severity of position bias.
        ranker: a key of `RANKERS`, the production ranker.
        sessions: of the log; None: fresh ones at each step.
        method: one of `METHODS`.
        seed: of initial weights and clicks; queries are the same for all.
    """

    users: str
    eta: float
    ranker: str
    sessions: int | None
    method: str
    seed: int

    @property
    def name(self) -> str:
        """Of its file."""
        sessions = "fresh" if self.sessions is None else str(self.sessions)
        return f"{self.users}-{self.eta:g}-{self.ranker}-{sessions}-{self.method}-{self.seed}"


def cells(seeds: int) -> dict[str, list[Cell]]:
    """The cells of each table; tables share some."""
    each = range(seeds)
    a = [
        Cell("position", 0.0 if method == "labels" else eta, "medium", None, method, seed)
        for eta in (0.0, 0.5, 1.0, 1.5, 2.0)
        for method in METHODS
        for seed in each
    ]
    c = [
        Cell("position", 1.0, ranker, sessions, method, seed)
        for ranker in RANKERS
        for sessions in (10_000, 100_000, None)
        for method in ("naive", "ipw_true", "dual")
        for seed in each
    ]
    d = [
        Cell(users, 1.0, "medium", None, method, seed)
        for users in ("trust", "browsing", "cascade")
        for method in ("naive", "ipw_true", "regression_em", "dual")
        for seed in each
    ]
    # Labels do not depend on the severity, so that its cells are the same ones.
    return {"severity": list(dict.fromkeys(a)), "ranker": c, "users": d}


@cache
def world(ranker: str, size: Training) -> World:
    """Made once for all cells."""
    return size.make_world(ranker)


@cache
def positions(users: str, eta: float, ranker: str, size: Training) -> dict[str, Tensor]:
    """What is known of positions: `examined`, relative and true, and `clicks`, the shares of all clicks.

    Where examination depends on clicks, the true chance of a position is its mean over sessions.
    """
    model, shown = USERS[users](eta), world(ranker, size).shown
    sessions = Sessions(shown, model, seed=10_001)
    clicks, examined = torch.zeros(TOP, dtype=torch.float64), torch.zeros(TOP, dtype=torch.float64)
    for _ in range(-(-size.counted // CHUNK)):
        query = torch.randint(len(shown.label), (CHUNK,), generator=sessions.generator)
        drawn = model.draw(sessions.relevance[query], shown.mask[query], sessions.generator)
        clicks += drawn.click.sum(0)
        examined += drawn.examined.sum(0)
    if isinstance(model, PositionBased):
        examined = model.chances(TOP).double()
    return {"examined": examined / examined[0], "clicks": clicks / clicks.sum()}


def shuffled(cell: Cell, size: Training) -> Tensor:
    """`[10]` propensities from sessions in which each list of full length was shown in random order."""
    model, shown = USERS[cell.users](cell.eta), world(cell.ranker, size).shown
    sessions = Sessions(shown, model, seed=20_001 + cell.seed)
    clicks = torch.zeros(TOP, dtype=torch.float64)
    chunks, full = -(-size.shuffled // CHUNK), shown.mask.all(1).nonzero().squeeze(1)
    for _ in range(chunks):
        query = full[torch.randint(len(full), (CHUNK,), generator=sessions.generator)]
        order = torch.rand(CHUNK, TOP, generator=sessions.generator).argsort(1)
        relevance = sessions.relevance[query].gather(1, order)
        clicks += model.draw(relevance, shown.mask[query], sessions.generator).click.sum(0)
    return shuffled_propensities(clicks, torch.full((TOP,), chunks * CHUNK))


def loss_of(cell: Cell, size: Training) -> ClickLoss:
    """The loss of the cell's method."""
    made: dict[str, Callable[[], ClickLoss]] = {
        "naive": NaiveClicks,
        "labels": NaiveClicks,
        "ipw_random": lambda: InversePropensity(shuffled(cell, size).tolist()),
        "ipw_true": lambda: InversePropensity(positions(cell.users, cell.eta, cell.ranker, size)["examined"].tolist()),
        "regression_em": lambda: RegressionEM(TOP),
        "dual": lambda: DualLearning(TOP, largest_weight=None),
        "dual_clip_10": lambda: DualLearning(TOP, largest_weight=10.0),
    }
    return made[cell.method]()


class JudgedBatches:
    """Shown lists whose clicks are the gains of their grades: what is learned from labels of shown lists."""

    def __init__(self, shown: JudgedLists, batch_size: int, seed: int):
        self.shown, self.batch_size = shown, batch_size
        self.generator = torch.Generator().manual_seed(seed)

    def __iter__(self) -> Iterator[ShownLists]:
        while True:
            query = torch.randint(len(self.shown.label), (self.batch_size,), generator=self.generator)
            gains = torch.exp2(self.shown.label[query].float()) - 1
            yield ShownLists(self.shown.features[query], gains, self.shown.mask[query])


def batches(cell: Cell, size: Training) -> Any:
    """What the cell is trained on; likelihood needs lists without clicks, all other losses do not."""
    shown, seed = world(cell.ranker, size).shown, 1 + cell.seed
    if cell.method == "labels":
        return JudgedBatches(shown, size.batch_size, seed)
    clicked = cell.method != "regression_em"
    sessions = Sessions(shown, USERS[cell.users](cell.eta), size.batch_size, clicked, seed=seed)
    if cell.sessions is None:
        return sessions
    log = sessions.log(cell.sessions)
    return ListBatches(log.clicked() if clicked else log, size.batch_size, cell.seed)


def run(cell: Cell, size: Training, callbacks: Sequence[L.Callback] = ()) -> dict[str, Any]:
    """Trains and judges one cell."""
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    loss, data, test = loss_of(cell, size), batches(cell, size), world(cell.ranker, size).test
    torch.manual_seed(cell.seed)
    module = ListwiseModule(PointwiseScorer(test.features.shape[2]), loss)
    trainer = L.Trainer(
        accelerator="cpu", max_steps=size.steps, max_epochs=-1, gradient_clip_val=5.0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        callbacks=list(callbacks),
    )  # fmt: skip
    started, cpu = time.perf_counter(), time.process_time()
    with interruptible(trainer):
        trainer.fit(module, data)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    with torch.no_grad():
        metrics = graded_metrics(module(test.features), test.label, test.mask)
    known, found = positions(cell.users, cell.eta, cell.ranker, size), loss.relative_propensities()
    shown = world(cell.ranker, size).shown
    return {
        "cell": asdict(cell),
        "size": asdict(size),
        "metrics": {name: [None if v != v else v for v in values.tolist()] for name, values in metrics.items()},
        "propensities": None if found is None else found[0].tolist(),
        "examined": known["examined"].tolist(),
        "clicks": known["clicks"].tolist(),
        "position_r2": position_r2([ShownLists(shown.features, shown.mask.float(), shown.mask)]),
        "parts": {name: float(value) for name, value in trainer.callback_metrics.items()},
        "seconds": seconds,
        "cpu_seconds": cpu,
    }
