from __future__ import annotations

import warnings
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.evaluation.baselines import baselines, select
from recsys.evaluation.evaluate import evaluate
from recsys.features.event_log import EventLog
from recsys.features.schema import Schema
from recsys.features.splits import LeaveLastOut, Split
from recsys.models.lexical import LexicalBM25
from recsys.models.popularity import Popularity, RecentPopularity
from recsys.models.recommender import FittedRecommender

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


@pytest.fixture(scope="module")
def searches(split: Split) -> Split:
    """The same events, every other one found by a query of one word: the season of its item."""
    frame = split.log.to_frame()
    frame["query"] = np.where(np.arange(len(frame)) % 2, "season" + (frame["item_id"] // 4).astype(str), None)
    items = pd.DataFrame({"item_id": range(12), "text": [f"season{n // 4} item{n}" for n in range(12)]})
    features = [
        {"name": "words", "column": "text", "type": "text"},
        {"name": "query_words", "type": "text", "entity": "query", "table": "words"},
    ]
    schema = Schema.model_validate({"name": "seasons", "events": {"query": "query"}, "features": features})
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return LeaveLastOut()(EventLog.from_frame(frame, schema, items))


def test_word_matching_stands_beside_a_model_only_where_queries_share_words_with_items(
    split: Split, searches: Split
) -> None:
    def settings(models: list[FittedRecommender]) -> list[tuple[str, dict[str, Any]]]:
        return [(type(model).__name__, model.config()) for model in models]

    plain, with_words = settings(baselines(split, seed=3)), settings(baselines(searches, seed=3))
    assert plain == settings(baselines(seed=3)) == with_words[: len(plain)]
    added = with_words[len(plain) :]
    assert added and {name for name, _ in added} == {"LexicalBM25"}
    apart = searches.log.schema.model_dump()
    apart["features"][1]["table"] = "asked"
    log = replace(searches.log, schema=Schema.model_validate(apart))
    assert settings(baselines(replace(searches, log=log), seed=3)) == plain


def test_word_matching_is_chosen_by_the_searches(searches: Split) -> None:
    priors = (0.0, 0.5)
    choice = select([LexicalBM25(prior=prior) for prior in priors], searches, metric="NDCG@3")["LexicalBM25"]
    alone = []
    for prior in priors:
        model = LexicalBM25(prior=prior)
        model.fit(searches)
        alone.append(evaluate(model, searches, which="validation", task="search", ks=(3,)).means()["NDCG@3"])
    assert [entry["value"] for entry in choice.tried] == pytest.approx(alone)
    assert len(set(alone)) == 2 and choice.value == max(alone)


def test_word_matching_without_searches_to_choose_by(searches: Split) -> None:
    """Nobody searches among the validation users: it recommends what is popular, and is chosen as the others are."""
    log = searches.log
    query = np.array(log.columns["query"])
    query[searches.validation.targets()] = 0
    silent = replace(searches, log=replace(log, columns=log.columns | {"query": query}))
    choice = select([LexicalBM25(prior=prior) for prior in (0.0, 0.5)] + [Popularity()], silent)
    assert choice["LexicalBM25"].value is not None


def test_the_grid_holds_every_baseline_and_no_setting_twice() -> None:
    grid = baselines(seed=3)
    assert {type(model).__name__ for model in grid} == {
        "Popularity", "RecentPopularity", "DecayedPopularity", "ALS", "BPR", "BM25", "Cosine", "TFIDF",
    }  # fmt: skip
    settings = [(type(model).__name__, *model.config().items()) for model in grid]
    assert len(set(settings)) == len(settings)
    assert all(dict(setting[1:]).get("seed", 3) == 3 for setting in settings)
