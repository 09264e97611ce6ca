"""The floor under every model: the items with the most training events, made of an evaluation set alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from recsys.evaluation.evaluation_set import EvaluationSet


class MostPopular:
    """Answers every request with the items that have the most training events, as `evaluate_pyfunc` asks.

    Equal numbers stand in an order that is drawn once, not in that of the catalogue, which may follow time.

    Args:
        evaluation_set: whose catalogue it recommends.

    Example:
        >>> from recsys.evaluation.given_requests import given_set
        >>> asked = pd.DataFrame({"history": [["b"], []], "relevant": [["a"], ["a"]]})
        >>> items = pd.DataFrame({"item_id": ["a", "b", "c"], "training_events": [3, 9, 4]})
        >>> evaluation_set = given_set(asked, items)
        >>> model = MostPopular(evaluation_set)
        >>> answer = model(evaluation_set.questions(np.arange(2)), {"k": 2, "filter_seen": True})
        >>> answer[["request", "item_id", "rank"]].to_numpy().tolist()
        [[0, 'c', 1], [0, 'a', 2], [1, 'b', 1], [1, 'c', 2]]
    """

    __name__ = "Popularity"  # to print

    def __init__(self, evaluation_set: EvaluationSet) -> None:
        self.catalogue = evaluation_set.catalogue
        counts = evaluation_set.training_events[1:]
        drawn = np.random.default_rng(0).permutation(len(counts))
        self.order = drawn[np.argsort(-counts[drawn], kind="stable")]
        self.counts = counts
        self.place = np.empty(len(counts) + 1, dtype=np.int64)
        self.place[self.order] = np.arange(len(counts))
        self.place[-1] = len(counts)  # of an item that the catalogue does not hold: after all others

    def __call__(self, frame: pd.DataFrame, params: Mapping[str, Any]) -> pd.DataFrame:
        """The lists of a frame; memory: requests times `k` and the longest history.

        Args:
            frame: a row is a request; its column `history` is read.
            params: `k` and `filter_seen`.
        """
        lengths = frame["history"].map(len).to_numpy()
        seen = bool(params["filter_seen"]) and len(frame) > 0
        width = min(params["k"] + (int(lengths.max()) if seen else 0), len(self.order))
        keep = np.ones((len(frame), width), dtype=bool)
        if seen:
            items = frame["history"].explode().dropna()
            place = self.place[self.catalogue.get_indexer(pd.Index(items))]
            row = np.repeat(np.arange(len(frame)), lengths)
            keep[row[place < width], place[place < width]] = False
        rank = keep.cumsum(axis=1)
        request, place = np.nonzero(keep & (rank <= params["k"]))
        item = self.order[place]
        return pd.DataFrame(
            {
                "request": request,
                "item_id": self.catalogue[item],
                "rank": rank[request, place],
                "score": self.counts[item].astype(np.float64),
            }
        )
