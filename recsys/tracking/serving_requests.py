"""Requests to a served model: the rows of a data frame, read with the names that a bundle has."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from recsys.features.jagged import offsets_of
from recsys.models.trainable import TrainableNetwork
from recsys.tracking.history import History

if TYPE_CHECKING:
    from recsys.features.vocabulary import Vocabulary
    from recsys.tracking.bundle import Bundle

_INTEGER = r"^(0|-?[1-9][0-9]{0,17})$"
_log = logging.getLogger(__name__)


class ServingError(ValueError):
    """A request that cannot be answered; the message names its row and says what to give."""


@dataclass(frozen=True)
class ServingRequests:
    """B requests.

    Attributes:
        users: `[B]` objects, raw ids as given; None for nobody in particular.
        histories: B histories; items that the model does not know are left out.
        queries: B texts, None for a request that searches for nothing. None: nobody searches.
        times: `[B]` int64 Unix seconds at which each is asked. None: all right after their last events.
        candidates: `[C]` int64 item ids, request by request.
        offsets: `[B + 1]` int64, where the candidates of each request begin and end.
        restricted: `[B]` bool, whether a request has candidates; the others ask for the whole catalogue.
    """

    users: NDArray[np.object_]
    histories: list[History]
    queries: list[str | None] | None
    times: NDArray[np.int64] | None
    candidates: NDArray[np.int64]
    offsets: NDArray[np.int64]
    restricted: NDArray[np.bool_]

    def __len__(self) -> int:
        """Number of requests."""
        return len(self.histories)

    @classmethod
    def read(cls, frame: pd.DataFrame, bundle: Bundle) -> ServingRequests:
        """Reads the rows of a frame.

        Args:
            frame: a row is a request. Columns, each of which may be missing, in single rows too:

                - `user_id`: string, raw id
                - `history`: strings, raw ids of the user's items, oldest first
                - `history_times`: integers, Unix seconds of these; missing: as far apart as events are as a rule
                - `history_queries`: strings, the query that each of these answered, empty for none
                - `history_actions`: strings, what was done with each of these, empty where that is not known
                - `query`: string, what is searched for
                - `time`: integer, Unix seconds at which is asked; missing: right after the last event
                - `candidates`: strings, the only items to order; missing: the whole catalogue
            bundle: of the model.

        Raises:
            ServingError: a column holds something else, a list does not fit its history, the model cannot tell who
                asks, or it does not know a candidate.
        """
        users, queries = _column(frame, "user_id", pa.string()), _column(frame, "query", pa.string())
        history, candidates = _lists(frame, "history", pa.string()), _lists(frame, "candidates", pa.string())
        _check_asked(bundle, users, history, queries)
        histories = _histories(frame, bundle, history, _user_ids(bundle, users))
        return cls(
            users=np.array([*users.to_pylist(), None], dtype=object)[:-1],
            histories=histories,
            queries=queries.to_pylist() if queries.null_count < len(queries) else None,
            times=_times(_column(frame, "time", pa.int64()), histories),
            candidates=_known(bundle, candidates),
            offsets=candidates.offsets,
            restricted=candidates.given,
        )


class _Lists(NamedTuple):
    """A column of lists: row b owns `values[offsets[b]:offsets[b + 1]]`, and has no list where `given` is False."""

    name: str
    values: pa.Array
    offsets: NDArray[np.int64]
    given: NDArray[np.bool_]

    @property
    def rows(self) -> NDArray[np.int64]:
        """`[T]` the row of each value."""
        return np.repeat(np.arange(len(self.given)), np.diff(self.offsets))


def item_ids(bundle: Bundle, words: Sequence[str] | pa.Array) -> NDArray[np.int64]:
    """`[n]` int64 ids of `[n]` raw item ids, given as strings; 0 for one that the model does not know."""
    ids = _encoded(bundle.items, words if isinstance(words, pa.Array) else pa.array(words, pa.string()))
    return np.where(ids <= bundle.model.n_items, ids, 0)


def named(words: Sequence[str], shown: int = 5) -> str:
    """The first few words, and how many more there are."""
    more = f" and {len(words) - shown} more" if len(words) > shown else ""
    return ", ".join(f"`{word}`" for word in words[:shown]) + more


def _encoded(vocabulary: Vocabulary, words: pa.Array) -> NDArray[np.int64]:
    """Ids 1..n; 0 for what the vocabulary does not know."""
    if not len(words):
        return np.zeros(0, dtype=np.int64)
    if vocabulary.values.dtype == np.int64:
        integer = pc.match_substring_regex(words, _INTEGER).fill_null(False)
        numbers = pc.if_else(integer, words, "0").cast(pa.int64()).to_numpy(zero_copy_only=False)
        ids = vocabulary.encode(numbers) * integer.to_numpy(zero_copy_only=False)
    else:
        ids = vocabulary.encode(words.to_pandas())
    return np.where(ids <= len(vocabulary), ids, 0)  # beyond are buckets of unknown ones


def _user_ids(bundle: Bundle, users: pa.Array) -> NDArray[np.int64]:
    return np.zeros(len(users), dtype=np.int64) if bundle.users is None else _encoded(bundle.users, users)


def _known(bundle: Bundle, candidates: _Lists) -> NDArray[np.int64]:
    ids = item_ids(bundle, candidates.values)
    unknown = np.flatnonzero(ids == 0)
    if len(unknown):
        row = candidates.rows[unknown[0]]
        words = candidates.values.take(unknown[candidates.rows[unknown] == row]).to_pylist()
        raise ServingError(f"row {row}: the model does not know the candidates {named(words)}; leave them out")
    return ids


def _check_asked(bundle: Bundle, users: pa.Array, history: _Lists, queries: pa.Array) -> None:
    """Sees that the model can tell who asks.

    Raises:
        ServingError: it cannot.
    """
    name = type(bundle.model).__name__
    user, lengths = np.asarray(users.is_valid()), np.diff(history.offsets)
    nobody = ~user & ~history.given & ~np.asarray(queries.is_valid())
    for row in np.flatnonzero(nobody)[:1]:
        by_id = "" if bundle.users is None else " or `user_id`"
        raise ServingError(f"row {row}: says nothing of who asks; give `history` ([] for somebody new){by_id}")
    reads = bundle.model.reads_history
    if bundle.users is None:
        for row in np.flatnonzero(user & ~(history.given & reads))[:1]:
            remedy = f"give `history`, what user `{users[row]}` had ([] for somebody new)"
            if not reads:
                remedy = "its bundle was saved before names of users were kept: save the model again"
            raise ServingError(f"row {row}: {name} cannot tell user `{users[row]}` by id; {remedy}")
    if not reads:
        for row in np.flatnonzero(~user & (lengths > 0))[:1]:
            raise ServingError(f"row {row}: {name} knows users by their ids and reads no history; give `user_id`")


def _histories(frame: pd.DataFrame, bundle: Bundle, items: _Lists, users: NDArray[np.int64]) -> list[History]:
    """The history of each row without the items that the model does not know."""
    ids = item_ids(bundle, items.values)
    known = ids > 0
    if not known.all():
        _log.warning("%d of %d items of histories are unknown to the model and left out", (~known).sum(), len(known))
    rows = items.rows[known]
    offsets = offsets_of(np.bincount(rows, minlength=len(users)))
    times = (np.arange(len(rows)) - offsets[:-1][rows]) * bundle.gap
    given, of = _beside(frame, "history_times", pa.int64(), items)
    if of.any():
        written = np.zeros(len(ids), dtype=np.int64)
        written[of] = given.to_numpy(zero_copy_only=False)
        falls = np.flatnonzero(of[1:] & (np.diff(written) < 0) & (np.diff(items.rows) == 0))
        for place in falls[:1]:
            raise ServingError(f"row {items.rows[place]}: `history_times` must not fall; give the oldest item first")
        times = np.where(of[known], written[known], times)
    queries = _texts(frame, "history_queries", items) if bundle.queries is not None else None
    actions = _actions(frame, bundle, items)
    kept = ids[known]
    return [
        History(
            kept[at],
            times[at],
            int(user),
            None if queries is None else queries[known][at].tolist(),
            None if actions is None else actions[known][at],
        )
        for user, at in zip(users, map(slice, offsets[:-1], offsets[1:]), strict=True)
    ]


def _actions(frame: pd.DataFrame, bundle: Bundle, items: _Lists) -> NDArray[np.int64] | None:
    """`[T]` int64 codes of what was done with items, 0 where that is not known; None: nowhere."""
    words = _texts(frame, "history_actions", items)
    if words is None or not isinstance(bundle.model, TrainableNetwork):
        return None
    codes = pd.Index(bundle.model.catalogue.actions, dtype=object)
    return codes.get_indexer(pd.Index(words, dtype=object)).astype(np.int64) + 1


def _texts(frame: pd.DataFrame, name: str, items: _Lists) -> NDArray[np.object_] | None:
    """`[T]` texts beside the items of histories, None where there is none; None: nowhere."""
    given, of = _beside(frame, name, pa.string(), items)
    if not of.any():
        return None
    texts = np.full(len(of), None, dtype=object)
    texts[of] = given.to_numpy(zero_copy_only=False)
    texts[texts == ""] = None
    return texts


def _beside(frame: pd.DataFrame, name: str, kind: pa.DataType, items: _Lists) -> tuple[pa.Array, NDArray[np.bool_]]:
    """The values of a column that has a value for each item of histories, and `[T]` which items have one.

    Raises:
        ServingError: a row has another number of them.
    """
    found = _lists(frame, name, kind)
    lengths, wanted = np.diff(found.offsets), np.diff(items.offsets)
    for row in np.flatnonzero(found.given & (lengths != wanted))[:1]:
        raise ServingError(f"row {row}: {lengths[row]} values in `{name}` for {wanted[row]} items in `history`")
    return found.values, found.given[items.rows]


def _times(times: pa.Array, histories: Sequence[History]) -> NDArray[np.int64] | None:
    """`[B]` when each is asked, at the time of the last event where nothing is said; None: nowhere is."""
    if times.null_count == len(times):
        return None
    last = np.array([history.times[-1] if len(history) else 0 for history in histories])
    return np.where(np.asarray(times.is_valid()), times.fill_null(0).to_numpy(zero_copy_only=False), last)


def _column(frame: pd.DataFrame, name: str, kind: pa.DataType) -> pa.Array:
    """A column, of nulls where it is not there.

    Raises:
        ServingError: it holds something else.
    """
    if name not in frame:
        return pa.nulls(len(frame), kind)
    try:
        return pa.array(frame[name].to_numpy(dtype=object), kind, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
        raise ServingError(f"column `{name}`: holds something other than {kind} ({error})") from None


def _lists(frame: pd.DataFrame, name: str, kind: pa.DataType) -> _Lists:
    """A column of lists.

    Raises:
        ServingError: it holds something else, or a list has a missing value.
    """
    if name in frame and any(isinstance(value, str) for value in frame[name]):  # Arrow takes one for a list of letters
        raise ServingError(f"column `{name}`: holds strings; give a list of them, if of one")
    column = _column(frame, name, pa.list_(kind))
    lengths = column.value_lengths().fill_null(0).to_numpy(zero_copy_only=False)
    found = _Lists(name, column.flatten(), offsets_of(lengths.astype(np.int64)), np.asarray(column.is_valid()))
    if found.values.null_count:
        row = found.rows[np.asarray(found.values.is_null())][0]
        raise ServingError(f"row {row}: a missing value in `{name}`; leave it out, or give an empty text")
    return found
