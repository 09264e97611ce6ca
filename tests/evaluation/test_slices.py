from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.intervals import bootstrap
from recsys.evaluation.result import Evaluation, EvaluationError, TargetTable
from recsys.evaluation.slices import by_history_length, by_task, recall_by_decile, recall_by_events, recall_by_group
from recsys.features.event_log import EventLog
from recsys.features.splits import GlobalTime
from recsys.models.popularity import Popularity
from tests.evaluation.conftest import Personal


@pytest.fixture(scope="module")
def judged(log: EventLog) -> Evaluation:
    split = GlobalTime(0.3, 0.2)(log)
    model = Popularity()
    model.fit(split)
    return evaluate(model, split, ks=(5,), top=20)


def test_slices_by_popularity_add_up_to_the_whole(judged: Evaluation) -> None:
    found = (judged.targets.rank > 0) & (judged.targets.rank <= 5)
    for frame in (recall_by_decile(judged, 5), recall_by_group(judged, 5)):
        assert frame["targets"].sum() == len(found)
        assert (frame["targets"] * frame["recall"]).sum() == pytest.approx(found.sum())
    by_hand = found[judged.targets.decile == 1].mean()
    assert recall_by_decile(judged, 5).set_index("slice").loc["1", "recall"] == pytest.approx(by_hand)


def test_slices_by_events_are_those_of_a_loop(log: EventLog, judged: Evaluation) -> None:
    counts = GlobalTime(0.3, 0.2)(log).train_counts()
    known = sorted((-count, item) for item, count in enumerate(counts) if count)
    head = {item for count, item in known[: round(0.1 * len(known))] if -count > 5}
    found: dict[str, list[bool]] = {}
    for item, rank in zip(judged.targets.item.tolist(), judged.targets.rank.tolist(), strict=True):
        few = "cold" if not counts[item] else "tail" if counts[item] <= 5 else "torso"
        found.setdefault("head" if item in head else few, []).append(0 < rank <= 5)
    frame = recall_by_events(judged, counts, 5).set_index("slice")
    assert {"head", "torso", "tail"} <= set(frame.index) == set(found)
    for name, hits in found.items():
        assert (frame.loc[name, "targets"], frame.loc[name, "recall"]) == (len(hits), pytest.approx(np.mean(hits)))


def test_recall_intervals_are_those_of_wilson(judged: Evaluation) -> None:
    for row in recall_by_decile(judged, 5).itertuples():
        wilson = stats.binomtest(round(row.targets * row.recall), row.targets).proportion_ci(method="wilson")
        assert (row.low, row.high) == pytest.approx((wilson.low, wilson.high), abs=1e-9)


@pytest.mark.parametrize("n", [138, 139, 997, 22_363])
@pytest.mark.parametrize("hits", ["none", "all"])
def test_intervals_hold_the_share_to_the_last_bit(judged: Evaluation, n: int, hits: str) -> None:
    """At 0 and 1 rounding used to put the end of the interval beyond the share, which no error bar survives."""
    rank = np.full(n, 0 if hits == "none" else 1, dtype=np.int32)
    zeros = np.zeros(n, dtype=np.int32)
    targets = TargetTable(row=np.arange(n), item=zeros + 1, rank=rank, decile=zeros.astype(np.int8))
    frame = recall_by_decile(replace(judged, targets=targets), 5)
    assert (frame["low"] <= frame["recall"]).all() and (frame["recall"] <= frame["high"]).all()


@pytest.mark.parametrize("cold_targets", ["miss", "exclude"])
def test_the_cold_slice_is_the_recall_of_items_that_training_does_not_know(log: EventLog, cold_targets: str) -> None:
    frame = log.to_frame()
    frame["item_id"] += 100 * ((frame["timestamp"] > 700) & (frame["item_id"] % 3 == 0))
    log = EventLog.from_frame(frame, log.schema)
    split = GlobalTime(0.2, 0.2)(log)
    model = Personal(log)
    found = evaluate(model, split, ks=(5,), top=20, cold_targets=cold_targets)  # type: ignore[arg-type]
    items, trained = log.item_id, set(np.flatnonzero(split.train_counts()).tolist())
    wanted = named = 0
    for row in range(len(split.test)):
        history = set(items[split.test.history_start[row] : split.test.history_end[row]].tolist())
        targets = set(items[split.test.target_start[row] : split.test.target_end[row]].tolist()) - history - trained
        wanted += len(targets)
        named += len(targets & set(found.ranked[row, :5].tolist()))
    cold = recall_by_group(found, 5).set_index("slice").loc["cold"]
    assert 0 < named < wanted
    assert (cold["targets"], cold["recall"]) == (wanted, pytest.approx(named / wanted))
    assert found.facts["cold_item_targets"] == wanted


def test_slices_by_task(search_log: EventLog) -> None:
    split = GlobalTime(0.4, 0.2)(search_log)
    model = Personal(search_log)
    both = [evaluate(model, split, task=task, ks=(5,), top=20) for task in ("search", "recommendation")]
    frame = by_task(both, "NDCG@5")
    assert frame["slice"].tolist() == ["search", "recommendation"]
    assert frame["value"].tolist() == pytest.approx([np.nanmean(e.metrics["NDCG@5"]) for e in both])
    assert frame["users"].tolist() == [e.facts["judged_users"] for e in both]
    interval = both[0].summary()["NDCG@5"]
    assert (frame["low"][0], frame["high"][0]) == (interval.low, interval.high)
    with pytest.raises(EvaluationError, match="one evaluation for each task is wanted, not search, search"):
        by_task([both[0], both[0]], "NDCG@5")
    with pytest.raises(EvaluationError, match="tasks `search` and `recommendation` differ in model"):
        by_task([both[0], replace(both[1], model="another")], "NDCG@5")
    with pytest.raises(EvaluationError, match="differ in split_hash"):
        by_task([both[0], replace(both[1], facts=both[1].facts | {"split_hash": "another"})], "NDCG@5")


def test_a_slice_resamples_users_who_search_several_times(search_log: EventLog) -> None:
    split = GlobalTime(0.4, 0.2)(search_log)
    found = evaluate(Personal(search_log), split, task="search", ks=(5,), top=20)
    row = by_history_length(found, "NDCG@5", edges=(8,)).iloc[1]
    chosen = (found.history_length >= 8) & ~np.isnan(found.metrics["NDCG@5"])
    values, users = found.metrics["NDCG@5"][chosen], found.users[chosen]
    interval = bootstrap({"m": values}, users=users)["m"]
    assert len(set(users.tolist())) == row["users"] < len(values)
    assert (row["low"], row["high"]) == (interval.low, interval.high)


def test_slices_by_history_length(judged: Evaluation) -> None:
    frame = by_history_length(judged, "NDCG@5", edges=(8, 12))
    assert frame["slice"].tolist() == ["0-7", "8-11", "12+"]
    values, length = judged.metrics["NDCG@5"], judged.history_length
    bounds = [(0, 8), (8, 12), (12, 10_000)]
    by_hand = [np.nanmean(values[(length >= low) & (length < high)]) for low, high in bounds]
    assert frame["value"].tolist() == pytest.approx(by_hand)
    assert frame["users"].sum() == judged.facts["judged_users"]


def test_what_was_not_measured_is_refused(judged: Evaluation) -> None:
    with pytest.raises(ValueError, match="cut-off 21"):
        recall_by_decile(judged, 21)
    with pytest.raises(ValueError, match="no metric `AUC`"):
        by_history_length(judged, "AUC")
