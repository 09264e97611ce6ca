from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from recsys.features.event_log import EventLog
from recsys.features.given_parts import GivenParts
from recsys.features.schema import Schema
from recsys.features.splits import SplitError

SCHEMA = Schema.parse(
    {"name": "toy", "features": [{"name": "split", "column": "split", "entity": "event", "type": "categorical"}]}
)


def frame() -> pd.DataFrame:
    """Twenty users with 1 to 9 events, of any part in any order."""
    random = np.random.default_rng(5)
    user = np.repeat(np.arange(20), random.integers(1, 10, 20))
    made = pd.DataFrame({"user_id": user, "item_id": random.integers(0, 30, len(user)), "timestamp": 7})
    made = made.drop_duplicates(["user_id", "item_id"], ignore_index=True)
    return made.assign(split=random.choice(["train", "test", "unused"], len(made), p=[0.6, 0.3, 0.1]))


def items_of(split, start, end):  # type: ignore[no-untyped-def]
    return [set(split.log.item_id[a:b].tolist()) for a, b in zip(start, end, strict=True)]


def test_every_event_stands_in_the_part_that_the_log_names() -> None:
    log = EventLog.from_frame(frame(), SCHEMA)
    split = GivenParts(validation_share=0.0)(log)
    events = log.to_frame().assign(user=log.user_ids(), item=log.item_id)
    named = {part: of_part.groupby("user")["item"].agg(set) for part, of_part in events.groupby("split")}
    trained = items_of(split, split.train_start, split.train_end)
    assert [named["train"].get(user, set()) for user in range(log.n_users + 1)] == trained
    both = [split.test, split.test_cold_users]
    found = {
        int(user): items
        for part in both
        for user, items in zip(part.users, items_of(split, part.target_start, part.target_end), strict=True)
    }
    assert found == named["test"].to_dict()
    assert split.facts["left_out_events"] == (events["split"] == "unused").sum() and not len(split.validation)
    histories = items_of(split, split.test.history_start, split.test.history_end)
    assert histories == [trained[user] for user in split.test.users]


def test_a_share_of_the_training_events_validates_as_the_seed_draws_it() -> None:
    log = EventLog.from_frame(frame(), SCHEMA)
    whole, one, again, other = (
        GivenParts(validation_share=share, seed=seed)(log) for share, seed in ((0.0, 0), (0.3, 0), (0.3, 0), (0.3, 1))
    )
    assert one.hash == again.hash != other.hash
    n = whole.train_end - whole.train_start
    held = np.minimum(np.floor(0.3 * n + 0.5), np.maximum(n - 1, 0))
    assert (n - held).tolist() == (one.train_end - one.train_start).tolist()
    trained = items_of(one, one.train_start, one.train_end)
    validated = items_of(one, one.validation.target_start, one.validation.target_end)
    of_whole = items_of(whole, whole.train_start, whole.train_end)
    for user, items in zip(one.validation.users, validated, strict=True):
        assert items and not items & trained[user] and items | trained[user] == of_whole[user]
    assert one.test.n_targets == other.test.n_targets == whole.test.n_targets
    assert items_of(other, other.train_start, other.train_end) != trained


def test_logs_without_parts_or_with_times_are_refused() -> None:
    with pytest.raises(SplitError, match="names no part"):
        GivenParts(test="later")(EventLog.from_frame(frame(), SCHEMA))
    with pytest.raises(SplitError, match="no column `split`"):
        GivenParts()(EventLog.from_frame(frame(), Schema(name="toy")))
    with pytest.raises(SplitError, match="differ in time"):
        GivenParts()(EventLog.from_frame(frame().assign(timestamp=lambda made: range(len(made))), SCHEMA))
    with pytest.raises(ValueError, match="validation_share"):
        GivenParts(validation_share=1.0)
