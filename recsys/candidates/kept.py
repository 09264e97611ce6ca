"""Lists of an earlier job that are kept, because nothing that decides them has changed.

Whether something has is told by the hash of each user's history, not by times of events: an event that comes late lies
before the last one that was read, one that is taken back leaves no time at all, and both change the hash.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from recsys.candidates.histories import Hashes, Ids
from recsys.candidates.lists import Lists
from recsys.candidates.manifest import Manifest
from recsys.features.jagged import expand_ranges, offsets_of
from recsys.features.vocabulary import Vocabulary


class Kept:
    """The lists of a complete job, found by users.

    Memory: the names of two users of each part, and the parts that share users with the one that is made.

    Args:
        folder: of the job.
        items: raw ids of items.
        sources: names, by the numbers that stand in `Lists.source`.
        reasons: names, by the numbers that stand in `Lists.reason`.
    """

    def __init__(self, folder: Path, items: Vocabulary, sources: pa.Array, reasons: pa.Array) -> None:
        self._folder, self._items, self._sources, self._reasons = folder, items, sources, reasons
        self._names = sorted(name for name in Manifest.read(folder).files if "/" not in name)
        bounds = [_bounds(pq.ParquetFile(folder / "users" / name)) for name in self._names]
        self._first, self._last = (pd.Index([bound[end] for bound in bounds]) for end in (0, 1))

    def fill(self, found: Lists, users: NDArray[np.generic], hashes: Hashes) -> NDArray[np.bool_]:
        """Fills in the lists that stay as they were.

        Args:
            found: lists of a part.
            users: `[U]` raw ids of the part, ascending.
            hashes: `[U]` of what decides their lists now.

        Returns:
            `[U]` bool, which were filled in.
        """
        kept = np.zeros(len(users), dtype=np.bool_)
        begin = int(self._last.searchsorted(users[0], side="left"))
        end = int(self._first.searchsorted(users[-1], side="right"))
        for name in self._names[begin:end]:
            before = pq.read_table(self._folder / "users" / name)
            place = pd.Index(before["user_id"].to_pandas()).get_indexer(pd.Index(users))
            same = (place >= 0) & (before["history"].to_numpy()[place] == hashes)
            self._copy(found, np.flatnonzero(same), place[same], before, pq.read_table(self._folder / name))
            kept |= same
        return kept

    def _copy(self, found: Lists, rows: Ids, place: Ids, users: pa.Table, lists: pa.Table) -> None:
        """Copies the lists of the users `place` of an earlier part to `rows`."""
        lengths = users["items"].to_numpy().astype(np.int64)
        at = expand_ranges(offsets_of(lengths)[place], lengths[place])
        row, rank = np.repeat(rows, lengths[place]), lists["rank"].to_numpy()[at] - 1
        found.items[row, rank] = self._items.encode(lists["item_id"].to_pandas())[at]
        found.scores[row, rank] = lists["score"].to_numpy()[at]
        found.source[row, rank] = _numbers(lists["source"], self._sources)[at]
        found.reason[rows] = _numbers(users["reason"], self._reasons)[place]
        found.cold[rows] = users["cold"].to_numpy()[place]


def _numbers(words: pa.ChunkedArray, of: pa.Array) -> Ids:
    """The place of each word, 0 for a missing one."""
    return np.asarray(pc.index_in(words, value_set=of).fill_null(0).to_numpy()).astype(np.int64)


def _bounds(file: pq.ParquetFile) -> tuple[int | str, int | str]:
    """The first and the last user of a part."""
    users = file.read(columns=["user_id"])["user_id"]
    return users[0].as_py(), users[-1].as_py()
