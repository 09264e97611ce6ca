"""What a target may know of, against a loop over the events of its user."""

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.features.batching import TrainingBatches
from recsys.features.event_log import EventLog
from recsys.features.requests import cutoffs
from recsys.features.schema import Schema
from recsys.features.splits import Split, UserHoldout

windows = st.lists(st.lists(st.booleans(), min_size=1, max_size=6), min_size=1, max_size=4)


@given(windows)
@settings(max_examples=80, deadline=None)
def test_cutoffs_against_a_loop(opens):
    expected = []
    for window in opens:
        for event in range(len(window)):
            begun = [place + 1 for place in range(event + 1) if window[place]]
            expected.append(max(begun, default=0))
    lengths = np.array([len(window) for window in opens])
    assert cutoffs(np.concatenate([np.array(window) for window in opens]), lengths).tolist() == expected


def first_batch(frame: pd.DataFrame, **events: str):
    log = EventLog.from_frame(frame, Schema.model_validate({"name": "shop", "events": events}))
    split: Split = UserHoldout(share=0.5, validation_share=0.0, seed=0)(log)
    return TrainingBatches(split, batch_size=8, max_length=10).batch(np.array([0]))


def frame(**columns) -> pd.DataFrame:
    """Two equal users, so that whichever is held out, the same history is trained on."""
    both = {name: [*values, *values] for name, values in columns.items()}
    n = len(both["timestamp"]) // 2
    return pd.DataFrame({"user_id": [1] * n + [2] * n, "item_id": [*range(n), *range(n)], **both})


def test_events_of_one_second_are_one_request():
    batch = first_batch(frame(timestamp=[10, 20, 20, 20, 30]))
    assert batch.cutoff.tolist() == [1, 1, 1, 4]


def test_an_order_column_says_that_they_are_not():
    batch = first_batch(frame(timestamp=[10, 20, 20, 20, 30], rank=[0, 1, 2, 3, 4]), order="rank")
    assert batch.cutoff.tolist() == [1, 2, 3, 4]


def test_a_request_id_decides_where_there_is_one():
    batch = first_batch(frame(timestamp=[10, 20, 20, 30, 31], request=["a", "b", "c", "d", "d"]), request_id="request")
    assert batch.cutoff.tolist() == [1, 2, 3, 3]


def test_events_without_a_request_id_stand_alone():
    batch = first_batch(frame(timestamp=[10, 20, 20, 30], request=["a", None, None, "d"]), request_id="request")
    assert batch.cutoff.tolist() == [1, 2, 3]
