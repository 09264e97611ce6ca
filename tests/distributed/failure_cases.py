"""Jobs that are stopped, interrupted or fail while a checkpoint is written."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from recsys.training.callbacks import interruptible
from recsys.training.sharded_checkpoint import load_replicated
from tests.distributed.checkpoint_cases import slow_writing
from tests.distributed.jobs import RANK, STEPS, Losses, log_data, of_ranks, recommender, rules, trainer, whole

EVERY, AT, EPOCHS = 3, 8, 4
"""Steps between checkpoints, the step after which something happens, and the length of the run."""
WRITING_S = 2.0


class After(L.Callback):
    """Does something after a step, on some ranks."""

    def __init__(self, step: int, do: Any, ranks: tuple[int, ...] = (0, 1, 2)):
        self.step, self.do, self.ranks = step, do, ranks

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step == self.step and RANK in self.ranks:
            self.do()


def job(save: Path, *callbacks: L.Callback, on_exception: bool = False) -> L.Trainer:
    """Writes `last.ckpt` while it trains."""
    last = ModelCheckpoint(
        save, "last", every_n_train_steps=EVERY, enable_version_counter=False, save_on_exception=on_exception
    )
    strategy = {"rules": rules("row_wise", "table_wise"), "async_checkpoint": True}
    return trainer(strategy, [*callbacks, last], saves=True, max_epochs=EPOCHS)


def train(log: Path, save: Path, *callbacks: L.Callback, resume: Path | None = None) -> dict[str, Any]:
    """A run to its end."""
    losses, module = Losses(), recommender(dropout=0.2)
    saved: dict[str, Tensor] = {}
    at_last_checkpoint = After(EPOCHS * STEPS // EVERY * EVERY, lambda: saved.update(whole(module)))
    made = job(save, losses, at_last_checkpoint, *callbacks)
    made.fit(module, datamodule=log_data(log), ckpt_path=resume)
    return {
        "losses": losses.values,
        "logged": {name: float(value) for name, value in made.callback_metrics.items()},
        "weights": whole(module),
        "saved": saved,
    }


def undisturbed(folder: Path) -> dict[str, Any]:
    return train(folder, folder / "undisturbed")


def steps_of(path: Path) -> int:
    return int(load_replicated(path)["global_step"])


def raised(error: type[BaseException], log: Path, save: Path, ranks: tuple[int, ...]) -> None:
    def fail() -> None:
        raise error(f"rank {RANK} cannot go on")

    with slow_writing(WRITING_S):
        job(save, After(2 * EVERY + 1, fail, ranks)).fit(recommender(), datamodule=log_data(log))


def interrupted(folder: Path) -> Any:
    """Ctrl-C on all ranks in the middle of writing; Lightning ends the process, and the checkpoint before stays."""
    try:
        raised(KeyboardInterrupt, folder, folder / "interrupted", ranks=(0, 1))
    except SystemExit as end:
        return of_ranks({"exit": end.code, "steps": steps_of(folder / "interrupted" / "last.ckpt")})
    raise AssertionError("nothing was raised")


def stopped_between_steps(folder: Path) -> Any:
    """Ctrl-C on one rank: all stop after the step, and complete a checkpoint of it."""
    made = job(
        folder / "by hand", After(AT, lambda: os.kill(os.getpid(), signal.SIGINT), ranks=(1,)), on_exception=True
    )
    try:
        with interruptible(made):
            made.fit(recommender(), datamodule=log_data(folder))
    except KeyboardInterrupt:
        return of_ranks({"steps": steps_of(folder / "by hand" / "last.ckpt")})
    raise AssertionError("nothing was raised")


def fails(folder: Path) -> None:
    """One rank raises in the middle of writing, which ends the job: the last of all cases."""
    raised(ValueError, folder, folder / "failed", ranks=(1,))


assert 2 * EVERY + 1 < EPOCHS * STEPS
TWO = {"undisturbed": undisturbed, "interrupted": interrupted, "stopped_between_steps": stopped_between_steps}
LAST = {"fails": fails}
