"""What a decoder reads of the histories of a batch, and what it keeps of them for requests."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from recsys.models.decoder import Cache


class Inputs(NamedTuple):
    """What goes into the decoder.

    Attributes:
        x: `[B, N, width]` padded token inputs.
        at: `[T]` int64, the flat place of each event in `[B * N]`.
        multiplier: complex64 rotations, broadcast to `[B, heads, N, head_dim / 2]`.
        newest: `[B]` int64, the newest time of each user.
        queries: `[Q + 1, width]` as tokens take them; None for a model or a batch without queries.
        words: `[Q + 1, word_width]` as items are matched with them, row 0 zero.
    """

    x: Tensor
    at: Tensor
    multiplier: Tensor
    newest: Tensor
    queries: Tensor | None
    words: Tensor


class Context(NamedTuple):
    """The encoded histories of a batch, which any number of slots may ask.

    Attributes:
        states: `[T, width + word_width]`, one after each event; it asks for no words.
        caches: of each layer.
        offsets: `[B + 1]` int64, where each user's events begin and end.
        length: padded length N of the caches.
        newest: `[B]` int64, the newest time of each user.
        queries: as of the inputs.
        words: as of the inputs.
    """

    states: Tensor
    caches: list[Cache]
    offsets: Tensor
    length: int
    newest: Tensor
    queries: Tensor | None
    words: Tensor
