"""What the large run adds to `recsys fit`: lines about its steps, and the judgement of a sample of the test users."""

from __future__ import annotations

import os
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import lightning as L
from _large_steps import Line, When, write

from recsys.evaluation.evaluate import evaluate
from recsys.features.splits import Split
from recsys.tracking.run_folder import RunFolder
from recsys.training.usage import peak_rss_mib

EVERY = 10
"""Steps between two lines."""
TEST_SEED = 0
"""Draws the test users."""


def sampled(split: Split, users: int) -> Split:
    """The split with so many of its test users, the same each time."""
    return replace(split, test=split.test.sample(users, TEST_SEED))


class Steps(L.Callback):
    """Lets every rank write down when training started, when steps were done, and when all was over.

    It must stand behind the callbacks whose work at the end is to be counted.
    """

    def on_train_start(self, trainer: L.Trainer, *_: Any) -> None:
        self._write(trainer, "start")

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        if trainer.global_step % EVERY == 0:
            self._write(trainer, "step")

    def on_train_end(self, trainer: L.Trainer, *_: Any) -> None:
        self._write(trainer, "end")

    def _write(self, trainer: L.Trainer, when: When) -> None:
        line = Line(os.getpid(), when, trainer.global_step, time.time(), round(peak_rss_mib(), 1))
        write(Path(trainer.default_root_dir), trainer.global_rank, line)


class SampledTest(L.Callback):
    """Ranks the whole catalogue for a sample of the test users when training has ended, all ranks together.

    The evaluation lies in the folder of the run, under the name of the model. Tables stay where they are.

    Args:
        users: how many.
    """

    def __init__(self, users: int):
        self.users = users

    def on_train_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        split, name = sampled(data.split, self.users), type(pl_module.network).__name__
        found = evaluate(pl_module.network, split, max_length=data.max_length, name=name)
        if trainer.is_global_zero:
            RunFolder(Path(trainer.default_root_dir)).save_evaluation(found)
