"""Device and threads of a model that is judged."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from recsys.evaluation import scoring
from recsys.evaluation.scoring import device_of, threads_of
from recsys.features.event_log import EventLog
from recsys.features.splits import LeaveLastOut
from recsys.models.popularity import Popularity
from tests.evaluation.conftest import Personal


def test_the_device_of_models_of_either_kind(log: EventLog) -> None:
    model = Popularity()
    with pytest.warns(UserWarning):
        model.fit(LeaveLastOut()(log))
    assert device_of(model) == device_of(Personal(log)) == torch.device("cpu")
    elsewhere = Personal(log)
    elsewhere.table = elsewhere.table.to("meta")
    assert isinstance(elsewhere, nn.Module) and device_of(elsewhere) == torch.device("meta")


def test_ranks_that_ask_in_step_use_one_thread(log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Personal(log)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 5)
    assert threads_of(model) == 5
    monkeypatch.setattr(scoring, "is_sharded", lambda _: True)
    assert threads_of(model) == 1
