"""Answers of a saved model to the rows of a data frame."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from recsys.evaluation.scoring import device_of
from recsys.features.jagged import offsets_of
from recsys.models.recommender import VectorRecommender
from recsys.retrieval.reranking import candidate_scores, reranked
from recsys.retrieval.topk import BUDGET_BYTES, Jagged, Ranker, TopK
from recsys.tracking.bundle import Bundle
from recsys.tracking.history import History
from recsys.tracking.serving_requests import ServingError, ServingRequests, item_ids, named

_ROWS = 512
"""Requests that the model is given at a time."""

_CELLS = 2**22
"""Places of lists, denied items and the like that are held at a time, of all requests together."""

_CANDIDATES = 2**18
"""Given candidates that are scored at a time."""


@dataclass(frozen=True)
class ServingParams:
    """What holds for all requests of a call.

    Attributes:
        k: length of the lists.
        filter_seen: leave the items of the history out, candidates among them.
        retrieve: items to retrieve for the ranking of a model that ranks; 0: in the order of retrieval.
        allow: raw ids of the only items that may be given; empty: all.
        deny: raw ids of items that may not be given.

    Raises:
        ServingError: `k` or `retrieve` is out of range.
    """

    k: int = 10
    filter_seen: bool = True
    retrieve: int = 0
    allow: Sequence[str] = ()
    deny: Sequence[str] = ()

    def __post_init__(self) -> None:
        if self.k < 1 or self.retrieve < 0:
            raise ServingError(f"k must be at least 1 and retrieve at least 0, not {self.k} and {self.retrieve}")


class BundleServer:
    """Answers requests with a bundle, whose item vectors are computed once. Threads may ask side by side.

    Args:
        bundle: to answer with; its model is not trained further.
        version: of the model, as it stands in the answers.

    Example:
        >>> from recsys.features.event_log import EventLog
        >>> from recsys.features.schema import Schema
        >>> from recsys.features.splits import LeaveLastOut
        >>> from recsys.models.popularity import Popularity
        >>> events = pd.DataFrame({"user_id": list("aaaaabbbbb"), "item_id": list("xyyzzxxzyy")})
        >>> log = EventLog.from_frame(events.assign(timestamp=range(10)), Schema(name="shop"))
        >>> split = LeaveLastOut()(log)
        >>> model = Popularity()
        >>> model.fit(split)
        >>> server = BundleServer(Bundle.of(model, log, split.hash), "3")
        >>> answers = server.answer(pd.DataFrame({"history": [["x"], []]}), ServingParams(k=2))
        >>> answers[["request", "item_id", "rank"]].to_numpy().tolist()
        [[0, 'y', 1], [0, 'z', 2], [1, 'x', 1], [1, 'y', 2]]
    """

    def __init__(self, bundle: Bundle, version: str) -> None:
        self.bundle, self.version = bundle, version
        self._device = device_of(bundle.model)
        self._ranker = Ranker(bundle.model)
        self._ranker.prepare(self._device)

    def answer(self, frame: pd.DataFrame, params: ServingParams) -> pd.DataFrame:
        """The lists of all requests.

        Args:
            frame: a row is a request; see `ServingRequests.read`.
            params: of all of them.

        Returns:
            A row for each item of each list: `request` (int64, the row of the frame), `user_id` (as given, else None),
            `item_id` (string), `rank` (int64, from 1), `score` (float64), `model_version` (string). A list is shorter
            than `k` where fewer items may be given.

        Raises:
            ServingError: a request cannot be answered, or the lists of allowed items leave nothing.
            QueryError: a query to a model that reads none.
        """
        requests = ServingRequests.read(frame, self.bundle)
        allow, deny = self._ids("allow", params.allow), self._ids("deny", params.deny)
        if params.allow and not len(allow):
            raise ServingError(f"allow: the model knows none of the items {named(params.allow)}")
        parts = [
            *self._retrieved(requests, params, allow if params.allow else None, deny),
            *self._ordered(requests, params, allow if params.allow else None, deny),
        ]
        return self._frame(requests, parts)

    def _ids(self, name: str, words: Sequence[str]) -> NDArray[np.int64]:
        if not all(isinstance(word, str) for word in words):
            raise ServingError(f"{name}: must hold strings")
        ids = item_ids(self.bundle, words)
        return np.unique(ids[ids > 0])

    def _retrieved(
        self,
        requests: ServingRequests,
        params: ServingParams,
        allow: NDArray[np.int64] | None,
        deny: NDArray[np.int64],
    ) -> Iterator[tuple[NDArray[np.int64], TopK]]:
        """Rows that ask for the whole catalogue, a block at a time, with their lists."""
        model = self.bundle.model
        ranks = model.ranks and params.retrieve > 0
        k = min(params.k, model.n_items)
        n = min(max(k, params.retrieve), model.n_items) if ranks else k
        # Item vectors of allowed items are few, as a rule, and computed for the call; denied ones are looked over.
        ranker = self._ranker if allow is None else Ranker(model, allow=torch.from_numpy(allow))
        most = _ROWS if isinstance(model, VectorRecommender) else BUDGET_BYTES // (4 * (model.n_items + 1))
        for rows in _blocks(np.flatnonzero(~requests.restricted), min(most, _CELLS // max(n, len(deny)))):
            histories = [requests.histories[row] for row in rows]
            batch = self.bundle.batch(histories, *_asked(requests, rows)).to(self._device)
            denied = Jagged(torch.from_numpy(deny).repeat(len(rows)), torch.arange(len(rows) + 1) * len(deny))
            found = ranker(batch, n, seen=_items(histories) if params.filter_seen else None, deny=denied)
            yield rows, reranked(model, batch, found, k) if ranks else found

    def _ordered(
        self,
        requests: ServingRequests,
        params: ServingParams,
        allow: NDArray[np.int64] | None,
        deny: NDArray[np.int64],
    ) -> Iterator[tuple[NDArray[np.int64], TopK]]:
        """Rows with candidates, a block at a time, with these in their order."""
        model, lengths = self.bundle.model, np.diff(requests.offsets)
        own = np.flatnonzero(requests.restricted & (lengths > 0))
        given = np.full(model.n_items + 1, allow is None)
        if allow is not None:
            given[allow] = True
        given[deny] = False
        for rows in _blocks(own, _CANDIDATES // max(1, lengths.max(initial=0))):
            histories = [requests.histories[row] for row in rows]
            batch = self.bundle.batch(histories, *_asked(requests, rows)).to(self._device)
            candidates = _padded(requests, rows)
            candidates *= given[candidates]
            _drop_repeated(candidates)
            if params.filter_seen:
                seen = _items(histories)
                row = np.repeat(np.arange(len(rows)), np.diff(seen.offsets.numpy()))
                _drop(candidates, row, seen.values.numpy(), model.n_items)
            scores, order = candidate_scores(model, batch, torch.from_numpy(candidates).to(self._device)).sort(
                dim=1, descending=True, stable=True
            )
            items = torch.from_numpy(candidates).gather(1, order.cpu())
            yield rows, TopK(items[:, : params.k], scores[:, : params.k])

    def _frame(self, requests: ServingRequests, parts: Sequence[tuple[NDArray[np.int64], TopK]]) -> pd.DataFrame:
        """The lists of blocks of rows, in the order of the requests."""
        rows, ranks, items, scores = [], [], [], []
        for of, found in parts:
            place = found.items.nonzero()  # by row, then by rank
            rows.append(of[place[:, 0].cpu().numpy()])
            ranks.append(place[:, 1].cpu().numpy() + 1)
            items.append(found.items[tuple(place.T)].cpu().numpy())
            scores.append(found.scores[tuple(place.T)].double().cpu().numpy())
        row = np.concatenate([np.zeros(0, dtype=np.int64), *rows])
        order = np.argsort(row, kind="stable")
        item = self.bundle.items.decode(np.concatenate([np.zeros(0, dtype=np.int64), *items])[order])
        return pd.DataFrame(
            {
                "request": row[order],
                "user_id": pd.Series(requests.users[row[order]], dtype=object),
                "item_id": pd.Series(item.astype(str), dtype=str),
                "rank": np.concatenate([np.zeros(0, dtype=np.int64), *ranks])[order],
                "score": np.concatenate([np.zeros(0), *scores])[order],
                "model_version": pd.Series([self.version] * len(row), dtype=str),
            }
        )


def _blocks(rows: NDArray[np.int64], size: int) -> Iterator[NDArray[np.int64]]:
    size = max(1, min(size, _ROWS))
    return (rows[start : start + size] for start in range(0, len(rows), size))


def _asked(
    requests: ServingRequests, rows: NDArray[np.int64]
) -> tuple[Sequence[str | None] | None, NDArray[np.int64] | None]:
    """Queries and times of rows."""
    queries = None if requests.queries is None else [requests.queries[row] for row in rows]
    return queries, None if requests.times is None else requests.times[rows]


def _items(histories: Sequence[History]) -> Jagged:
    """All items of histories."""
    values = np.concatenate([history.items for history in histories])
    return Jagged(torch.from_numpy(values), torch.from_numpy(offsets_of(np.array([len(h) for h in histories]))))


def _padded(requests: ServingRequests, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """`[B, C]` the candidates of rows, 0 at the end of those that have fewer."""
    start, lengths = requests.offsets[rows], np.diff(requests.offsets)[rows]
    place = np.arange(lengths.max(initial=0))
    there = place < lengths[:, None]
    padded = np.zeros(there.shape, dtype=np.int64)
    padded[there] = requests.candidates[(start[:, None] + place)[there]]
    return padded


def _drop_repeated(candidates: NDArray[np.int64]) -> None:
    """Puts 0 in place of a candidate that its row has had before."""
    order = candidates.argsort(axis=1, kind="stable")
    ascending = np.take_along_axis(candidates, order, axis=1)
    repeated = np.zeros_like(ascending, dtype=bool)
    repeated[:, 1:] = ascending[:, 1:] == ascending[:, :-1]
    np.put_along_axis(candidates, order, np.where(repeated, 0, ascending), axis=1)


def _drop(candidates: NDArray[np.int64], row: NDArray[np.int64], item: NDArray[np.int64], n_items: int) -> None:
    """Puts 0 in place of pairs of row and item."""
    pairs = np.arange(len(candidates))[:, None] * (n_items + 1) + candidates
    candidates[np.isin(pairs, row * (n_items + 1) + item)] = 0
