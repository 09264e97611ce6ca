"""Checkpoints of sharded tables: every rank writes its own rows, and any number of ranks reads them back.

    last.ckpt/
      replicated.pt          what all ranks have alike: dense weights and their optimizer, loops, generators
      .metadata, *.distcp    tables and the state of their fused optimizer, as torch.distributed.checkpoint writes them

A checkpoint is written as `<name>.part` and renamed when it is complete. The one of the same name that it replaces is
`<name>.old` for the moment between two renames; `settle` puts it back should the job die in that moment.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.metadata import TensorStorageMetadata

REPLICATED = "replicated.pt"
METADATA = ".metadata"
TABLE, OPTIMIZER = "table", "optimizer"


class CheckpointError(ValueError):
    """A checkpoint that is not there, is incomplete, or does not fit the model."""


@dataclass(frozen=True)
class Saved:
    """One tensor of a checkpoint.

    Attributes:
        kind: `table`, or `optimizer` for state of the fused optimizer.
        name: of the weight, and of the state behind a slash.
        shape: of the whole.
        mib: of memory.
        shards: pieces that it was saved in.
    """

    kind: str
    name: str
    shape: tuple[int, ...]
    mib: float
    shards: int


def part_of(path: Path) -> Path:
    """Where a checkpoint lies until it is complete."""
    return path.with_name(path.name + ".part")


def start(path: Path) -> Path:
    """An empty folder beside `path` to write to; every rank calls it."""
    part = part_of(path)
    if rank() == 0:
        shutil.rmtree(part, ignore_errors=True)
        part.mkdir(parents=True)
    barrier()
    return part


def finish(path: Path) -> None:
    """Gives a complete checkpoint its name; every rank calls it."""
    barrier()
    if rank() == 0:
        old = path.with_name(path.name + ".old")
        remove(old)
        if path.exists():
            os.replace(path, old)
        os.replace(part_of(path), path)
        remove(old)
    barrier()


def settle(path: Path) -> Path:
    """Puts the former checkpoint back where a job died between two renames; returns `path`."""
    old = path.with_name(path.name + ".old")
    if not path.exists() and (old / METADATA).exists():
        os.replace(old, path)
    return path


def remove(path: Path) -> None:
    """Deletes a checkpoint of either kind, if there is one."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def is_sharded(path: Path) -> bool:
    """Whether a path is a checkpoint of this kind."""
    return (path / METADATA).exists() and (path / REPLICATED).exists()


def load_replicated(path: Path) -> dict[str, Any]:
    """What all ranks have alike.

    Raises:
        CheckpointError: there is no such checkpoint.
    """
    if not is_sharded(path):
        raise CheckpointError(
            f"{path}: no checkpoint of sharded tables (a folder with {REPLICATED} and {METADATA}); one that was saved "
            "without sharding is read by a job without `trainer.strategy`"
        )
    loaded: dict[str, Any] = torch.load(path / REPLICATED, map_location="cpu", weights_only=True)
    return loaded


def load_tables(path: Path, into: dict[str, Any]) -> None:
    """Reads tensors in place; every rank calls it with its own shards of the same names.

    Raises:
        CheckpointError: a tensor is missing, or has another shape.
    """
    saved = {f"{tensor.kind}.{tensor.name}": tensor for tensor in inspect(path)}
    for name, tensor in into.items():
        if name not in saved:
            raise CheckpointError(f"{path}: has no `{name}`; it was saved from another model or optimizer")
        if (found := saved[name].shape) != tuple(tensor.size()):
            raise CheckpointError(
                f"{path}: `{name}` has shape {list(found)}, the model wants {list(tensor.size())}. "
                "The row-wise optimizer of a table that is cut by columns keeps one state for every cut: resume with "
                "the same rules, or with tables cut by rows"
            )
    dcp.load(into, checkpoint_id=path)


def consolidate(path: Path) -> dict[str, Tensor]:
    """The whole `state_dict` of the module in one process, tables included; needs no process group."""
    tables = {f"{t.kind}.{t.name}": torch.empty(t.shape) for t in inspect(path) if t.kind == TABLE}
    dcp.load(tables, checkpoint_id=path, no_dist=True)
    weights: dict[str, Tensor] = load_replicated(path)["state_dict"]
    return weights | {name.removeprefix(f"{TABLE}."): tensor for name, tensor in tables.items()}


def inspect(path: Path) -> list[Saved]:
    """What tables and optimizer states a checkpoint holds."""
    if not (path / METADATA).exists():
        raise CheckpointError(f"{path}: no checkpoint of sharded tables")
    metadata = dcp.FileSystemReader(path).read_metadata()
    return sorted(_saved(metadata.state_dict_metadata), key=lambda saved: (saved.kind, saved.name))


def _saved(entries: dict[str, Any]) -> Iterator[Saved]:
    for name, entry in entries.items():
        kind, _, rest = name.partition(".")
        if isinstance(entry, TensorStorageMetadata) and kind in (TABLE, OPTIMIZER):
            bytes_each = entry.properties.dtype.itemsize
            mib = entry.size.numel() * bytes_each / 2**20
            yield Saved(kind, rest, tuple(entry.size), mib, len(entry.chunks))


def rank() -> int:
    """This process among those of the job."""
    return dist.get_rank() if dist.is_initialized() else 0


def barrier() -> None:
    """Waits for the others."""
    if dist.is_initialized():
        dist.barrier()
