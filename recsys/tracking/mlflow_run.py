"""A run in MLflow: parameters, tags, metrics along training, the table of results, and files."""

from __future__ import annotations

import json
import re
import time
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pandas as pd

from recsys.evaluation.result import Evaluation
from recsys.tracking.mlflow_store import experiment_id, open_client, tracking_uri
from recsys.tracking.record import RunRecord
from recsys.tracking.redaction import without_secrets
from recsys.tracking.run_folder import RunFolder

if TYPE_CHECKING:
    from mlflow.entities import Metric
    from mlflow.tracking import MlflowClient

TABLE = "metrics.json"
SMALL_BYTES = 2**20
_PER_CALL = {"params": 100, "tags": 100, "metrics": 1000}
_STATUS = {"running": "RUNNING", "finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
_NOT_LOGGED = ("model", "lexical", "checkpoints", "config.yaml")


class MLflowRun:
    """One run. Once it has started, a store that fails costs a warning and never the training.

    Attributes:
        client: of the store.
        run_id: MLflow's name of the run.
        experiment: its experiment.
    """

    def __init__(self, client: MlflowClient, run_id: str, experiment: str):
        self.client, self.run_id, self.experiment = client, run_id, experiment
        self._waiting: list[Metric] = []

    @classmethod
    def start(cls, record: RunRecord, run_name: str | None = None, uri: str | None = None) -> MLflowRun:
        """Starts the run of `record`, or continues the one it names, and notes it there.

        Args:
            record: its configuration becomes parameters, the rest of it tags.
            run_name: for people; None: MLflow invents one.
            uri: the store; None: see `tracking_uri`.

        Raises:
            TrackingError: the store cannot be used.
        """
        from mlflow.entities import Dataset, DatasetInput
        from mlflow.exceptions import MlflowException

        uri = uri or tracking_uri()
        client = open_client(uri)
        experiment = experiment_id(client, uri, record.name)
        shown = without_secrets(uri)
        if record.mlflow is not None and record.mlflow["uri"] == shown:
            try:
                client.update_run(record.mlflow["run"], status="RUNNING")
                return cls(client, record.mlflow["run"], record.name)
            except MlflowException as error:
                warnings.warn(f"a new MLflow run: the one of this folder is gone ({error})", stacklevel=2)
        started = client.create_run(experiment, run_name=run_name, tags=tags(record))
        run = cls(client, started.info.run_id, record.name)
        record.mlflow = {"uri": shown, "experiment": record.name, "run": run.run_id}
        with run._surviving("the configuration"):
            run._log_params(flatten(record.config))
            data = record.data
            dataset = Dataset(data["name"], data["fingerprint"], "local", json.dumps({"uri": data["folder"]}))
            client.log_inputs(run.run_id, [DatasetInput(dataset)])
        return run

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Logs values; what the store refuses now is sent with the next.

        Args:
            metrics: by any names; see `metric_name`.
            step: training step.
        """
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self._waiting += [Metric(metric_name(name), float(value), now, step) for name, value in metrics.items()]
        with self._surviving("metrics"):
            while self._waiting:
                sent = self._waiting[: _PER_CALL["metrics"]]
                self.client.log_batch(self.run_id, metrics=sent)
                del self._waiting[: len(sent)]

    def log_evaluations(self, evaluations: Sequence[Evaluation]) -> None:
        """Logs the table of all models as `metrics.json`, and the metrics of the first as `test/...`.

        Args:
            evaluations: that of the trained model first.
        """
        from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS

        name = evaluations[0].model
        for own in evaluations:
            if own.model in (name, f"{name}-ranked"):
                self.log_metrics({f"{metric_prefix(own, name)}/{metric}": v for metric, v in own.means().items()})
        with self._surviving("the table of metrics"):
            # What `log_table` writes; that would add to the rows which the same run may have written before.
            self.client.log_text(self.run_id, metric_table(evaluations).to_json(orient="split", index=False), TABLE)
            self.client.set_tag(self.run_id, MLFLOW_LOGGED_ARTIFACTS, json.dumps([{"path": TABLE, "type": "table"}]))

    def log_files(self, folder: RunFolder) -> None:
        """Logs the small files of a run folder (up to 1 MiB): all but the model, checkpoints and hidden files."""
        for path in sorted(folder.path.rglob("*")):
            place = path.relative_to(folder.path)
            hidden = any(part.startswith(".") for part in place.parts)
            if not path.is_file() or hidden or place.parts[0] in _NOT_LOGGED or path.stat().st_size > SMALL_BYTES:
                continue
            with self._surviving(str(place)):
                self.client.log_artifact(self.run_id, str(path), place.parent.as_posix() if place.parent.name else None)

    def finish(self, record: RunRecord, folder: RunFolder) -> None:
        """Logs what the run took, its configuration and its files, and closes it with the status of `record`."""
        self.log_metrics({f"usage/{name}": value for name, value in record.usage.items()})
        self.log_files(folder)
        with self._surviving("the configuration"):
            self.client.log_dict(self.run_id, record.config, "config.yaml")
        with self._surviving("the end of the run"):
            self.client.set_terminated(self.run_id, _STATUS[record.status])

    def _log_params(self, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        entities = [Param(name, value) for name, value in params.items()]
        for first in range(0, len(entities), _PER_CALL["params"]):
            self.client.log_batch(self.run_id, params=entities[first : first + _PER_CALL["params"]])

    @contextmanager
    def _surviving(self, what: str) -> Iterator[None]:
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        try:
            yield
        except (MlflowException, SQLAlchemyError, OSError) as error:
            warnings.warn(f"MLflow did not take {what}: {error}", stacklevel=4)


def metric_name(name: str) -> str:
    """A name that MLflow allows.

    Example:
        >>> metric_name("val/Debiased NDCG@10")
        'val/debiased_ndcg_at_10'
    """
    return re.sub(r"[^a-z0-9_./-]+", "_", name.lower().replace("@", "_at_"))


def flatten(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested configuration as dotted names and values; lists of plain values stay whole.

    Example:
        >>> flatten({"model": {"width": 64, "betas": [0.9, 0.98]}, "callbacks": [{"k": 1}]})
        {'model.width': '64', 'model.betas': '[0.9, 0.98]', 'callbacks.0.k': '1'}
    """
    flat: dict[str, str] = {}
    for name, value in config.items():
        if isinstance(value, list) and any(isinstance(item, dict) for item in value):
            value = {str(place): item for place, item in enumerate(value)}
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            # MLflow keeps 6000 characters of a value; the whole configuration is among the files.
            flat[f"{prefix}{name}"] = str(value)[:6000]
    return flat


def tags(record: RunRecord) -> dict[str, str]:
    """What runs are searched by: data, split, revision, versions, machine, seeds."""
    revision = {} if record.git is None else {"revision": record.git["revision"], "dirty": record.git["dirty"]}
    nested = {
        "data": {"name": record.data["name"], "fingerprint": record.data["fingerprint"]},
        "split": {"rule": record.split["rule"], "hash": record.split["hash"]},
        "model": record.model,
        "git": revision,
        "version": record.versions,
        "machine": record.machine,
        "seed": record.seeds,
        "command": " ".join(record.command),
    }
    return {name: value for name, value in flatten(nested).items() if value != "{}"}


def metric_prefix(evaluation: Evaluation, model: str) -> str:
    """Part, task if there are several, and whether the lists were ranked: `test`, `test/search/ranked`."""
    words = [evaluation.facts["part"], evaluation.facts.get("task"), evaluation.model.removeprefix(model).strip("-")]
    return "/".join(word for word in words if word)


def metric_table(evaluations: Sequence[Evaluation]) -> pd.DataFrame:
    """One row per model, task and metric: `model, part, task, metric, value, low, high, level, users`.

    Metrics of all lists together have no interval.
    """
    rows: list[dict[str, Any]] = []
    for evaluation in evaluations:
        intervals = evaluation.summary() if evaluation.facts["judged_users"] else {}
        for name, value in evaluation.means().items():
            row = {"model": evaluation.model, "part": evaluation.facts["part"], "task": evaluation.facts.get("task")}
            row |= {"metric": name, "value": value}
            if name in intervals:
                found = intervals[name]
                row |= {"low": found.low, "high": found.high, "level": found.level, "users": found.users}
            rows.append(row)
    return pd.DataFrame(rows, columns=["model", "part", "task", "metric", "value", "low", "high", "level", "users"])
