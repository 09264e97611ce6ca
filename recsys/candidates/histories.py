"""Histories of users of a log, in the ids of a model: many users at a time, without a loop over users or events."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from recsys.candidates.files import JobError
from recsys.evaluation.scoring import device_of
from recsys.features.batch import SequenceBatch
from recsys.features.event_log import EventLog
from recsys.features.jagged import expand_ranges, offsets_of
from recsys.features.mixing import mixed
from recsys.features.vocabulary import Vocabulary, stable_hash
from recsys.models.trainable import TrainableNetwork
from recsys.retrieval.topk import Jagged
from recsys.tracking.bundle import Bundle, QueryError

Ids = NDArray[np.int64]
Hashes = NDArray[np.uint64]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
"""The step of splitmix64, by which zeros are mixed too."""


@dataclass(frozen=True)
class Histories:
    """What the log has of B users, oldest event first; events of items that the model does not know are left out.

    Attributes:
        log_ids: `[B]` int64 ids in the log; 0 for a user without events.
        users: `[B]` int64 ids in the bundle, 0 for somebody whom it does not name.
        events: `[T]` int64 indices into the log.
        items: `[T]` int64 ids in the bundle.
        offsets: `[B + 1]` int64, where the events of each user begin and end.
        unknown: `[B]` int64 events that were left out.
    """

    log_ids: Ids
    users: Ids
    events: Ids
    items: Ids
    offsets: Ids
    unknown: Ids

    def __len__(self) -> int:
        """Number of users."""
        return len(self.users)

    @property
    def lengths(self) -> Ids:
        """`[B]` known events of each user."""
        return np.diff(self.offsets)

    @property
    def seen(self) -> Jagged:
        """All items of the histories, also those beyond what a model reads."""
        return Jagged(torch.from_numpy(self.items), torch.from_numpy(self.offsets))

    @classmethod
    def of_nobody(cls) -> Histories:
        """One user of whom nothing is known."""
        nothing, one = np.zeros(0, dtype=np.int64), np.zeros(1, dtype=np.int64)
        return cls(one, one, nothing, nothing, np.zeros(2, dtype=np.int64), one)

    def of(self, rows: Ids) -> Histories:
        """Those of some rows."""
        lengths = self.lengths[rows]
        at = expand_ranges(self.offsets[rows], lengths)
        return Histories(
            self.log_ids[rows],
            self.users[rows],
            self.events[at],
            self.items[at],
            offsets_of(lengths),
            self.unknown[rows],
        )


class HistoryReader:
    """Reads histories of a log for a bundle.

    Memory: 8 bytes an item of the log, and 8 a distinct query.

    Args:
        log: with the events.
        bundle: of the model that will be asked.

    Raises:
        JobError: raw ids of the log are integers and those of the bundle strings, or the other way round.
    """

    def __init__(self, log: EventLog, bundle: Bundle) -> None:
        self.log, self.bundle = log, bundle
        self.item_ids = np.append(0, self._encoded("item", log.items.values, bundle.items, bundle.model.n_items))
        self._actions = self._action_codes()
        words = log.vocabularies.get("query") if "query" in log.columns else None
        self._words = None if words is None else np.append("", words.values.astype(str).to_numpy(dtype=object))
        self._word_hashes = None if self._words is None else stable_hash(self._words)

    def read(self, log_ids: Ids, raw_users: NDArray[np.generic]) -> Histories:
        """The histories of B users.

        Args:
            log_ids: `[B]` int64 ids in the log, 0 for users without events.
            raw_users: `[B]` raw ids.
        """
        start, lengths = self.log.offsets[log_ids], self.log.offsets[log_ids + 1] - self.log.offsets[log_ids]
        events = expand_ranges(start, lengths)
        items = self.item_ids[self.log.item_id[events]]
        known = items > 0
        row = np.repeat(np.arange(len(log_ids)), lengths)
        kept = np.bincount(row[known], minlength=len(log_ids))
        users = self._users(raw_users)
        return Histories(log_ids, users, events[known], items[known], offsets_of(kept), lengths - kept)

    def batch(self, histories: Histories, queries: NDArray[np.object_] | None) -> SequenceBatch:
        """What the model reads of histories and of what is asked for; see `Bundle.batch`.

        Args:
            histories: B of them.
            queries: `[B]` texts, None for a user who does not search; None: nobody does.
        """
        lengths = histories.lengths
        kept = lengths if self.bundle.max_length is None else np.minimum(lengths, self.bundle.max_length)
        at = expand_ranges(histories.offsets[1:] - kept, kept)
        events = histories.events[at]
        acted = self.bundle.schema.events.action is not None
        return SequenceBatch.build(
            user_id=torch.from_numpy(histories.users),
            lengths=torch.from_numpy(kept),
            item_id=torch.from_numpy(histories.items[at]),
            timestamp=torch.from_numpy(self.log.timestamp[events].astype(np.int64)),
            extra={"action": torch.from_numpy(self._acts(events))} if acted else None,
            **self._read_queries(events, queries),
        ).to(device_of(self.bundle.model))

    def hashes(self, histories: Histories, queries: NDArray[np.object_] | None) -> Hashes:
        """`[B]` uint64: what the model can know of each user, in 64 bits; equal for equal histories and queries.

        An event counts with its item, time, action, query and place, so that one that comes late, is taken back or is
        corrected changes the hash.
        """
        events, lengths = histories.events, histories.lengths
        mixed = mix(histories.items.view(np.uint64))
        mixed = mix(mixed ^ self.log.timestamp[events].astype(np.int64).view(np.uint64))
        mixed = mix(mixed ^ self._acts(events).view(np.uint64))
        if self._word_hashes is not None:
            mixed = mix(mixed ^ self._word_hashes[self.log.columns["query"][events]])
        place = np.arange(len(events)) - np.repeat(histories.offsets[:-1], lengths)
        found = segment_sums(mix(mixed + place.view(np.uint64) * _GOLDEN), histories.offsets)
        found = mix(found ^ lengths.view(np.uint64)) ^ mix(histories.users.view(np.uint64))
        if queries is not None:
            asked = queries != None  # noqa: E711  (elementwise)
            found[asked] = mix(found[asked] ^ stable_hash(queries[asked]))
        return found

    def _users(self, raw: NDArray[np.generic]) -> Ids:
        users = self.bundle.users
        if users is None:
            return np.zeros(len(raw), dtype=np.int64)
        return self._encoded("user", raw, users, len(users))

    def _encoded(self, kind: str, raw: NDArray[np.generic] | pd.Index, by: Vocabulary, largest: int) -> Ids:
        """Ids of raw values, 0 for those that the bundle does not know."""
        try:
            found = by.encode(raw)
        except TypeError as error:
            raise JobError(
                f"ids of {kind}s are written differently in the log and for the model ({error}); give the log the type "
                "that it had in training"
            ) from None
        return np.where(found <= min(largest, len(by)), found, 0)

    def _action_codes(self) -> Ids | None:
        """The code, for the model, of each action of the log; None: nothing is known of actions."""
        model = self.bundle.model
        if "action" not in self.log.columns or not isinstance(model, TrainableNetwork):
            return None
        words = self.log.vocabularies["action"].values.astype(str)
        codes = {word: code for code, word in enumerate(model.catalogue.actions, start=1)}
        return np.array([0, *(codes.get(word, 0) for word in words)], dtype=np.int64)

    def _acts(self, events: Ids) -> Ids:
        if self._actions is None:
            return np.zeros(len(events), dtype=np.int64)
        return self._actions[self.log.columns["action"][events]]

    def _read_queries(self, events: Ids, asked: NDArray[np.object_] | None) -> dict[str, object]:
        """The queries of events and requests as fields of a batch; each distinct text is read once."""
        reader = self.bundle.queries
        if reader is None:
            if asked is not None and any(asked):
                raise QueryError("the model reads no queries: leave the column `query` out of the list of users")
            return {}
        codes = self.log.columns["query"][events] if self._words is not None else np.zeros(len(events), dtype=np.int64)
        distinct, place = np.unique(codes, return_inverse=True)
        texts = [] if self._words is None else self._words[distinct].tolist()
        queries, rows = reader.read([*texts, *([] if asked is None else asked.tolist())])
        past = rows[: len(texts)][place] if len(texts) else np.zeros(len(events), dtype=np.int64)
        request = None if asked is None else torch.from_numpy(rows[len(texts) :])
        return {"queries": queries, "query": torch.from_numpy(past), "request_query": request}


def mix(values: Hashes) -> Hashes:
    """A step of splitmix64: see `mixed`."""
    return mixed(values + _GOLDEN)


def segment_sums(values: Hashes, offsets: Ids) -> Hashes:
    """`[B]` uint64 sums of rows of values, modulo 2^64."""
    total = np.zeros(len(values) + 1, dtype=np.uint64)
    np.cumsum(values, out=total[1:])
    return total[offsets[1:]] - total[offsets[:-1]]
