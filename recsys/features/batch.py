"""A batch of user histories: jagged, never padded."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor
from torchrec.sparse.jagged_tensor import KeyedJaggedTensor

from recsys.features.queries import Queries


@dataclass(frozen=True)
class SequenceBatch:
    """Histories of B users with T events in all, oldest event first.

    Attributes:
        user_id: `[B]` int64, dense user ids; 0 for a user the log does not know.
        features: sparse event features; key `item_id` has the T item ids, other keys (`action`, ...) the same lengths.
        timestamp: `[T]` int64, Unix seconds of each event.
        target: `[T]` int64, the item that follows each event; 0 carries no loss. None outside training.
        target_timestamp: `[T]` int64, the time of the request that `target` answers. None outside training.
        target_action: `[T]` int64, what was done with `target`. None outside training and for logs without actions.
        target_position: `[T]` int64, where `target` stood when it was chosen. None outside training and for logs
            without positions.
        target_query: `[T]` int64, the row of `queries` that `target` answers. None outside training or without any.
        cutoff: `[T]` int64, events of the user that lie before the request of `target`: what a model may know of when
            it is asked. None outside training.
        request_timestamp: `[B]` int64, the time for which recommendations are wanted. None: the time of the last event.
        request_query: `[B]` int64, the row of `queries` that is asked for; 0 asks for recommendations. None: nobody
            searches.
        queries: the queries that `query`, `target_query` and `request_query` name. None: there are none.
        query: `[T]` int64, the row of `queries` that each event answered. None: there are none.
    """

    user_id: Tensor
    features: KeyedJaggedTensor
    timestamp: Tensor
    target: Tensor | None = None
    target_timestamp: Tensor | None = None
    target_action: Tensor | None = None
    target_query: Tensor | None = None
    target_position: Tensor | None = None
    cutoff: Tensor | None = None
    request_timestamp: Tensor | None = None
    request_query: Tensor | None = None
    queries: Queries | None = None
    query: Tensor | None = None

    @property
    def item_id(self) -> Tensor:
        """`[T]` int64 item ids of the events, users one after the other."""
        return self.features["item_id"].values()

    @property
    def lengths(self) -> Tensor:
        """`[B]` number of events of each user (0 for a user without history)."""
        return self.features["item_id"].lengths()

    @property
    def offsets(self) -> Tensor:
        """`[B + 1]` where each user's events begin and end."""
        return self.features["item_id"].offsets()

    def __len__(self) -> int:
        return self.user_id.shape[0]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> SequenceBatch:
        """The same batch on another device."""
        moved: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, KeyedJaggedTensor):
                moved[field.name] = value.to(torch.device(device), non_blocking=non_blocking)
            elif value is not None:
                moved[field.name] = value.to(device, non_blocking=non_blocking)
        return replace(self, **moved)

    def pin_memory(self) -> SequenceBatch:
        """The same batch in page-locked memory (the data loader calls it)."""
        pinned: dict[str, Any] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if value is not None:
                pinned[field.name] = value.pin_memory()
        return replace(self, **pinned)

    @classmethod
    def build(
        cls,
        user_id: Tensor,
        lengths: Tensor,
        item_id: Tensor,
        timestamp: Tensor,
        extra: dict[str, Tensor] | None = None,
        **others: Any,
    ) -> SequenceBatch:
        """Builds a batch from flat tensors.

        Args:
            user_id: `[B]` int64.
            lengths: `[B]` int64, events of each user.
            item_id: `[T]` int64 with `T = lengths.sum()`.
            timestamp: `[T]` int64 seconds.
            extra: further event features, `[T]` int64 each.
            others: further fields of the class by name.
        """
        columns = {"item_id": item_id} | (extra or {})
        features = KeyedJaggedTensor(
            keys=list(columns),
            values=torch.cat(list(columns.values())),
            lengths=lengths.repeat(len(columns)),
        )
        return cls(user_id=user_id, features=features, timestamp=timestamp, **others)
