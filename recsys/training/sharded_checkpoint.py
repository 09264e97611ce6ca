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
import warnings
from collections import Counter
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import Tensor
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata

REPLICATED = "replicated.pt"
METADATA = ".metadata"
TABLE, OPTIMIZER = "table", "optimizer"
_CAUSE = {
    TABLE: "it was saved from another model, or from other data",
    OPTIMIZER: (
        "resume with the optimizer of tables that it was saved with, and a table that is cut by columns with the same "
        "cuts, for each of which a row-wise optimizer keeps a state"
    ),
}


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
        disk_bytes: of those in the files.
    """

    kind: str
    name: str
    shape: tuple[int, ...]
    mib: float
    shards: int
    disk_bytes: int


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
    """Gives a checkpoint its name. It is complete once torch.distributed.checkpoint has returned on the first rank.

    No rank waits for another one here, which may have failed. Those that read the checkpoint wait for the first.
    """
    if rank() == 0:
        old = path.with_name(path.name + ".old")
        remove(old)
        if path.exists():
            os.replace(path, old)
        os.replace(part_of(path), path)
        remove(old)


def settle(path: Path) -> Path:
    """Puts the former checkpoint back where a job died between two renames; returns `path`. Any rank may call it."""
    old = path.with_name(path.name + ".old")
    if not path.exists() and (old / METADATA).exists():
        with suppress(FileNotFoundError):  # another rank has just done it
            os.replace(old, path)
    return path


def remove(path: Path) -> None:
    """Deletes a checkpoint of either kind, if there is one."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def is_sharded(path: Path) -> bool:
    """Whether a path is a checkpoint of this kind."""
    return (path / METADATA).exists() and (path / REPLICATED).exists()


def load_replicated(path: Path, weights_only: bool | None = None) -> dict[str, Any]:
    """What all ranks have alike.

    Args:
        path: of the checkpoint.
        weights_only: False reads Python objects too, which may run code: of a source that is trusted.

    Raises:
        CheckpointError: there is no such checkpoint, or it cannot be read.
    """
    if not is_sharded(path):
        raise CheckpointError(
            f"{path}: no checkpoint of sharded tables (a folder with {REPLICATED} and {METADATA}); one that was saved "
            "without sharding is read by a job without `trainer.strategy`"
        )
    with _readable(path / REPLICATED):
        safe = weights_only is not False
        loaded: dict[str, Any] = torch.load(path / REPLICATED, map_location="cpu", weights_only=safe)
    return loaded


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Around reading a file: torch says of a damaged one whatever its bytes happened to mean."""
    try:
        yield
    except CheckpointException as error:
        raise CheckpointError(_damaged(path, next(iter(error.failures.values()))[0])) from error
    except MemoryError:  # the file may be well
        raise
    except Exception as error:
        raise CheckpointError(_damaged(path, error)) from error


def _damaged(path: Path, error: BaseException) -> str:
    return f"{path}: cannot be read ({str(error).partition(chr(10))[0]}); resume from another checkpoint"


def load_tables(path: Path, into: dict[str, Any], stepped: Collection[str] = ()) -> None:
    """Reads tensors in place; every rank calls it with its own shards.

    Args:
        path: of the checkpoint.
        into: name -> shards.
        stepped: weights whose optimizer's state `into` has, all that there is of it.

    Raises:
        CheckpointError: a tensor is missing, has another shape, has no place, or cannot be read.
    """
    saved = {f"{tensor.kind}.{tensor.name}": tensor for tensor in inspect(path)}
    for name, tensor in saved.items():
        if tensor.kind == OPTIMIZER and tensor.name.partition("/")[0] in stepped and name not in into:
            raise CheckpointError(f"{path}: the optimizer of the model has no place for `{name}`; {_CAUSE[OPTIMIZER]}")
    for name, tensor in into.items():
        if name not in saved:
            raise CheckpointError(f"{path}: has no `{name}`; it was saved from another model or optimizer")
        if (found := saved[name].shape) != tuple(tensor.size()):
            differs = f"`{name}` has shape {list(found)}, the model wants {list(tensor.size())}"
            raise CheckpointError(f"{path}: {differs}; {_CAUSE[saved[name].kind]}")
    with _readable(path):
        dcp.load(into, checkpoint_id=path)


def consolidate(path: Path) -> dict[str, Tensor]:
    """The whole `state_dict` of the module in one process, tables included; needs no process group."""
    whole = {f"{t.kind}.{t.name}": torch.empty(t.shape) for t in inspect(path) if t.kind == TABLE}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled")  # as was asked for
        with _readable(path):
            dcp.load(whole, checkpoint_id=path, no_dist=True)
    weights: dict[str, Tensor] = load_replicated(path)["state_dict"]
    return weights | {name.removeprefix(f"{TABLE}."): tensor for name, tensor in whole.items()}


def tables(path: Path) -> list[str]:
    """The names of the tables of a checkpoint."""
    return [saved.name for saved in inspect(path) if saved.kind == TABLE]


def inspect(path: Path) -> list[Saved]:
    """What tables and optimizer states a checkpoint holds."""
    if not (path / METADATA).exists():
        raise CheckpointError(f"{path}: no checkpoint of sharded tables")
    with _readable(path / METADATA):
        metadata = dcp.FileSystemReader(path).read_metadata()
    return sorted(_saved(metadata), key=lambda saved: (saved.kind, saved.name))


def _saved(metadata: Metadata) -> Iterator[Saved]:
    written: Counter[str] = Counter()
    for index, place in metadata.storage_data.items():
        written[index.fqn] += place.length
    for name, entry in metadata.state_dict_metadata.items():
        kind, _, rest = name.partition(".")
        if isinstance(entry, TensorStorageMetadata) and kind in (TABLE, OPTIMIZER):
            bytes_each = entry.properties.dtype.itemsize
            mib = entry.size.numel() * bytes_each / 2**20
            yield Saved(kind, rest, tuple(entry.size), mib, len(entry.chunks), written[name])


def rank() -> int:
    """This process among those of the job."""
    return dist.get_rank() if dist.is_initialized() else 0


def barrier() -> None:
    """Waits for the others."""
    if dist.is_initialized():
        dist.barrier()
