"""What surrounds a training job: it is measured, its record is written, and MLflow is told."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import lightning as L
from lightning.pytorch.loggers.logger import Logger
from lightning.pytorch.utilities.rank_zero import rank_zero_only

from recsys.tracking.mlflow_run import MLflowRun
from recsys.tracking.model_card import leave_card
from recsys.tracking.record import RunRecord
from recsys.tracking.run_folder import RunFolder
from recsys.training.callbacks import Throughput


class MLflowLogger(Logger):
    """Hands the metrics of a Lightning trainer to a run; the run is opened and closed elsewhere.

    Args:
        run: where to.
    """

    def __init__(self, run: MLflowRun):
        super().__init__()
        self.run = run

    @property
    def name(self) -> str:
        """The experiment."""
        return self.run.experiment

    @property
    def version(self) -> str:
        """The run."""
        return self.run.run_id

    @rank_zero_only
    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Logs values."""
        self.run.log_metrics(metrics, step or 0)

    @rank_zero_only
    def log_hyperparams(self, params: Any, *args: Any, **kwargs: Any) -> None:
        """Does nothing: the record's configuration holds them all."""


@contextmanager
def tracked(
    trainer: L.Trainer, record: RunRecord, folder: RunFolder, *, mlflow: bool = True, uri: str | None = None
) -> Iterator[MLflowRun | None]:
    """Around training and evaluation: measures the job, keeps `run.json` up to date, and reports to MLflow.

    The record is written when the job starts and when it ends, by itself, by Ctrl-C or by an error. In a job of many
    processes the first one does all of this. A finished run that has saved a model gets its model card.

    Args:
        trainer: gets a `Throughput` callback and, with `mlflow`, a logger.
        record: of the run.
        folder: of the run; its small files are logged at the end.
        mlflow: False leaves MLflow alone.
        uri: the MLflow store; None: see `tracking_uri`.

    Yields:
        The MLflow run, None where there is none.

    Raises:
        TrackingError: the MLflow store cannot be used.
    """
    throughput = Throughput()
    trainer.callbacks.insert(0, throughput)  # type: ignore[attr-defined]
    if not trainer.is_global_zero:
        yield None
        return
    run = MLflowRun.start(record, folder.path.name, uri, folder) if mlflow else None
    try:
        if run is not None:
            trainer.logger = MLflowLogger(run)
        record.write(folder.path)
        yield run
        record.status = "finished"
    except KeyboardInterrupt:
        record.status = "interrupted"
        raise
    except BaseException:
        record.status = "failed"
        raise
    finally:
        record.measure(throughput.total)
        record.write(folder.path)
        if record.status == "finished" and folder.model.is_dir():
            leave_card(folder)
        if run is not None:
            run.finish(record, folder)
