from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from recsys.features.event_log import EventLog
from recsys.features.schema import Schema


@pytest.fixture(scope="session")
def log() -> EventLog:
    """60 users, 40 items of unequal popularity, repeats included, over 1,000 seconds; 5 more users come at the end."""
    random = np.random.default_rng(0)
    weight = 1.0 / np.arange(1, 41)
    frame = pd.DataFrame(
        {
            "user_id": np.append(random.integers(0, 60, 900), np.arange(60, 65).repeat(4)),
            "item_id": random.choice(40, 920, p=weight / weight.sum()),
            "timestamp": np.append(random.integers(1, 1_000, 900), np.arange(980, 1_000)),
        }
    )
    return EventLog.from_frame(frame, Schema(name="random"))
