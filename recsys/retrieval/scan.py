"""The best of consecutive places of an order, found by a scan in a narrow format and scored in float32."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from recsys.retrieval.blocks import BUDGET_BYTES, GROUP, ItemBlocks
from recsys.retrieval.order import ItemOrder, Jagged
from recsys.retrieval.scan_tables import BFloatTable, FloatTable, IntTable, Scan, Scanned, ScanTable, pair_scores
from recsys.retrieval.selection import NOTHING, keys_of, merge, score_of
from recsys.retrieval.threads import in_threads

_USER_BLOCK = 256
_PAIRS = 2**16
"""Pairs of a user and an item that are looked at one by one at a time."""

_SCORED = 2**13
"""Pairs that are gathered and scored at a time: few enough for the caches."""

_SPREAD = 8
"""Times k: the most pairs of a user for which lower bounds are looked at."""

_WAITING = 8
"""Times k: the most pairs of a user that wait to be scored, on average."""

_LARGEST_PRODUCT = 2.0**126
"""Of norms: below it no sum of products overflows, in whatever order it is taken."""


def scan_table(scan: Scan) -> type[ScanTable]:
    """The format of a scan; of "auto" the fastest that the processor multiplies natively."""
    if scan == "auto":
        native = torch.cpu.get_capabilities().get("avx512_bf16", False) and torch.backends.mkldnn.is_available()
        return BFloatTable if native else FloatTable
    return {"bf16": BFloatTable, "int8": IntTable, "fp32": FloatTable}[scan]


class ScannedBlocks(ItemBlocks):
    """`ItemBlocks` that scores in float32 only what a scan could not rule out.

    Keys are those of `pair_scores` of all pairs, whatever the format of the scan, the size of blocks or batches and the
    number of threads. Away from the CPU, without vectors, and for users whose scores might overflow, it is what
    `ItemBlocks` is. In a catalogue of a few blocks the product of all pairs takes less time than scoring some again.

    Memory beside that of `ItemBlocks`: the table (see `ScanTable`), and for each thread 32 bytes for each of about 8 k
    pairs a user, of 256 users, that wait to be scored.

    Args:
        order: of the items.
        places: which of it.
        scan: format.
    """

    def __init__(self, order: ItemOrder, places: range, scan: Scan) -> None:
        super().__init__(order, places)
        self._format = scan_table(scan)
        self._table: ScanTable | None = None

    def hold(self, vectors: Tensor) -> None:
        super().hold(vectors)
        self._table = None
        if vectors.device.type == "cpu" and all(torch.isfinite(rows).all() for rows in vectors):
            self._table = self._format(vectors)

    def best(
        self,
        source: Tensor,
        k: int,
        removed: Sequence[Jagged] = (),
        allowed: Jagged | None = None,
        budget: int = BUDGET_BYTES,
    ) -> Tensor:
        if self._table is None:
            return super().best(source, k, removed, allowed, budget)
        safe = source.double().norm(dim=1) * self._table.largest_norm < _LARGEST_PRODUCT  # False for NaN, too
        if safe.all():
            return self._scan(self._table, source, k, removed, allowed, budget)
        keys = super().best(source, k, removed, allowed, budget)
        found = self._scan(self._table, source.masked_fill(~safe[:, None], 0.0), k, removed, allowed, budget)
        return torch.where(safe[:, None], found, keys)

    def _scan(
        self,
        table: ScanTable,
        source: Tensor,
        k: int,
        removed: Sequence[Jagged],
        allowed: Jagged | None,
        budget: int,
    ) -> Tensor:
        rows, threads = len(source), torch.get_num_threads()
        keys = torch.full((rows, k), NOTHING, dtype=torch.int64)
        size = table.score_dtype.itemsize
        height = max(1, min(_USER_BLOCK, -(-rows // threads), budget // (size * threads * max(self._width, 1))))

        @torch.no_grad()
        def rank(top: int) -> None:
            bottom = min(top + height, rows)
            users = table.scanned(source[top:bottom])
            found = _Found(self, source[top:bottom], users.scale, keys[top:bottom])
            cells = torch.empty(self._width, bottom - top, dtype=table.score_dtype)
            for block in range(self._blocks):
                table.scores(users, block, cells)
                self._hide(cells, table.hidden, removed, allowed, top, block)
                self._look(table, users, block, cells, found, sample=not block and allowed is None)
            found.settle()

        in_threads(rank, range(0, rows if self._places else 0, height), threads)
        return keys

    def _hide(
        self,
        cells: Tensor,
        hidden: float,
        removed: Sequence[Jagged],
        allowed: Jagged | None,
        top: int,
        block: int,
    ) -> None:
        """Gives `hidden` to the cells `[width, B]` of items that the rows from `top` on must not get."""
        rows = cells.shape[1]
        flat = cells.view(-1)
        if allowed is not None:
            row, column = self._inside(allowed, top, top + rows, block)
            kept = flat[column * rows + row]
            flat.fill_(hidden)[column * rows + row] = kept
        for places in removed:
            row, column = self._inside(places, top, top + rows, block)
            flat[column * rows + row] = hidden
        cells[self._spare(block, cells.device)] = hidden

    def _look(self, table: ScanTable, users: Scanned, block: int, cells: Tensor, found: _Found, sample: bool) -> None:
        """Adds to `found` the items of a block whose cells `[width, B]` leave it open whether they are among the best.

        Args:
            table: that was scanned.
            users: who looks.
            block: of the table.
            cells: used up.
            found: so far.
            sample: take a first limit from this block.
        """
        rows = cells.shape[1]
        integers, error = table.integers(cells), table.error(users, block)
        peaks: Tensor | None = None
        if sample and found.k <= self._groups:
            # The best of k groups are k items.
            table.make_sortable(integers)
            peaks = integers.view(GROUP, self._groups, rows).amax(0)
            by_row = peaks.T.clone(memory_format=torch.contiguous_format).numpy()
            by_row.partition(self._groups - found.k, axis=1)
            kth = torch.from_numpy(by_row[:, self._groups - found.k].copy())
            found.limit = table.between(kth, torch.arange(rows), users, block)[0] - error
        cut = table.cut(found.limit - error, users, block)
        if peaks is None:
            if int(cut.min()) <= 0:
                table.make_sortable(integers)
            peaks = integers.view(GROUP, self._groups, rows).amax(0)
        least, flat = cut.numpy(), integers.view(-1).numpy()
        group_at = np.flatnonzero(peaks.numpy() >= least)
        member = np.arange(GROUP)[:, None] * (self._groups * rows)
        first = self._places.start + block * self._width
        for start in range(0, len(group_at), _PAIRS // GROUP):
            at = group_at[start : start + _PAIRS // GROUP]
            group, row = np.divmod(at, rows)
            values = flat[member + at]
            of_member, of_group = np.nonzero(values >= least[row])
            of_row = torch.from_numpy(row[of_group])
            low, high = table.between(torch.from_numpy(values[of_member, of_group]), of_row, users, block)
            place = torch.from_numpy(group[of_group] * GROUP + of_member + first)
            found.add(_Open(of_row, place, low - error[of_row], high + error[of_row]))


class _Open(NamedTuple):
    """Pairs of a user and an item that may be among the best of the user.

    Attributes:
        rows: `[n]` int64, the user.
        places: `[n]` int64, the item.
        low: `[n]` float64, the scaled score is no lower.
        high: `[n]` float64, it is no higher.
    """

    rows: Tensor
    places: Tensor
    low: Tensor
    high: Tensor

    def of(self, chosen: Tensor) -> _Open:
        """Some of them."""
        return _Open(*(column[chosen] for column in self))


class _Found:
    """What a scan has found for a block of users.

    Pairs wait to be scored, because most of those that early blocks leave open are ruled out by later ones: the k-th
    best lower bound of a user is a limit that all pairs must reach.

    Args:
        blocks: of the items.
        source: `[B, d]` float32 user vectors.
        scale: `[B]` float64, that of `Scanned`.
        keys: `[B, k]` int64, the best so far; changed in place.

    Attributes:
        limit: `[B]` float64 scaled scores: what is below is not among the k best.
    """

    def __init__(self, blocks: ScannedBlocks, source: Tensor, scale: Tensor, keys: Tensor) -> None:
        self._blocks, self._source, self._scale, self._keys = blocks, source, scale, keys
        self.k = keys.shape[1]
        self.limit = torch.full((len(source),), -torch.inf, dtype=torch.float64)
        self._most = 2 * keys.numel()
        self._waiting: list[_Open] = []
        self._n = 0

    def add(self, pairs: _Open) -> None:
        """Adds pairs, each once."""
        self._waiting.append(pairs)
        self._n += len(pairs.rows)
        if self._n >= self._most:
            pairs = self._reached()
            if 2 * len(pairs.rows) > _WAITING * self._keys.numel():  # ties: scores tell more than bounds
                self._score(pairs)
                return
            self._waiting, self._n = [pairs], len(pairs.rows)
            if 2 * self._n > self._most:  # a coarse scan, that leaves more open
                self._most *= 2

    def settle(self) -> None:
        """Scores what is still open."""
        self._score(self._reached())

    def _reached(self) -> _Open:
        """Raises the limit and gives the waiting pairs that reach it, by row."""
        if not self._n:
            none = torch.empty(0, dtype=torch.int64)
            return _Open(none, none, none.double(), none.double())
        pairs = _Open(*(torch.cat(columns) for columns in zip(*self._waiting, strict=True)))
        order = pairs.rows.numpy().astype(np.int16).argsort(kind="stable")  # 16 bits are sorted by radix
        pairs = pairs.of(torch.from_numpy(order))
        count = torch.bincount(pairs.rows, minlength=len(self._keys))
        width = int(count.max())
        if self.k <= width <= _SPREAD * self.k:  # else one row has most of the pairs, and others would be padded
            low = torch.full((len(count), width), -torch.inf, dtype=torch.float64)
            low[torch.arange(width) < count[:, None]] = pairs.low
            kth = np.partition(low.numpy(), width - self.k, axis=1)[:, width - self.k]
            self.limit = torch.maximum(self.limit, torch.from_numpy(kth))
        return pairs.of(pairs.high >= self.limit[pairs.rows])

    def _score(self, pairs: _Open) -> None:
        """Scores pairs, keeps the best, and raises the limit; nothing waits any longer."""
        self._waiting, self._n = [], 0
        for rows, places in zip(pairs.rows.split(_SCORED), pairs.places.split(_SCORED), strict=True):
            scores = pair_scores(self._source[rows], self._blocks.vectors_at(places))
            merge(self._keys, rows, keys_of(scores, places))
        self.limit = torch.maximum(self.limit, score_of(self._keys[:, -1]).double() / self._scale)
