from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import Tensor, nn

from recsys.features.batch import SequenceBatch
from recsys.features.event_log import EventLog
from recsys.features.schema import EventColumns, Feature, Schema
from recsys.models.recommender import Recommender


@pytest.fixture(scope="session")
def log() -> EventLog:
    """60 users, 40 items of unequal popularity, repeats included, over 1,000 seconds; 5 more users come at the end."""
    return EventLog.from_frame(_events(), Schema(name="random"))


@pytest.fixture(scope="session")
def search_log() -> EventLog:
    """The same events, half of them answers to one of four queries of one word."""
    frame = _events()
    random = np.random.default_rng(1)
    asked = random.choice(["red", "green", "blue", "white"], len(frame))
    frame["query"] = np.where(random.random(len(frame)) < 0.5, asked, None)
    words = Feature(name="words", type="text", entity="query")
    return EventLog.from_frame(frame, Schema(name="searches", events=EventColumns(query="query"), features=(words,)))


def _events() -> pd.DataFrame:
    random = np.random.default_rng(0)
    weight = 1.0 / np.arange(1, 41)
    return pd.DataFrame(
        {
            "user_id": np.append(random.integers(0, 60, 900), np.arange(60, 65).repeat(4)),
            "item_id": random.choice(40, 920, p=weight / weight.sum()),
            "timestamp": np.append(random.integers(1, 1_000, 900), np.arange(980, 1_000)),
        }
    )


class Personal(nn.Module, Recommender):
    """Fixed random scores per user and query, others for given candidates; remembers what it was asked."""

    def __init__(self, log: EventLog, levels: int | None = None) -> None:
        super().__init__()
        self.n_items = log.n_items
        queries = len(log.vocabularies["query"]) if "query" in log.columns else 0
        shape = (2, queries + 1, log.n_users + 1, self.n_items + 1)
        table = torch.rand(shape, generator=torch.Generator().manual_seed(4))
        self.register_buffer("table", table if levels is None else (levels * table).floor())
        # A query has one word: the row of that word in its table tells which query it is.
        self.code_of_word = {}
        for code in range(1, queries + 1):
            words, _ = log.queries(np.array([code]))[0].jagged["words"]
            self.code_of_word[int(words)] = code
        self.asked: list[SequenceBatch] = []
        self.codes: list[list[int]] = []
        self.modes: list[bool] = []

    def scores(self, batch: SequenceBatch) -> Tensor:
        return self._all(0, batch)

    def candidate_scores(self, batch: SequenceBatch, candidates: Tensor) -> Tensor:
        return self._all(1, batch).gather(1, candidates)

    def _all(self, stage: int, batch: SequenceBatch) -> Tensor:
        self.asked.append(batch)
        self.modes.append(self.training)
        self.codes.append(self._codes(batch))
        scores = self.table[stage, self.codes[-1], batch.user_id].clone()
        scores[:, 0] = -torch.inf
        return scores

    def _codes(self, batch: SequenceBatch) -> list[int]:
        if batch.request_query is None:
            return [0] * len(batch)
        assert batch.queries is not None
        values, offsets = (part.tolist() for part in batch.queries.jagged["words"])
        rows = batch.request_query.tolist()
        return [self.code_of_word[values[offsets[row]]] if row else 0 for row in rows]

    def config(self) -> dict[str, Any]:
        return {}

    def state(self) -> dict[str, Tensor]:
        return {"table": self.table}

    @classmethod
    def from_state(cls, config: dict[str, Any], state: dict[str, Tensor]) -> Personal:
        raise NotImplementedError
