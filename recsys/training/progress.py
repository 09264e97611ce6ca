"""Progress for logs: one line an epoch, where no progress bar can be drawn."""

from __future__ import annotations

import sys
import time
from typing import TextIO

import lightning as L


class EpochLines(L.Callback):
    """Prints the loss, the monitored metric and the seconds of each epoch.

    Args:
        monitor: name of the logged value to show beside the loss.
        stream: where to; None: standard error.
    """

    def __init__(self, monitor: str, stream: TextIO | None = None):
        self.monitor = monitor
        self.stream = stream
        self._started = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock of an epoch that is resumed in its middle: for that one Lightning calls no other hook."""
        self._started = time.perf_counter()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock."""
        self._started = time.perf_counter()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Prints the line."""
        if not trainer.is_global_zero:
            return
        shown = {name: trainer.callback_metrics.get(name) for name in ("train/loss", self.monitor)}
        values = "  ".join(f"{name} {float(value):.4f}" for name, value in shown.items() if value is not None)
        of = f"/{trainer.max_epochs}" if trainer.max_epochs and trainer.max_epochs > 0 else ""
        seconds = time.perf_counter() - self._started
        print(
            f"epoch {trainer.current_epoch + 1}{of}  {values}  {seconds:.1f} s",
            file=self.stream or sys.stderr,
            flush=True,
        )
