from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.result import Evaluation, TargetTable
from recsys.evaluation.slices import by_history_length, recall_by_decile, recall_by_group
from recsys.features.event_log import EventLog
from recsys.features.splits import GlobalTime
from recsys.models.popularity import Popularity


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
