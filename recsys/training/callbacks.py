"""What a training job measures of itself, and how Ctrl-C ends it between two steps."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from types import FrameType
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Checkpoint, ModelCheckpoint
from torch import Tensor

from recsys.features.batch import SequenceBatch
from recsys.training.usage import Work, peak_gpu_mib, peak_rss_mib


class Throughput(L.Callback):
    """Logs, epoch by epoch, how fast training was and what it took.

    Values: `train/sequences_per_s`, `train/seconds`, `train/padded_share`, `train/peak_rss_mib`, and with a GPU
    `train/peak_gpu_mib`. Time passes from the start of an epoch to the end of its last step, so that neither
    validation nor the checkpoint at the end counts. The work of a resumed run goes on from its checkpoint.
    """

    def __init__(self) -> None:
        self.finished = Work()  # of the epochs before this one
        self._epoch = Work()
        self._slots: Tensor | int = 0  # of this epoch; stays on the device, because reading it would stop the GPU
        self._tick = 0.0

    @property
    def total(self) -> Work:
        """All work of the run so far."""
        return self.finished + self.epoch

    @property
    def epoch(self) -> Work:
        """The work of this epoch so far."""
        return Work(self._epoch.sequences, self._epoch.events, int(self._slots), self._epoch.seconds)

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock of an epoch that is resumed in its middle: for that one Lightning calls no other hook."""
        self._tick = time.perf_counter()

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Starts the clock."""
        self._tick = time.perf_counter()

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: L.LightningModule, outputs: Any, batch: SequenceBatch, batch_idx: int
    ) -> None:
        """Counts a step."""
        if trainer.is_last_batch and pl_module.device.type == "cuda":
            torch.cuda.synchronize(pl_module.device)  # steps are handed to the GPU faster than it takes them
        now = time.perf_counter()
        self._epoch.seconds += now - self._tick
        self._tick = now
        self._epoch.sequences += len(batch)
        self._epoch.events += batch.item_id.shape[0]
        self._slots = self._slots + len(batch) * batch.lengths.max().long()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Logs the values of the epoch."""
        epoch = self.epoch
        pl_module.log("train/sequences_per_s", epoch.sequences_per_s, sync_dist=True, reduce_fx="sum")
        pl_module.log("train/padded_share", epoch.padded_share, sync_dist=True)
        highest = {"seconds": epoch.seconds, "peak_rss_mib": peak_rss_mib(), "peak_gpu_mib": peak_gpu_mib()}
        for name, value in highest.items():
            if value is not None:
                pl_module.log(f"train/{name}", value, sync_dist=True, reduce_fx="max")
        self.finished, self._epoch, self._slots = self.finished + _of_all_ranks(epoch, trainer), Work(), 0

    def state_dict(self) -> dict[str, Any]:
        """The work so far."""
        return {"finished": asdict(self.finished), "epoch": asdict(self.epoch)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Goes on from the work of the checkpoint."""
        self.finished, self._epoch = Work(**state_dict["finished"]), Work(**state_dict["epoch"])
        self._slots = self._epoch.slots


def _of_all_ranks(work: Work, trainer: L.Trainer) -> Work:
    """The work of all processes, in the seconds of this one."""
    if trainer.world_size == 1:
        return work
    counts = torch.tensor([work.sequences, work.events, work.slots], device=trainer.strategy.root_device)
    sequences, events, slots = trainer.strategy.reduce(counts, reduce_op="sum").tolist()
    return Work(sequences, events, slots, work.seconds)


class StoppedBetweenSteps(KeyboardInterrupt):
    """All processes of a job have stopped after the same step, so that they can write a checkpoint together."""


class GracefulStop(L.Callback):
    """Ends training between two steps when it is asked to, so that the last checkpoint can be resumed exactly.

    The validation that ends an epoch belongs to its last step. `interruptible` asks on Ctrl-C. An interrupt in the
    middle of a step would leave half of the weights updated; when the user insists on one, no checkpoint is written for
    it, and the one before stays. So it does when a process of several fails: the others would not come to write one
    with it.
    """

    def __init__(self) -> None:
        self.asked = False

    def _stop_if_asked(self, trainer: L.Trainer) -> None:
        # All processes stop after the same step, or the faster would wait for the others for ever.
        asked = (
            trainer.strategy.reduce_boolean_decision(self.asked, all=False) if trainer.world_size > 1 else self.asked
        )
        if asked:
            raise StoppedBetweenSteps

    def on_train_batch_end(self, trainer: L.Trainer, *_: Any) -> None:
        """Stops here, if asked; after the last step of an epoch its validation would be missed for ever."""
        if not trainer.is_last_batch:
            self._stop_if_asked(trainer)

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stops here, if asked in the last step of the epoch before or in its validation."""
        self._stop_if_asked(trainer)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        """Stops what would follow training, if asked during its last moments."""
        self._stop_if_asked(trainer)

    def on_exception(self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException) -> None:
        """Keeps the older checkpoint when a step was interrupted, or failed in one process of several."""
        in_step = isinstance(exception, KeyboardInterrupt) or trainer.world_size > 1
        if in_step and not isinstance(exception, StoppedBetweenSteps):
            for callback in trainer.checkpoint_callbacks:
                if isinstance(callback, ModelCheckpoint):
                    callback.save_on_exception = False


@contextmanager
def interruptible(trainer: L.Trainer) -> Iterator[None]:
    """Around `trainer.fit`: the first Ctrl-C stops after the current step, a second one at once.

    A validation that is due after the step comes before the stop. Either way `KeyboardInterrupt` comes out, where
    Lightning alone would end the process with exit code 1. A checkpoint is left by those of the trainer's callbacks
    that save on an exception.

    Args:
        trainer: gets a `GracefulStop` among its callbacks.

    Raises:
        KeyboardInterrupt: training was interrupted.
    """
    stop = GracefulStop()
    callbacks: list[L.Callback] = trainer.callbacks  # type: ignore[attr-defined]
    # The others see the whole step before it stops; those that save come last, and see that it did.
    savers = (place for place, callback in enumerate(callbacks) if isinstance(callback, Checkpoint))
    callbacks.insert(next(savers, len(callbacks)), stop)

    def ask(number: int, frame: FrameType | None) -> None:
        if stop.asked:
            raise KeyboardInterrupt
        stop.asked = True
        if trainer.is_global_zero:  # not print: a signal may arrive in the middle of one
            os.write(2, b"\nstopping after this step and its validation, if one is due; Ctrl-C again stops at once\n")

    listens = threading.current_thread() is threading.main_thread()  # Python allows handlers nowhere else
    before = signal.signal(signal.SIGINT, ask) if listens else None
    try:
        yield
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from None
        raise
    finally:
        if listens:
            signal.signal(signal.SIGINT, before)
        callbacks.remove(stop)
