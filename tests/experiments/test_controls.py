from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
from _controls import QueryOnly

from recsys.features.batching import histories
from recsys.features.catalogue import Catalogue
from recsys.features.event_log import EventLog
from recsys.features.schema import Schema
from recsys.features.splits import LeaveLastOut
from recsys.models.synergen import SynerGen

WORDS = np.array(["red", "blue", "soap", "cream"])


@pytest.fixture(scope="module", params=[0, 8], ids=["decoder alone", "word match"])
def made(request):
    random = np.random.default_rng(0)
    events = pd.DataFrame({"user_id": np.repeat(np.arange(12), 6), "item_id": random.integers(0, 30, 72)})
    events["timestamp"] = 1_000_000 + 3600 * np.arange(72)
    events["query"] = pd.Series(WORDS[random.integers(0, 4, 72)]).where(random.random(72) < 0.5)
    schema = {"name": "toy", "events": {"query": "query"}}
    schema["features"] = [
        {"name": "title", "column": "title", "type": "text"},
        {"name": "asked", "type": "text", "entity": "query", "table": "title"},
    ]
    items = pd.DataFrame({"item_id": range(30), "title": WORDS[random.integers(0, 4, 30)]})
    with pytest.warns(UserWarning, match="leave_last_out"):
        split = LeaveLastOut()(EventLog.from_frame(events, Schema.parse(schema), items))
    # Everybody asks the same at the same time; histories differ, and so do their lengths.
    test = split.test
    query = np.full(len(test), 1)
    batch = histories(
        split.log, test.users, test.history_start + test.users % 3, test.history_end, None, request_query=query
    )
    batch = replace(batch, request_timestamp=torch.full((len(batch),), 2_000_000))
    torch.manual_seed(0)
    catalogue = Catalogue.from_split(split)
    arguments = {"width": 16, "layers": 2, "heads": 2, "ranking": True, "word_width": request.param}
    return batch, *(kind(catalogue, **arguments).eval() for kind in (QueryOnly, SynerGen))


def apart(answers: torch.Tensor) -> float:
    """The largest difference between the answers to one user and to another."""
    return float((answers - answers[:1]).abs().max())


def test_only_the_query_counts(made):
    batch, control, whole = made
    candidates = torch.arange(1, 21).expand(len(batch), 20)
    assert apart(control.user_vectors(batch)) < 1e-5
    assert apart(control.candidate_scores(batch, candidates)) < 1e-5
    assert apart(whole.user_vectors(batch)) > 1e-2
    assert apart(whole.candidate_scores(batch, candidates)) > 1e-2
    other = replace(batch, request_query=torch.zeros_like(batch.request_query))
    assert not torch.allclose(control.user_vectors(batch), control.user_vectors(other), atol=1e-2)
