from __future__ import annotations

import math
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from recsys.evaluation.evaluate import evaluate
from recsys.features.batch import SequenceBatch
from recsys.features.event_log import EventLog
from recsys.features.schema import Schema
from recsys.features.splits import EvaluationSet, GlobalTime, LeaveLastOut, Split, SplitRule, UserHoldout
from recsys.models.recommender import Recommender

pytestmark = pytest.mark.filterwarnings("ignore:leave_last_out trains on events later")


class Personal(nn.Module, Recommender):
    """Fixed random scores per user id; remembers what it was asked."""

    def __init__(self, n_users: int, n_items: int) -> None:
        super().__init__()
        self.n_items = n_items
        generator = torch.Generator().manual_seed(4)
        self.register_buffer("table", torch.rand(n_users + 1, n_items + 1, generator=generator))
        self.asked: list[SequenceBatch] = []
        self.modes: list[bool] = []

    def scores(self, batch: SequenceBatch) -> Tensor:
        self.asked.append(batch)
        self.modes.append(self.training)
        scores = self.table[batch.user_id].clone()
        scores[:, 0] = -torch.inf
        return scores

    def config(self) -> dict[str, Any]:
        return {}

    def state(self) -> dict[str, Tensor]:
        return {"table": self.table}

    @classmethod
    def from_state(cls, config: dict[str, Any], state: dict[str, Tensor]) -> Personal:
        raise NotImplementedError


def by_hand(
    split: Split, part: EvaluationSet, table: np.ndarray, filter_seen: bool, exclude_cold: bool, k: int
) -> tuple[list[float], list[float]]:
    """HR and NDCG at k, one user after the other."""
    items = split.log.item_id
    trained = {
        int(items[e])
        for u in range(split.log.n_users + 1)
        for e in range(int(split.train_start[u]), int(split.train_end[u]))
    }
    hit, ndcg = [], []
    for user, start, end, first, last in zip(*(array.tolist() for array in part.arrays()), strict=True):
        seen = {int(items[e]) for e in range(start, end)}
        wanted = {int(items[e]) for e in range(first, last)}
        if filter_seen:
            wanted -= seen
        if exclude_cold:
            wanted &= trained
        candidates = [i for i in range(1, split.log.n_items + 1) if not (filter_seen and i in seen)]
        best = sorted(candidates, key=lambda i: -table[user, i])[:k]
        gains = [1 / math.log2(r + 2) for r, item in enumerate(best) if item in wanted]
        ideal = sum(1 / math.log2(r + 2) for r in range(min(k, len(wanted))))
        hit.append(float(bool(gains)) if wanted else math.nan)
        ndcg.append(sum(gains) / ideal if wanted else math.nan)
    return hit, ndcg


@pytest.mark.parametrize("filter_seen", [True, False])
@pytest.mark.parametrize("rule", [LeaveLastOut(), LeaveLastOut(refit=True), GlobalTime(0.2, 0.2), UserHoldout(0.3)])
def test_equals_a_loop_over_users(log: EventLog, rule: SplitRule, filter_seen: bool) -> None:
    split = rule(log)
    model = Personal(log.n_users, log.n_items)
    found = evaluate(model, split, ks=(3, 10), filter_seen=filter_seen, batch_users=7, top=15, max_length=5)
    for k in (3, 10):
        hit, ndcg = by_hand(split, split.test, model.table.numpy(), filter_seen, isinstance(rule, GlobalTime), k)
        np.testing.assert_allclose(found.metrics[f"HR@{k}"], hit)
        np.testing.assert_allclose(found.metrics[f"NDCG@{k}"], ndcg, atol=1e-6)
    assert found.facts["judged_users"] == np.count_nonzero(~np.isnan(found.metrics["HR@3"]))
    assert found.users.tolist() == split.test.users.tolist()
    assert found.means()["NDCG@10"] == pytest.approx(np.nanmean(ndcg))


def test_validation_and_cold_users_are_parts_of_their_own(log: EventLog) -> None:
    split = GlobalTime(0.2, 0.2)(log)
    model = Personal(log.n_users, log.n_items)
    validation = evaluate(model, split, which="validation", ks=(5,))
    assert validation.users.tolist() == split.validation.users.tolist()
    cold = evaluate(model, split, which="test_cold_users", ks=(5,))
    assert cold.facts["cold_users"] == len(cold.users) == len(split.test_cold_users) == 5
    assert (cold.history_length == 0).all()


def test_the_model_sees_the_newest_events_and_the_request_time(log: EventLog) -> None:
    split = GlobalTime(0.2, 0.2)(log)
    model = Personal(log.n_users, log.n_items).train()
    evaluate(model, split, ks=(5,), max_length=3, batch_users=10)
    assert model.training and not any(model.modes)
    row = {user: i for i, user in enumerate(split.test.users.tolist())}
    users = 0
    for batch in model.asked:
        for i, user in enumerate(batch.user_id.tolist()):
            at = row[user]
            start, end = int(split.test.history_start[at]), int(split.test.history_end[at])
            own = batch.item_id[batch.offsets[i] : batch.offsets[i + 1]].tolist()
            assert own == log.item_id[max(start, end - 3) : end].tolist()
            assert batch.request_timestamp is not None
            assert int(batch.request_timestamp[i]) == int(log.timestamp[split.test.target_start[at]])
            users += 1
    assert users == len(split.test)


def facts_log() -> EventLog:
    """a, b, c train; d occurs only as user 1's last event; user 2's last event repeats a."""
    rows = [("u1", "a", 1), ("u1", "b", 2), ("u1", "d", 9), ("u2", "a", 1), ("u2", "c", 2), ("u2", "a", 9)]
    rows += [("u3", "c", 1), ("u3", "a", 2), ("u3", "b", 9)]
    return EventLog.from_frame(pd.DataFrame(rows, columns=["user_id", "item_id", "timestamp"]), Schema(name="facts"))


def test_cold_and_seen_targets_are_counted_not_hidden() -> None:
    log = facts_log()
    split = LeaveLastOut(refit=True)(log)
    model = Personal(log.n_users, log.n_items)
    miss = evaluate(model, split, ks=(4,), top=4)
    assert {key: miss.facts[key] for key in ("users", "judged_users", "seen_targets", "cold_item_targets")} == {
        "users": 3,
        "judged_users": 2,
        "seen_targets": 1,
        "cold_item_targets": 1,
    }
    assert miss.metrics["HR@4"].tolist()[0] == 1.0  # the cold item is in the list of all four items
    assert math.isnan(miss.metrics["HR@4"].tolist()[1])
    excluded = evaluate(model, split, ks=(4,), top=4, cold_targets="exclude")
    assert excluded.facts["judged_users"] == 1
    assert 0 in excluded.targets.decile, "the table keeps the cold item"
    repeated = evaluate(model, split, ks=(4,), top=4, filter_seen=False)
    assert repeated.facts["seen_targets"] == 1 and repeated.facts["judged_users"] == 3
    assert miss.facts["short_lists"] == 3, "with the history filtered fewer than four items are left"


def test_what_cannot_be_judged_is_refused(log: EventLog) -> None:
    split = LeaveLastOut(refit=True)(log)
    with pytest.raises(ValueError, match="no user in `validation`"):
        evaluate(Personal(log.n_users, log.n_items), split, which="validation")
    with pytest.raises(ValueError, match="another log trained it"):
        evaluate(Personal(log.n_users, log.n_items + 1), split)
    with pytest.raises(ValueError, match="cut-off 50"):
        evaluate(Personal(log.n_users, log.n_items), split, top=20)
