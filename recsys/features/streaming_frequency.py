"""How often each item comes in a stream that never ends, learned as it passes."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


class StreamingFrequency:
    """Estimates the share that each item has of a stream of targets, which comes in batches.

    An item that comes again after `gap` targets, `count` times in that batch, has a share of `count / gap`. Moving
    averages of both are kept for each bucket of items, and their ratio is the share: both say the same of a bucket that
    a batch holds, whatever the sizes of batches and however often an item stands in one. A bucket begins with plain
    means, until the moving average remembers less.

    The source counts steps and not targets, and an item of a batch once: with batches of one size in which no item
    comes twice this is its estimate, as a share. It begins at a value that has to be given, and forgets it slowly;
    plain means have no such value.

    Args:
        buckets: of items, which share what they are counted in: item i is in bucket `i % buckets`. None: one an item.
        alpha: weight of the newest batch in the averages; the smaller it is, the smoother and the slower.

    Raises:
        ValueError: there is no bucket, or `alpha` is not between 0 and 1.

    Source:
        Yi et al., "Sampling-Bias-Corrected Neural Modeling for Large Corpus Item Recommendations", RecSys 2019,
        algorithm 2.

    Example:
        >>> frequency = StreamingFrequency()
        >>> frequency.setup(n_items=3)
        >>> for _ in range(8):
        ...     frequency.update(torch.tensor([1, 1, 1, 2]))
        >>> frequency.share(torch.tensor([1, 2, 3]))  # item 3 may be the next
        tensor([0.7500, 0.2500, 0.0303], dtype=torch.float64)
    """

    def __init__(self, buckets: int | None = None, alpha: float = 0.01):
        if buckets is not None and buckets < 1:
            raise ValueError(f"buckets must be at least 1, not {buckets}")
        if not 0 < alpha < 1:
            raise ValueError(f"alpha must lie between 0 and 1, not at {alpha}")
        self.buckets, self.alpha = buckets, alpha
        self.setup(0)

    def setup(self, n_items: int, device: torch.device | str = "cpu") -> None:
        """Begins anew.

        Args:
            n_items: items are 1..n_items.
            device: of what is kept, 32 bytes a bucket.
        """
        self._size = self.buckets if self.buckets is not None else n_items + 1
        self._seen = 0
        self._last, self._times = (torch.zeros(self._size, dtype=torch.int64, device=device) for _ in range(2))
        self._gap, self._count = (torch.zeros(self._size, dtype=torch.float64, device=device) for _ in range(2))

    def update(self, items: Tensor) -> None:
        """Takes note of a batch, the targets `[n]` int64, each as often as it comes."""
        bucket, count = torch.unique(items % self._size, return_counts=True)
        self._seen += len(items)
        self._times[bucket] += 1
        rate = (1 / self._times[bucket]).clamp(min=self.alpha)
        self._gap[bucket] += rate * (self._seen - self._last[bucket] - self._gap[bucket])
        self._count[bucket] += rate * (count - self._count[bucket])
        self._last[bucket] = self._seen

    def share(self, items: Tensor) -> Tensor:
        """Share of the stream that each item has, as estimated: `[...]` float64 of ids `[...]`.

        An item of a bucket that never came is given that of the next target: one more than have come so far.
        """
        bucket = items % self._size
        came = self._times[bucket] > 0
        return torch.where(came, self._count[bucket], 1) / torch.where(came, self._gap[bucket], self._seen + 1)

    def state_dict(self) -> dict[str, Any]:
        """All that it has learned."""
        kept = {"last": self._last, "times": self._times, "gap": self._gap, "count": self._count}
        return {name: tensor.clone() for name, tensor in kept.items()} | {"seen": self._seen}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continues from `state_dict()`.

        Raises:
            ValueError: it was of another number of buckets.
        """
        if len(state["last"]) != self._size:
            raise ValueError(
                f"frequencies of {len(state['last'])} buckets cannot go on with {self._size}: resume with the same "
                "`buckets` and the same items"
            )
        device, self._seen = self._last.device, state["seen"]
        self._last, self._times = state["last"].to(device, copy=True), state["times"].to(device, copy=True)
        self._gap, self._count = state["gap"].to(device, copy=True), state["count"].to(device, copy=True)
