"""Saved on two ranks, resumed on one, two and three."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import lightning as L
import torch
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.distributed._shard.sharded_tensor import ShardedTensor
from torch.distributed.checkpoint import FileSystemWriter

from recsys.training.torchrec_strategy import _named
from tests.distributed.jobs import Losses, log_data, of_ranks, recommender, rules, trainer, whole

FIRST, LAST = 10, 60
"""Steps until the checkpoint, which lies within an epoch, and of the whole run."""
KINDS = ("table_wise", "row_wise", "data_parallel")


def run(
    log: Path,
    dropout: float,
    steps: int,
    save: Path | None = None,
    resume: Path | None = None,
    asynchronous: bool = False,
    kinds: tuple[str, ...] = KINDS,
) -> dict[str, Any]:
    """Trains to a step, from the beginning or a checkpoint, and writes one every `FIRST` steps if it is told where."""
    losses = Losses()
    callbacks: list[L.Callback] = [losses]
    if save is not None:
        callbacks.append(ModelCheckpoint(save, "step", every_n_train_steps=FIRST, enable_version_counter=False))
    schedule = partial(torch.optim.lr_scheduler.StepLR, step_size=3, gamma=0.95)
    module = recommender(dropout=dropout, scheduler=schedule)
    strategy = {"rules": rules(*kinds), "async_checkpoint": asynchronous}
    job = trainer(strategy, callbacks, saves=save is not None, max_epochs=-1, max_steps=steps)
    job.fit(module, datamodule=log_data(log), ckpt_path=resume)
    return {"losses": losses.values, "rates": losses.rates, "weights": whole(module), "state": local_state(job)}


def local_state(job: L.Trainer) -> dict[str, torch.Tensor]:
    """This rank's shards of tables and of the state of their optimizer, and the state of the dense one."""
    strategy: Any = job.strategy
    found = {}
    state = strategy._tables_of(strategy.lightning_module.state_dict()) | _named(strategy._fused_state())
    for name, tensor in state.items():
        sharded = isinstance(tensor, ShardedTensor)
        parts = [shard.tensor for shard in tensor.local_shards()] if sharded else [tensor]
        found |= {f"{name} {at}": part.detach().clone() for at, part in enumerate(parts)}
    dense = job.optimizers[0].state_dict()["dense"]["state"]
    return found | {f"dense {weight} {name}": v.clone() for weight, of in dense.items() for name, v in of.items()}


@contextmanager
def slow_writing(seconds: float) -> Iterator[None]:
    """So that training goes on for some steps before a checkpoint is written."""
    write = FileSystemWriter.write_data

    def slow(*arguments: Any) -> Any:
        time.sleep(seconds)
        return write(*arguments)

    with patch.object(FileSystemWriter, "write_data", slow):
        yield


def reference(folder: Path) -> Any:
    """Never interrupted: with dropout, and without, which is the one that other numbers of ranks continue."""
    return of_ranks({"dropout": run(folder, 0.3, LAST), "plain": run(folder, 0.0, LAST)})


def resumed(folder: Path) -> Any:
    """Continued by new objects from a checkpoint, which is written while training goes on, or not."""
    found = {}
    for name, dropout, asynchronous in (("dropout", 0.3, True), ("plain", 0.0, False)):
        with slow_writing(0.5 if asynchronous else 0.0):
            first = run(folder, dropout, FIRST + 5, save=folder / name, asynchronous=asynchronous)
        found[name] = first, run(folder, dropout, LAST, resume=folder / name / "step.ckpt")
    return of_ranks(found)


def elsewhere(folder: Path) -> dict[str, Any]:
    """Continued on another number of ranks, by the same rules and by others."""
    path = folder / "plain" / "step.ckpt"
    return {
        "same rules": run(folder, 0.0, LAST, resume=path),
        "other rules": run(folder, 0.0, LAST, resume=path, kinds=("row_wise", "table_wise", "data_parallel")),
    }


TWO = {"reference": reference, "resumed": resumed}
OTHERS = {"elsewhere": elsewhere}
