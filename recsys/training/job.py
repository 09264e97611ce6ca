"""A training job: where it keeps its files, when it stops, and what it is compared with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, Literal

import lightning as L
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from recsys.models.recommender import FittedRecommender
from recsys.training.sharded_checkpoint import settle

LAST, BEST = "last.ckpt", "best.ckpt"
CONFIG = "config.yaml"
"""The first file of a run: a folder that has it is one."""


class JobError(ValueError):
    """A job that cannot start as it is described."""


class _AmidEpochs(ModelCheckpoint):
    """Leaves the last step of an epoch to the checkpoint at its end.

    Resumed from one of that step, Lightning takes the epoch for finished: it is not validated, and early stopping does
    not count it.
    """

    def on_train_batch_end(self, trainer: L.Trainer, *arguments: Any) -> None:
        if not trainer.is_last_batch:
            super().on_train_batch_end(trainer, *arguments)


@dataclass
class Job:
    """What surrounds the training itself.

    Attributes:
        name: of the job; MLflow's experiment.
        folder: of this run. None makes `runs/<name>-<date>`.
        resume: continue the run in `folder` from its last checkpoint. `auto` starts the run where there is none yet: a
            job that something restarts without being asked (torchrun, a scheduler) says this from the beginning.
        monitor: value of the validation by which checkpoints are chosen; the highest wins. `val/snips_MAP@3` and the
            like are logged with `validation.snips_power`.
        patience: epochs without a better value before training stops.
        checkpoint_every: training steps between checkpoints, beside the one at the end of each epoch. None: no others.
        ks: list lengths of the final metrics; the one of `monitor` is always among them.
        filter_seen: leave items of the history out of the lists.
        rerank: judge a network that ranks a second time, by what its ranking makes of this many retrieved items. None:
            by the order of retrieval alone.
        baselines: models to stand beside; of several settings of one class the best on validation is reported.
            None: the declared grid of every baseline; an empty list: none.
        track: write the run to MLflow.
        log_model: let MLflow have the saved model as well, which is what can be registered and served; its files are
            copied to the store. False keeps it in the run folder alone.
        judge: save the best model when training has ended, judge it, and compare it with the baselines. False leaves
            the checkpoints alone, of which `recsys checkpoint export` makes the model.
        memory_gib: of a job with sharded tables: what the whole tables may take in the memory of the first rank, where
            the model is saved and judged. None: what its machine has free when the job starts.
    """

    name: str = "recsys"
    folder: str | None = None
    resume: bool | Literal["auto"] = False
    monitor: str = "val/NDCG@10"
    patience: int = 10
    checkpoint_every: int | None = None
    ks: Sequence[int] = (10, 50)
    filter_seen: bool = True
    rerank: int | None = 200
    baselines: list[FittedRecommender] | None = None
    track: bool = True
    log_model: bool = True
    judge: bool = True
    memory_gib: float | None = None

    def __post_init__(self) -> None:
        # What a validation weighs is judged without weights in the end.
        name, at, k = self.monitor.removeprefix("val/").removeprefix("snips_").partition("@")
        if not (self.monitor.startswith("val/") and name and at and k.isdigit()):
            raise JobError(f"job.monitor: `{self.monitor}` is no metric of the validation, such as val/NDCG@10")
        self.metric, self.k = f"{name}@{k}", int(k)
        self.ks = sorted({self.k, *self.ks})

    def run_folder(self) -> Path:
        """The folder of this run; it is not made.

        Raises:
            JobError: a run is to be resumed and none is named.
        """
        if self.folder is not None:
            return Path(self.folder)
        if self.resume:
            raise JobError("`job.resume` needs `job.folder`, the run to continue")
        return Path("runs") / f"{self.name}-{datetime.now():%Y%m%d-%H%M%S}"

    def start(self, folder: Path, first: bool = True) -> Path | None:
        """The checkpoint to continue from; None: the run begins.

        Args:
            folder: of the run.
            first: whether this is the first rank. It asks before it writes anything; the others do not look whether the
                folder is empty, for it may have written by then.

        Raises:
            JobError: the folder holds another run, or there is nothing to resume.
        """
        last = self.checkpoint(folder)
        if self.resume and last.exists():
            return last
        if self.resume is True:
            raise JobError(f"{folder}: no {LAST} to resume from; leave `job.resume` out to start the run")
        begun = self.resume == "auto" and (folder / CONFIG).exists()  # and ended before its first checkpoint
        if first and not begun and folder.exists() and any(folder.iterdir()):
            raise JobError(
                f"{folder}: holds a run already; add `--job.resume true` to continue it, or name another folder"
            )
        return None

    @staticmethod
    def checkpoint(folder: Path) -> Path:
        """The checkpoint that `resume` continues from."""
        return settle(folder / "checkpoints" / LAST)

    @staticmethod
    def best(folder: Path) -> Path:
        """The checkpoint that validated best; a run without validation has none."""
        return settle(folder / "checkpoints" / BEST)

    def callbacks(self, folder: Path, validates: bool) -> list[L.Callback]:
        """Checkpoints and early stopping.

        Args:
            folder: of the run.
            validates: whether the split has validation users; without, the last epoch is the model.
        """
        checkpoints = folder / "checkpoints"
        checkpoint = partial(ModelCheckpoint, checkpoints, enable_version_counter=False)
        # Both write the one file that a resumed run reads, by renaming: a kill in mid-write leaves the older one.
        last: list[L.Callback] = [checkpoint("last", save_on_train_epoch_end=True, save_on_exception=True)]
        if self.checkpoint_every is not None:
            steps = self.checkpoint_every
            last.append(_AmidEpochs(checkpoints, "last", every_n_train_steps=steps, enable_version_counter=False))
        if not validates:
            return last
        best = checkpoint("best", monitor=self.monitor, mode="max", save_on_train_epoch_end=True)
        stop = EarlyStopping(self.monitor, mode="max", patience=self.patience, check_on_train_epoch_end=True)
        return [stop, best, *last]
