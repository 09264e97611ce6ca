"""Cells of slates: SynerGen's ranking head, trained on slates of films whose clicks are biased by position."""

from __future__ import annotations

import logging
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cache, partial
from typing import Any

import lightning as L
import numpy as np
import pandas as pd
import torch
from _dla_cells import TOP, USERS, Cell
from semi_synthetic import completion
from torch import Tensor

from recsys.evaluation.graded import graded_metrics
from recsys.features.batching import histories
from recsys.features.negatives import Uniform
from recsys.features.slate_table import SlateTable
from recsys.features.splits import Split, UserHoldout
from recsys.losses.info_nce import InfoNCE
from recsys.models.synergen import SynerGen
from recsys.training.callbacks import interruptible
from recsys.training.data import EventLogData
from recsys.training.joint_objective import JointObjective
from recsys.training.module import RecommenderModule, adam
from recsys.training.sparse_adam import SparseAdam
from recsys.training.with_slates import WithSlates
from recsys.unbiased.click_loss import ClickLoss
from recsys.unbiased.click_models import PositionBased, perceived_relevance
from recsys.unbiased.dual_learning import DualLearning
from recsys.unbiased.identifiability import places_elsewhere, position_r2
from recsys.unbiased.inverse_propensity import InversePropensity, NaiveClicks
from recsys.unbiased.shown_lists import ShownLists

RANKER = "films"
GRADES = (0.4, 0.65, 0.85, 0.95)
"""Shares of all pairs of user and film that are below grade 1, 2, 3 and 4."""
RATE = 0.003
METHODS = ("naive", "ipw_true", "dual")


@dataclass(frozen=True)
class SlateSize:
    """How much is drawn and trained; the smoke test has less of everything."""

    films: int = 500
    candidates: int = 30
    slates: int = 200_000
    lists: int = 5
    steps: int = 1000
    slates_per_step: int = 128
    windows: int = 64
    max_length: int = 20
    width: int = 32


SMOKE = SlateSize(slates=500, lists=1, steps=5, windows=16)


@dataclass(frozen=True)
class SlateCell(Cell):
    """One training; `sessions` are the slates of its log."""

    @property
    def name(self) -> str:
        """Of its file."""
        return f"slates-{super().name}"


def slate_cells(seeds: int, size: SlateSize) -> list[Cell]:
    """Three severities, as many methods."""
    return [
        SlateCell("position", eta, RANKER, size.slates, method, seed)
        for eta in (0.0, 1.0, 2.0)
        for method in METHODS
        for seed in range(seeds)
    ]


@dataclass(frozen=True)
class Films:
    """A world in which it is known how much everybody likes every film.

    Attributes:
        split: some users are tested, and have no training events and no slates.
        film: `[films]` int64 item ids of the most rated ones, of which slates consist.
        grade: `[n_users + 1, films]` int64 0..4, from the matrix factorization that completes the ratings.
        popularity: `[films]` float64, standardised logarithm of the number of ratings.
    """

    split: Split
    film: np.ndarray
    grade: np.ndarray
    popularity: np.ndarray


@cache
def films(size: SlateSize) -> Films:
    """Made of MovieLens-100K, the same for every cell."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = EventLogData("movielens_100k", split=UserHoldout(0.2, 0.01))
        split = data.split
    log, events = split.log, data.source.events
    assert isinstance(events, pd.DataFrame)
    user, item = log.users.encode(events["user_id"]), log.items.encode(events["item_id"])
    rating = events["rating"].to_numpy(dtype=np.float64)
    shape = log.n_users + 1, log.n_items + 1
    liked = completion(user, item, rating - rating.mean(), shape, np.random.default_rng(0))
    count = np.bincount(item, minlength=shape[1])
    film = np.sort(np.argsort(-count, kind="stable")[: size.films])
    grade = np.searchsorted(np.quantile(liked[1:, film], GRADES), liked[:, film])
    popularity = np.log(count[film])
    popularity = (popularity - popularity.mean()) / popularity.std()
    return Films(split, film, grade.astype(np.int64), popularity)


def slates(cell: Cell, size: SlateSize) -> pd.DataFrame:
    """A log of slates: at the time of some event of a training user the first 10 of 30 random films are shown.

    The production ranker orders films by popularity and noise of the same size.
    """
    world, random = films(size), np.random.default_rng(1 + cell.seed)
    log = world.split.log
    trained = np.flatnonzero(world.split.train_end - world.split.train_start > 5)
    user = random.choice(trained, size.slates)
    start = world.split.train_start[user] + 5
    at = random.integers(start, world.split.train_end[user])
    candidates = _candidates(random, size.slates, size)
    score = world.popularity[candidates] + random.normal(size=candidates.shape)
    shown = np.take_along_axis(candidates, np.argsort(-score, axis=1)[:, :TOP], axis=1)
    relevance = perceived_relevance(torch.from_numpy(world.grade[user[:, None], shown]))
    mask = torch.ones(shown.shape, dtype=torch.bool)
    clicks = USERS[cell.users](cell.eta).draw(relevance, mask, torch.Generator().manual_seed(1 + cell.seed)).click
    return pd.DataFrame(
        {
            "request_id": np.repeat(np.arange(size.slates), TOP),
            "user_id": np.repeat(log.users.decode(user), TOP),
            "timestamp": np.repeat(np.asarray(log.timestamp)[at], TOP),
            "item_id": log.items.decode(world.film[shown].ravel()),
            "position": np.tile(np.arange(1, TOP + 1), size.slates),
            "click": clicks.int().numpy().ravel(),
        }
    )


def _candidates(random: np.random.Generator, n: int, size: SlateSize) -> np.ndarray:
    """`[n, candidates]` distinct places in `Films.film`."""
    return random.random((n, size.films)).argpartition(size.candidates, axis=1)[:, : size.candidates]


def loss_of(cell: Cell) -> ClickLoss:
    """The loss of the cell's method."""
    examined = PositionBased(eta=cell.eta).chances(TOP)
    made: dict[str, Callable[[], ClickLoss]] = {
        "naive": NaiveClicks,
        "ipw_true": lambda: InversePropensity(examined.tolist()),
        "dual": lambda: DualLearning(TOP),
    }
    return made[cell.method]()


def judge(network: SynerGen, size: SlateSize) -> dict[str, Tensor]:
    """Metrics of all candidates of lists of the test users, by true grades; the lists are the same for every cell."""
    world, random = films(size), np.random.default_rng(0)
    log, test = world.split.log, world.split.test
    values: dict[str, list[Tensor]] = {}
    network.eval()
    for _ in range(size.lists):
        candidates = _candidates(random, len(test), size)
        known = histories(log, test.users, test.history_start, test.history_end, size.max_length)
        scores = network.candidate_scores(known, torch.from_numpy(world.film[candidates]))
        label = torch.from_numpy(world.grade[test.users[:, None], candidates])
        for name, found in graded_metrics(scores, label, torch.ones_like(label, dtype=torch.bool)).items():
            values.setdefault(name, []).append(found)
    return {name: torch.cat(found) for name, found in values.items()}


def run_slates(cell: Cell, size: SlateSize) -> dict[str, Any]:
    """Trains and judges one cell."""
    warnings.filterwarnings("ignore", module="lightning")
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    world, frame, loss = films(size), slates(cell, size), loss_of(cell)
    data = EventLogData(
        "movielens_100k",
        split=UserHoldout(0.2, 0.01),
        batch_size=size.windows,
        max_length=size.max_length,
        seed=cell.seed,
        slates=SlateTable(frame, size.slates_per_step),
    )
    assert data.split.hash == world.split.hash
    torch.manual_seed(cell.seed)
    network = partial(SynerGen, width=size.width, layers=1, dropout=0.1, side_features=False, ranking=True)
    objective = WithSlates(JointObjective(InfoNCE(0.05), Uniform(256)), loss)
    module = RecommenderModule(network, objective, partial(adam, lr=RATE), partial(SparseAdam, lr=RATE))
    trainer = L.Trainer(
        accelerator="cpu", max_steps=size.steps, max_epochs=-1, gradient_clip_val=5.0, logger=False,
        enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        use_distributed_sampler=False,
    )  # fmt: skip
    started, cpu = time.perf_counter(), time.process_time()
    with interruptible(trainer):
        trainer.fit(module, datamodule=data)
    seconds, cpu = time.perf_counter() - started, time.process_time() - cpu
    assert isinstance(module.network, SynerGen) and data.slates is not None
    examined, found = PositionBased(eta=cell.eta).chances(TOP).double(), loss.relative_propensities()
    item, click = torch.from_numpy(data.slates.item).long(), torch.from_numpy(data.slates.click).double()
    return {
        "cell": asdict(cell),
        "size": asdict(size),
        "metrics": {
            name: [None if v != v else v for v in values.tolist()]
            for name, values in judge(module.network, size).items()
        },
        "propensities": None if found is None else found[0].tolist(),
        "examined": (examined / examined[0]).tolist(),
        "clicks": (click.sum(0) / click.sum()).tolist(),
        "position_r2": position_r2([ShownLists(places_elsewhere(item), click, item > 0)]),
        "parts": {name: float(value) for name, value in trainer.callback_metrics.items()},
        "seconds": seconds,
        "cpu_seconds": cpu,
    }
