"""What a checkpoint holds, as plain values and as a table."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text
from torch import Tensor

from recsys.training.consolidation import load_checkpoint
from recsys.training.sharded_checkpoint import TABLE, Saved, inspect

_OF_TORCHREC = re.compile(r"(^|\.)embedding(s|_bags)\.[^.]+\.weight$")
"""Names of the tables of an EmbeddingCollection and of an EmbeddingBagCollection."""


@dataclass(frozen=True)
class Contents:
    """What a checkpoint holds.

    Attributes:
        path: of the checkpoint.
        sharded: whether its tables are; else it is one file.
        epoch: that the training was in, or had just ended; 0 is the first.
        step: training steps done.
        ranks: processes that wrote it.
        disk_bytes: of all its files.
        tensors: tables, and of a sharded one the state of their optimizer.
    """

    path: str
    sharded: bool
    epoch: int | None
    step: int | None
    ranks: int
    disk_bytes: int
    tensors: list[Saved]


def contents(path: Path) -> Contents:
    """Looks into a checkpoint without reading its tables.

    Args:
        path: of the checkpoint, of either kind.

    Raises:
        CheckpointError: there is none.
    """
    loaded = load_checkpoint(path)
    sharded = path.is_dir()
    files = path.iterdir() if sharded else [path]
    return Contents(
        path=str(path),
        sharded=sharded,
        epoch=loaded.get("epoch"),
        step=loaded.get("global_step"),
        ranks=loaded.get("ranks", 1),
        disk_bytes=sum(file.stat().st_size for file in files),
        tensors=inspect(path) if sharded else tables_within(loaded.get("state_dict", {})),
    )


def tables_within(weights: Mapping[str, Any]) -> list[Saved]:
    """The TorchRec tables of a `state_dict`, by the names that TorchRec gives them."""
    return [
        Saved(TABLE, name, tuple(weight.shape), weight.nbytes / 2**20, 1, weight.nbytes)
        for name, weight in sorted(weights.items())
        if isinstance(weight, Tensor) and _OF_TORCHREC.search(name)
    ]


def print_contents(found: Contents, as_json: bool) -> None:
    """Prints a table, or JSON."""
    if as_json:
        print(json.dumps(asdict(found), indent=2))
        return
    console = Console()
    written = f"tables written by {found.ranks} rank{'s' * (found.ranks != 1)}" if found.sharded else "one file"
    progress = f"epoch {found.epoch} (the first is 0), step {found.step}"
    console.print(f"{found.path}: {progress}; {written}", highlight=False)
    table = Table("", "tensor", "shape", "MiB", "shards", "on disk")
    table.columns[1].overflow = "fold"
    for column in table.columns[3:]:
        column.justify = "right"
    for saved in found.tensors:
        shape, disk = " x ".join(f"{size:,}" for size in saved.shape), saved.disk_bytes / 2**20
        table.add_row(saved.kind, Text(saved.name), shape, f"{saved.mib:,.2f}", str(saved.shards), f"{disk:,.2f}")
    console.print(table)
    console.print(f"{found.disk_bytes / 2**20:,.2f} MiB on disk, dense weights and the rest included", highlight=False)
