"""Rows for ids that keep coming: new ones get a row, and those that are no longer seen give theirs up."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer
from torchrec.modules.mc_modules import LFU_EvictionPolicy, MCHEvictionPolicy, MCHManagedCollisionModule
from torchrec.sparse.jagged_tensor import JaggedTensor

DEVICES = ("cpu", "cuda")
_NOBODY = torch.iinfo(torch.int64).max
_KEY = "ids"


@dataclass(frozen=True)
class DynamicReport:
    """What became of the ids that were looked up in training.

    Attributes:
        rows: of the table, padding and the shared row included.
        free: rows that no id has had yet.
        lookups: ids that were looked up, each as often as it came.
        shared: share of the lookups that fell on the shared row.
        evicted: ids that lost their row to another.
    """

    rows: int
    free: int
    lookups: int
    shared: float
    evicted: int


class DynamicIds(nn.Module):
    """Maps ids of a stream to rows of a table of fixed size, by TorchRec's managed collision module.

    Row 0 is padding. Rows 1 to `rows - 2` belong to one id each; all other ids share the last one. In training ids are
    counted, and after every `interval` batches those that the policy prefers get the rows. An id without a row so waits
    for the next revision, and one that keeps its row keeps its number. In evaluation nothing changes.

    A row that went to another id still has the vector of the old one, since TorchRec resets none: `reassigned` names
    such rows, and `start_anew` resets them. The state is in the `state_dict`; a stream that is resumed from it has the
    same rows as one that was never interrupted. It lives in one process.

    Text ids become integers by `recsys.features.vocabulary.stable_hash(ids).view("int64")`.

    Args:
        rows: rows of the table, at least 3.
        eviction: which ids have rows: `LFU_EvictionPolicy` (the most frequent; the default), `LRU_EvictionPolicy` (the
            last seen, in revisions) or `DistanceLFU_EvictionPolicy` (both) of `torchrec.modules.mc_modules`.
        interval: training batches from one revision to the next. A revision sorts all rows, and the ids of that many
            batches are kept until then.
        device: where it runs. It cannot be moved.

    Raises:
        ValueError: the device is neither a CPU nor a CUDA GPU, or an argument is too small.

    Example:
        >>> ids = DynamicIds(rows=4)
        >>> ids(torch.tensor([700, 700, 800, 900])).tolist()  # two rows for three ids; 900 shares the last one
        [1, 1, 2, 3]
    """

    seen: Tensor

    def __init__(
        self,
        rows: int,
        eviction: MCHEvictionPolicy | None = None,
        interval: int = 1,
        device: torch.device | str = "cpu",
    ):
        super().__init__()
        device = torch.device(device)
        if device.type not in DEVICES:
            raise ValueError(
                f"dynamic ids run on {' and '.join(DEVICES)}, not on {device.type}; hash the ids instead (`encoding: "
                "hash`), which every device can look up"
            )
        if rows < 3 or interval < 1:
            raise ValueError(f"rows must be at least 3 and interval at least 1, not {rows} and {interval}")
        self.rows, self.interval = rows, interval
        # Batches are collected here, and not by TorchRec, which leaves those of an unfinished interval out of its state
        # and cuts batches that are much larger than its first one.
        self.managed = MCHManagedCollisionModule(
            zch_size=rows - 1,
            device=device,
            eviction_policy=eviction or LFU_EvictionPolicy(),
            eviction_interval=1,
            output_global_offset=1,
        )
        self.register_buffer("seen", torch.zeros(3, dtype=torch.int64, device=device))
        self._waiting: list[Tensor] = []
        self._reassigned: list[Tensor] = []

    def forward(self, ids: Tensor) -> Tensor:
        """The rows of ids.

        Args:
            ids: `[n]` int64, any value below 2^63 - 1.

        Returns:
            `[n]` int64 in 1..rows - 1.

        Raises:
            ValueError: an id is 2^63 - 1, which TorchRec takes for no id, or they are no int64.
        """
        if ids.dtype != torch.int64 or bool((ids == _NOBODY).any()):
            raise ValueError(f"ids must be int64 below 2^63 - 1, not {ids.dtype} up to {int(ids.max())}")
        if self.training:
            self._waiting.append(ids.detach().clone())
            if len(self._waiting) == self.interval:
                self._revise(torch.cat(self._waiting))
                self._waiting = []
        rows = self.managed.remap(_features(ids))[_KEY].values()
        if self.training:
            self.seen[0] += len(rows)
            self.seen[1] += (rows == self.rows - 1).sum()
        return rows

    def _revise(self, ids: Tensor) -> None:
        """Counts ids and hands rows to those that the policy prefers."""
        if dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1:
            raise RuntimeError(
                "dynamic ids live in one process: each of several would hand out rows by itself. Shard TorchRec's "
                "ManagedCollisionEmbeddingCollection row-wise instead, or hash the ids (`encoding: hash`)"
            )
        if len(ids) > self.managed._input_history_buffer_size:
            self.managed._input_history_buffer_size = -1  # makes TorchRec size its buffer by this call
        free = self.managed.open_slots()
        self.managed.profile(_features(ids))
        rows = self.managed.evict()
        assert rows is not None, "TorchRec reports the rows that changed hands after every revision"
        self._reassigned.append(rows)
        self.seen[2] += len(rows) - int(free - self.managed.open_slots())

    def reassigned(self) -> Tensor:
        """`[n]` int64 rows that went to another id since this was last asked, ascending."""
        rows = torch.cat([self.seen.new_zeros(0), *self._reassigned]).unique()
        self._reassigned = []
        return rows

    def report(self) -> DynamicReport:
        """What became of the ids of training so far."""
        lookups, shared, evicted = self.seen.tolist()
        return DynamicReport(self.rows, int(self.managed.open_slots()), lookups, shared / max(lookups, 1), evicted)

    def get_extra_state(self) -> Tensor:
        """Length of each batch that waits for the next revision, how many there are before them, and their ids."""
        lengths = self.seen.new_tensor([len(batch) for batch in self._waiting])
        return torch.cat([self.seen.new_tensor([len(lengths)]), lengths, *self._waiting])

    def set_extra_state(self, state: Any) -> None:
        """Takes what `get_extra_state` gave."""
        state = state.to(self.seen.device)
        batches = int(state[0])
        lengths = state[1 : 1 + batches].tolist()
        self._waiting = list(state[1 + batches :].split(lengths)) if batches else []
        self._reassigned = []
        self.managed._current_iter = -1  # TorchRec reads its clock from the state when it has none

    def _apply(self, fn: Any, recurse: bool = True) -> DynamicIds:
        before = self.seen.device
        super()._apply(fn, recurse)
        if self.seen.device != before:
            raise RuntimeError(
                f"dynamic ids were made on {before} and cannot be moved to {self.seen.device}, since TorchRec holds "
                "its tensors twice: make them there, with `device`"
            )
        return self


@torch.no_grad()
def start_anew(rows: Tensor, table: nn.Parameter, optimizer: Optimizer | None = None, std: float = 0.02) -> None:
    """Gives rows that went to another id new vectors, and makes the optimizer forget the old ones.

    Args:
        rows: `[n]` int64, as `DynamicIds.reassigned` gives them.
        table: `[rows, dim]` embedding table.
        optimizer: holds the table; what it keeps of each row becomes zero.
        std: standard deviation of the new vectors.
    """
    table[rows] = torch.randn(len(rows), table.shape[1], device=table.device, dtype=table.dtype) * std
    for kept in optimizer.state[table].values() if optimizer is not None else ():
        if isinstance(kept, Tensor) and kept.shape[:1] == table.shape[:1]:
            kept[rows] = 0


def _features(ids: Tensor) -> dict[str, JaggedTensor]:
    return {_KEY: JaggedTensor(values=ids, lengths=torch.ones_like(ids, dtype=torch.int32))}
