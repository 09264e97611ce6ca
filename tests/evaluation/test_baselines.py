from __future__ import annotations

import warnings
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.evaluation.baselines import baselines, select
from recsys.evaluation.evaluate import evaluate
from recsys.features.event_log import EventLog
from recsys.features.schema import Schema
from recsys.features.splits import LeaveLastOut, Split
from recsys.models.popularity import Popularity, RecentPopularity

DAY = 86_400


@pytest.fixture(scope="module")
def split() -> Split:
    """Every user takes one of the items in fashion that day, item d // 10; old items have far more events in all."""
    random = np.random.default_rng(0)
    day = np.sort(random.integers(0, 100, (200, 8)), axis=1)
    item = np.where(random.random(day.shape) < 0.8, day // 10, random.integers(0, 12, day.shape))
    frame = pd.DataFrame({"user_id": np.repeat(np.arange(200), 8), "item_id": item.ravel()})
    frame["timestamp"] = 1_000_000_000 + DAY * day.ravel()
    frame = frame.drop_duplicates(["user_id", "item_id"], keep="last")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return LeaveLastOut()(EventLog.from_frame(frame, Schema(name="fashion")))


def test_the_best_on_validation_is_chosen_and_the_others_are_let_go(split: Split) -> None:
    settings = [RecentPopularity(days) for days in (1, 10, 1000)]
    choice = select([Popularity(), *settings], split, metric="NDCG@3")
    assert list(choice) == ["Popularity", "RecentPopularity"]
    alone = []
    for days in (1, 10, 1000):
        model = RecentPopularity(days)
        model.fit(split)
        alone.append(evaluate(model, split, which="validation", ks=(3,)).means()["NDCG@3"])
    assert len(set(alone)) == 3
    best = choice["RecentPopularity"]
    assert [entry["value"] for entry in best.tried] == pytest.approx(alone)
    assert best.value == max(alone) and best.model is settings[int(np.argmax(alone))]
    assert [bool(model.tensors) for model in settings] == [value == max(alone) for value in alone]
    assert choice["Popularity"].value is None and choice["Popularity"].model.tensors


def test_test_users_play_no_part(split: Split) -> None:
    shuffled = replace(split, test=split.test.where(np.arange(len(split.test)) == 0))
    first = select([RecentPopularity(days) for days in (5, 20)], split)["RecentPopularity"]
    second = select([RecentPopularity(days) for days in (5, 20)], shuffled)["RecentPopularity"]
    assert first.value == second.value and first.model.config() == second.model.config()
    assert torch.equal(first.model.state()["popularity"], second.model.state()["popularity"])


def test_nothing_to_choose_by(split: Split) -> None:
    blind = replace(split, validation=split.validation.where(np.zeros(len(split.validation), bool)))
    with pytest.raises(ValueError, match="no validation users"):
        select([RecentPopularity(1), RecentPopularity(2)], blind)
    assert select([RecentPopularity(1)], blind)["RecentPopularity"].model.tensors


@pytest.mark.parametrize("metric", ["NDCG", "@10", "Fame@10"])
def test_an_unknown_metric_is_named(split: Split, metric: str) -> None:
    with pytest.raises(ValueError, match=metric):
        select([RecentPopularity(1), RecentPopularity(2)], split, metric=metric)


def test_the_grid_holds_every_baseline_and_no_setting_twice() -> None:
    grid = baselines(seed=3)
    assert {type(model).__name__ for model in grid} == {
        "Popularity", "RecentPopularity", "DecayedPopularity", "ALS", "BPR", "BM25", "Cosine", "TFIDF",
    }  # fmt: skip
    settings = [(type(model).__name__, *model.config().items()) for model in grid]
    assert len(set(settings)) == len(settings)
    assert all(dict(setting[1:]).get("seed", 3) == 3 for setting in settings)
