"""From event ranges to jagged batches, length-bucketed, with a position that a checkpoint can hold."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from recsys.features.batch import SequenceBatch
from recsys.features.epochs import Epochs
from recsys.features.event_log import EventLog
from recsys.features.jagged import expand_ranges
from recsys.features.requests import cutoffs, opens_request
from recsys.features.splits import Split


def histories(
    log: EventLog,
    users: np.ndarray,
    start: np.ndarray,
    end: np.ndarray,
    max_length: int | None = None,
    request_query: np.ndarray | None = None,
) -> SequenceBatch:
    """The last `max_length` events of each range, as a batch without targets.

    Args:
        log: the event log.
        users: `[B]` int64 user ids.
        start: `[B]` int64, first event of each range.
        end: `[B]` int64, one past its last event; an empty range is a user without history.
        max_length: None keeps whole ranges.
        request_query: `[B]` codes of the queries that are asked for, 0 for none; None: nobody searches.
    """
    if max_length is not None:
        start = np.maximum(start, end - max_length)
    lengths = end - start
    at = expand_ranges(start, lengths)
    return SequenceBatch.build(
        user_id=torch.from_numpy(np.ascontiguousarray(users, dtype=np.int64)),
        lengths=torch.from_numpy(np.ascontiguousarray(lengths, dtype=np.int64)),
        item_id=torch.from_numpy(log.item_id[at].astype(np.int64)),
        timestamp=torch.from_numpy(log.timestamp[at].astype(np.int64)),
        **_actions(log, at),
        **_queries(log, query=at, request_query=request_query),
    )


def _actions(log: EventLog, at: np.ndarray) -> dict[str, Any]:
    """The actions of events, where the log has them."""
    if "action" not in log.columns:
        return {}
    return {"extra": {"action": torch.from_numpy(log.columns["action"][at].astype(np.int64))}}


def _queries(log: EventLog, query: np.ndarray, **codes: np.ndarray | None) -> dict[str, Any]:
    """The queries of events, and further columns of query codes, where the schema reads queries.

    Args:
        log: the event log.
        query: `[T]` event indices.
        codes: name of a field -> query codes; None is left out.
    """
    if not log.schema.of("query"):
        return {}
    columns = {"query": log.columns["query"][query]} | {name: code for name, code in codes.items() if code is not None}
    queries, rows = log.queries(np.concatenate(list(columns.values())).astype(np.int64))
    parts = torch.from_numpy(rows).split([len(code) for code in columns.values()])
    return {"queries": queries, **dict(zip(columns, parts, strict=True))}


def padded_share(lengths: Tensor) -> float:
    """Share of a padded `[B, max length]` grid that holds no event."""
    if lengths.numel() == 0:
        return 0.0
    return 1.0 - float(lengths.sum()) / (lengths.numel() * max(int(lengths.max()), 1))


class TrainingBatches(Epochs):
    """Endless supply of training epochs over the windows of a split; one `iter` is one epoch.

    A window is up to `max_length` consecutive events of one user, each with the event after it as target. Users with
    a longer history give one window that ends at their last training event, and further ones `stride` events earlier
    each (None: only the last; at most `max_length`, so that every event stands in one).

    Windows are shuffled, sorted by length with ties left in shuffled order, cut into batches, and the batches are
    shuffled: almost nothing is padded, and every epoch groups other users. The order is a function of the seed and the
    epoch alone, so that `state_dict` is two numbers, however large the log.

    Several processes share each batch: `rank` takes every `ranks`-th of its windows, so that the step is the one that a
    single process would make, whatever their number. A process for which a last, short batch has nothing left gets a
    copy of a window without targets: it takes part in the step and adds nothing.

    Args:
        split: whose training events are used.
        batch_size: windows of a step, of all processes together.
        max_length: events of a window.
        stride: events from one window of a user to the next; None: one window a user.
        seed: of the order.
        rank: this process.
        ranks: number of processes.
    """

    def __init__(
        self,
        split: Split,
        batch_size: int,
        max_length: int,
        stride: int | None = None,
        seed: int = 0,
        rank: int = 0,
        ranks: int = 1,
    ):
        if batch_size < 1 or max_length < 1 or (stride is not None and stride < 1):
            raise ValueError("batch_size, max_length and stride must be positive")
        if stride is not None and stride > max_length:
            raise ValueError(f"stride {stride} exceeds max_length {max_length}: events between windows would be lost")
        if not 0 <= rank < ranks:
            raise ValueError(f"rank {rank} is none of {ranks} processes")
        self.log, self.batch_size, self.max_length, self.seed = split.log, batch_size, max_length, seed
        self.rank, self.ranks = rank, ranks
        self.users, self.start, self.end = _windows(split.train_start, split.train_end, max_length, stride)
        if not len(self.users):
            raise ValueError("the split has no user with two training events: nothing to learn from")

    def __len__(self) -> int:
        return -(-len(self.users) // self.batch_size)

    @property
    def n_windows(self) -> int:
        """Training sequences of one epoch."""
        return len(self.users)

    def padding(self) -> float:
        """Padded share of the attention slots over one epoch."""
        lengths = np.sort(self.end - self.start)
        groups = [lengths[i : i + self.batch_size] for i in range(0, len(lengths), self.batch_size)]
        return 1.0 - float(lengths.sum()) / sum(len(group) * int(group[-1]) for group in groups)

    def _order(self) -> tuple[np.ndarray, np.ndarray]:
        """Windows in this epoch's order, and the order of its batches."""
        random = np.random.default_rng([self.seed, self.epoch])
        shuffled = random.permutation(len(self.users))
        rows = shuffled[np.argsort((self.end - self.start)[shuffled], kind="stable")]
        return rows, random.permutation(len(self))

    def __iter__(self) -> Iterator[SequenceBatch]:
        rows, batches = self._order()
        for place in self.places():
            first = batches[place] * self.batch_size
            yield self._share(rows[first : first + self.batch_size])

    def _share(self, rows: np.ndarray) -> SequenceBatch:
        """This process's part of the batch `rows`."""
        own = rows[self.rank :: self.ranks]
        if len(own):
            return self.batch(own)
        idle = self.batch(rows[:1])
        assert idle.target is not None
        return replace(idle, target=torch.zeros_like(idle.target))

    def batch(self, rows: np.ndarray) -> SequenceBatch:
        """The windows `rows` with their targets."""
        start, lengths = self.start[rows], self.end[rows] - self.start[rows]
        at = expand_ranges(start, lengths)
        log, items, times = self.log, self.log.item_id, self.log.timestamp
        acted = "action" in log.columns
        asked = log.columns["query"][at + 1] if log.schema.of("query") else None
        placed = "position" in log.columns
        return SequenceBatch.build(
            user_id=torch.from_numpy(self.users[rows]),
            lengths=torch.from_numpy(lengths),
            item_id=torch.from_numpy(items[at].astype(np.int64)),
            timestamp=torch.from_numpy(times[at].astype(np.int64)),
            target=torch.from_numpy(items[at + 1].astype(np.int64)),
            target_timestamp=torch.from_numpy(times[at + 1].astype(np.int64)),
            target_action=torch.from_numpy(log.columns["action"][at + 1].astype(np.int64)) if acted else None,
            target_position=torch.from_numpy(log.columns["position"][at + 1].astype(np.int64)) if placed else None,
            cutoff=torch.from_numpy(cutoffs(opens_request(log, at + 1), lengths)),
            **_actions(log, at),
            **_queries(log, query=at, target_query=asked),
        )


def _windows(
    start: np.ndarray, end: np.ndarray, max_length: int, stride: int | None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """User, first input event and one past the last input event of each window (the target follows each input)."""
    pairs = end - start - 1  # inputs that have a target
    users = np.flatnonzero(pairs > 0)
    overflow = np.maximum(pairs[users] - max_length, 0)
    extra = np.zeros_like(overflow) if stride is None else -(-overflow // stride)
    row = np.repeat(np.arange(len(users)), extra + 1)
    step = np.arange(len(row)) - np.repeat(np.cumsum(extra + 1) - (extra + 1), extra + 1)
    last = end[users][row] - 1 - step * (stride or 0)
    first = np.maximum(last - max_length, start[users][row])
    return users[row].astype(np.int64), first.astype(np.int64), last.astype(np.int64)
