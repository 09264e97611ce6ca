"""A share of the training users: who trains, and that nothing else changes."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.features.batching import TrainingBatches
from recsys.features.event_log import EventLog
from recsys.features.fraction import Fraction
from recsys.features.splits import GlobalTime, LeaveLastOut, Split, SplitRule, UserHoldout
from recsys.tracking.record import RunRecord
from recsys.tracking.run_folder import RunFolder
from recsys.training.usage import Work
from tests.features.test_splits import log_of

pytestmark = pytest.mark.filterwarnings("ignore:leave_last_out")

RULES = [LeaveLastOut(), LeaveLastOut(refit=True), GlobalTime(0.2, 0.2), UserHoldout(0.2, 0.2)]
JUDGED = ("validation", "test", "validation_cold_users", "test_cold_users")


@pytest.fixture(scope="module")
def log() -> EventLog:
    random = np.random.default_rng(0)
    lengths = random.integers(1, 9, 60).tolist()
    n = sum(lengths)
    return log_of(lengths, random.permutation(n).tolist(), random.integers(1, 6, n).tolist())


def train_users(split: Split) -> set[int]:
    return set(np.flatnonzero(split.train_end > split.train_start).tolist())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule.name)
def test_only_the_training_users_are_fewer(log: EventLog, rule: SplitRule) -> None:
    whole = rule(log)
    splits = {share: Fraction(rule, share, seed=3)(log) for share in (0.1, 0.5)}
    for share, split in splits.items():
        for name in JUDGED:
            for ours, theirs in zip(getattr(split, name).arrays(), getattr(whole, name).arrays(), strict=True):
                np.testing.assert_array_equal(ours, theirs)
        kept = train_users(split)
        assert kept < train_users(whole) and len(kept) == round(share * len(train_users(whole)))
        for user in kept:
            assert (split.train_start[user], split.train_end[user]) == (whole.train_start[user], whole.train_end[user])
        assert split.facts["left_out_users"] == len(train_users(whole)) - len(kept)
        assert split.facts["train_events"] == split.train_counts().sum() < whole.facts["train_events"]
        trained = {int(user) for batch in TrainingBatches(split, 16, 50) for user in batch.user_id}
        users_with_targets = {u for u in kept if split.train_end[u] - split.train_start[u] > 1}
        assert users_with_targets <= trained <= kept
    assert train_users(splits[0.1]) < train_users(splits[0.5])
    assert len({whole.hash, *(split.hash for split in splits.values())}) == 3


def test_the_whole_is_the_rule_itself(log: EventLog) -> None:
    for rule in RULES:
        whole, split = rule(log), Fraction(rule)(log)
        assert (split.hash, split.rule, split.facts) == (whole.hash, whole.rule, whole.facts)
        np.testing.assert_array_equal(split.train_end, whole.train_end)


def test_the_seed_draws_the_users(log: EventLog) -> None:
    drawn = [train_users(Fraction(LeaveLastOut(), 0.5, seed)(log)) for seed in range(200)]
    assert drawn[0] != drawn[1]
    users = sorted(train_users(LeaveLastOut()(log)))
    often = np.array([sum(user in kept for kept in drawn) for user in users])
    assert abs(often - 100).max() < 5 * np.sqrt(200 / 4), "each user is drawn half of the time"


def test_a_user_trains_however_small_the_share(log: EventLog) -> None:
    assert len(train_users(Fraction(LeaveLastOut(), 1e-6)(log))) == 1
    with pytest.raises(ValueError, match="above 0 and at most 1, not 0"):
        Fraction(LeaveLastOut(), 0)


def test_a_run_finds_its_split_again(log: EventLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rule = Fraction(GlobalTime(0.3, 0.1), 0.5, seed=4)
    split = rule(log)
    record = RunRecord.of("toy", "X", {}, split, rule, tmp_path, {"all": 0})
    record.measure(Work())
    record.write(tmp_path)
    stored: dict[str, Any] = json.loads((tmp_path / "run.json").read_text())["split"]
    assert stored["init_args"]["rule"]["init_args"] == {"test_share": 0.3, "validation_share": 0.1}
    again = RunFolder(tmp_path).split(log)
    assert again.hash == split.hash and asdict(again.test).keys() == asdict(split.test).keys()
