"""The ids by which a model knows the items and users of a world, where they are not the world's."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from recsys.features.batch import SequenceBatch
from recsys.features.event_log import EventLog


@dataclass(frozen=True)
class ModelIds:
    """From the ids of the world to those of a model, and back.

    Attributes:
        items: `[n_items + 1]` int64, the model's id of each item of the world; 0: the model does not know it, and it is
            never recommended.
        users: `[n_users + 1]` int64, likewise; 0: a stranger.
    """

    items: Tensor
    users: Tensor

    @classmethod
    def of_log(cls, log: EventLog, n_users: int, n_items: int) -> ModelIds:
        """For models of a log whose raw ids are the ids of a world.

        Args:
            log: the log.
            n_users: of the world.
            n_items: of the world.

        Example:
            >>> import pandas as pd
            >>> from recsys.features.schema import Schema
            >>> frame = pd.DataFrame({"user_id": [2, 2], "item_id": [4, 1], "timestamp": [5, 6]})
            >>> ids = ModelIds.of_log(EventLog.from_frame(frame, Schema(name="clicks")), n_users=2, n_items=4)
            >>> ids.items.tolist(), ids.users.tolist()
            ([0, 1, 0, 0, 2], [0, 0, 1])
        """
        columns = []
        for vocabulary, size in ((log.items, n_items), (log.users, n_users)):
            found = torch.from_numpy(vocabulary.encode(torch.arange(1, size + 1).numpy()))
            columns.append(torch.cat([torch.zeros(1, dtype=torch.int64), found]))
        return cls(*columns)

    def batch(self, batch: SequenceBatch) -> SequenceBatch:
        """Histories with the ids of the model; events of items that it does not know are left out."""
        item = self.items[batch.item_id]
        known = item > 0
        row = torch.repeat_interleave(torch.arange(len(batch)), batch.lengths)
        lengths = torch.bincount(row[known], minlength=len(batch))
        return SequenceBatch.build(self.users[batch.user_id], lengths, item[known], batch.timestamp[known])

    def back(self, items: Tensor) -> Tensor:
        """Items of the model, of any shape, by the ids of the world."""
        back = torch.zeros(int(self.items.max()) + 1, dtype=torch.int64)
        known = self.items > 0
        back[self.items[known]] = known.nonzero().squeeze(1)
        return back[items]
