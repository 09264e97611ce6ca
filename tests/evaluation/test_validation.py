"""Validation while a model trains: which users, which tasks, what is logged."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.validation import RankingValidation
from recsys.features.event_log import EventLog
from recsys.features.splits import GlobalTime, Split
from recsys.models.popularity import Popularity


@pytest.fixture
def split(search_log: EventLog) -> Split:
    return GlobalTime(0.3, 0.3)(search_log)


@pytest.fixture
def model(split: Split) -> Popularity:
    made = Popularity()
    made.fit(split)
    return made


def logged(
    callback: RankingValidation, model: Popularity, split: Split, epoch: int = 0, max_epochs: int | None = 10
) -> dict[str, float]:
    found: dict[str, float] = {}
    trainer = SimpleNamespace(
        datamodule=SimpleNamespace(split=split, max_length=50), current_epoch=epoch, max_epochs=max_epochs
    )
    module = SimpleNamespace(network=model, log=lambda name, value, **_: found.__setitem__(name, value))
    callback.on_train_epoch_end(trainer, module)  # type: ignore[arg-type]
    return found


def test_each_task_counts_the_same(split: Split, model: Popularity) -> None:
    values = logged(RankingValidation(k=5), model, split)
    means = {
        task: evaluate(model, split, which="validation", task=task, ks=(5,), top=5).means()
        for task in ("search", "recommendation")
    }
    assert means["search"]["NDCG@5"] != means["recommendation"]["NDCG@5"]
    for task, of_task in means.items():
        assert values[f"val/{task}_NDCG@5"] == of_task["NDCG@5"]
    assert values["val/NDCG@5"] == pytest.approx(np.mean([of_task["NDCG@5"] for of_task in means.values()]))


def test_a_log_whose_queries_nobody_reads_has_one_task(split: Split, model: Popularity) -> None:
    silent = replace(split, log=replace(split.log, schema=split.log.schema.model_copy(update={"features": ()})))
    values = logged(RankingValidation(k=5), model, silent)
    assert values["val/NDCG@5"] == evaluate(model, split, which="validation", ks=(5,), top=5).means()["NDCG@5"]
    assert not [name for name in values if "search" in name]


def test_some_users_are_the_same_each_time(split: Split, model: Popularity) -> None:
    callback = RankingValidation(k=5, users=6, seed=1)
    assert logged(callback, model, split) == logged(callback, model, split, epoch=1)
    assert [entry["epoch"] for entry in callback.history] == [0, 1]
    some = replace(split, validation=split.validation.sample(6, 1))
    expected = evaluate(model, some, which="validation", task="search", ks=(5,), top=5).means()["NDCG@5"]
    assert callback.history[0]["search_NDCG@5"] == expected


@pytest.mark.parametrize(("max_epochs", "turns"), [(10, [0, 4, 8, 9]), (-1, [0, 4, 8]), (None, [0, 4, 8])])
def test_epochs_between_are_left_out_but_not_the_last(
    split: Split, model: Popularity, max_epochs: int | None, turns: list[int]
) -> None:
    callback = RankingValidation(k=5, every_n_epochs=4)
    for epoch in range(10):
        logged(callback, model, split, epoch, max_epochs)
    assert [entry["epoch"] for entry in callback.history] == turns
