"""What candidates are asked for with: users and their histories, and what they are looked for in."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.candidates.histories import Histories, HistoryReader, Ids
from recsys.features.batch import SequenceBatch
from recsys.features.event_log import EventLog
from recsys.features.jagged import JaggedColumn
from recsys.retrieval.topk import Jagged
from recsys.tracking.bundle import Bundle


class Inputs(NamedTuple):
    """What a source is opened with; ids of items are those of the model of the job.

    Attributes:
        bundle: of the model of the job.
        log: with the events of users.
        reader: of the histories of the log, for the bundle.
        allow: `[A]` int64, the only items that anybody may get; None: all.
        deny: `[D]` int64, items that nobody may get; None: none.
    """

    bundle: Bundle
    log: EventLog
    reader: HistoryReader
    allow: Tensor | None
    deny: Tensor | None


@dataclass(frozen=True)
class Asked:
    """B users for whom candidates are wanted; ids of items are those of the model of the job.

    Attributes:
        reader: of the histories, for the model of the job.
        raw_users: `[B]` raw ids.
        histories: what the log has of them.
        queries: `[B]` texts, None for a user who does not search; None: nobody does.
        seen: items that each may not get because of their history; None: they may get such items again.
        allow: the only items that each may get; None: all.
        deny: items that each may not get; None: none.
    """

    reader: HistoryReader
    raw_users: NDArray[np.generic]
    histories: Histories
    queries: NDArray[np.object_] | None
    seen: Jagged | None
    allow: Jagged | None
    deny: Jagged | None

    def __len__(self) -> int:
        """Number of users."""
        return len(self.histories)

    @cached_property
    def batch(self) -> SequenceBatch:
        """Histories and queries as the model of the job reads them."""
        return self.reader.batch(self.histories, self.queries)

    def of(self, rows: Ids) -> Asked:
        """Some of these users."""
        histories = self.histories.of(rows)
        return Asked(
            self.reader,
            self.raw_users[rows],
            histories,
            None if self.queries is None else self.queries[rows],
            None if self.seen is None else histories.seen,
            *(None if ids is None else of_rows(ids, rows) for ids in (self.allow, self.deny)),
        )


def of_rows(ids: Jagged, rows: Ids) -> Jagged:
    """Some rows of jagged ids."""
    found = JaggedColumn(ids.values.numpy(), ids.offsets.numpy()).gather(rows)
    return Jagged(torch.from_numpy(found.values), torch.from_numpy(found.offsets))
