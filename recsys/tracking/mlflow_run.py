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
from recsys.tracking.mlflow_store import TrackingError, experiment_id, explained, open_client, tracking_uri
from recsys.tracking.record import RunError, RunRecord
from recsys.tracking.redaction import HIDDEN, without_secrets
from recsys.tracking.run_folder import RunFolder
from recsys.tracking.unsent import Unsent

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

TABLE = "metrics.json"
SMALL_BYTES = 2**20
_PER_CALL = {"params": 100, "tags": 100, "metrics": 1000}
_STATUS = {"running": "RUNNING", "finished": "FINISHED", "interrupted": "KILLED", "failed": "FAILED"}
_MODEL = "the model"
_NOT_LOGGED = ("model", "lexical", "checkpoints", "config.yaml")
_PATIENCE = 10
"""Of the time that metrics take while the store is down, the share lost is one in this many."""


class MLflowRun:
    """One run. Once it has started, a store that fails costs a warning and never the training.

    What the store refuses waits, in the folder of the run where there is one, and is sent with what follows; what still
    waits when the run has ended is sent by the next start in that folder, or by `recsys sync`.

    Attributes:
        client: of the store.
        run_id: MLflow's name of the run.
        experiment: its experiment.
        unsent: what the store has not taken so far.
    """

    def __init__(self, client: MlflowClient, run_id: str, experiment: str, unsent: Unsent | None = None):
        self.client, self.run_id, self.experiment = client, run_id, experiment
        self.unsent = Unsent() if unsent is None else unsent
        self._pause_until = 0.0

    @classmethod
    def start(
        cls, record: RunRecord, run_name: str | None = None, uri: str | None = None, folder: RunFolder | None = None
    ) -> MLflowRun:
        """Starts the run of `record`, or continues the one it names, and notes it there.

        Args:
            record: its configuration becomes parameters, the rest of it tags.
            run_name: for people; None: MLflow invents one.
            uri: the store; None: see `tracking_uri`.
            folder: keeps what the store refuses; None keeps it in memory.

        Raises:
            TrackingError: the store cannot be used.
        """
        from mlflow.exceptions import MlflowException

        uri = uri or tracking_uri()
        client = open_client(uri)
        experiment = experiment_id(client, uri, record.name)
        shown, unsent = without_secrets(uri), Unsent(None if folder is None else folder.path)
        if record.mlflow is not None and record.mlflow["uri"] == shown:
            try:
                client.update_run(record.mlflow["run"], status="RUNNING")
                run = cls(client, record.mlflow["run"], record.name, unsent)
                if "the configuration" in unsent.forget_parts():  # the rest is sent when the run ends
                    run._log_inputs(record)
                return run
            except MlflowException as error:
                if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                    raise TrackingError(f"MLflow at {shown} does not continue this run: {error}") from error
                warnings.warn(f"a new MLflow run: the one of this folder is gone ({error})", stacklevel=2)
        with explained(uri):
            started = client.create_run(experiment, run_name=run_name, tags=tags(record))
        run = cls(client, started.info.run_id, record.name, unsent)
        record.mlflow = {"uri": shown, "experiment": record.name, "run": run.run_id}
        run._log_inputs(record)
        return run

    @classmethod
    def catch_up(cls, folder: RunFolder, uri: str | None = None) -> bool:
        """Sends what still waits in the folder of a run that has ended, or was killed.

        Args:
            folder: of the run.
            uri: the store; None: the one the run was started with, `tracking_uri` where its address holds a secret.

        Returns:
            Whether anything had waited.

        Raises:
            RunError: the folder holds no run, or one that is not tracked.
            TrackingError: the store cannot be used, or still refuses something.
        """
        record, unsent = folder.record, Unsent(folder.path)
        if record.mlflow is None:
            raise RunError(f"{folder.path}: the run is not tracked by MLflow, so there is nothing to send")
        if not unsent:
            return False
        known = record.mlflow["uri"]
        client = open_client(uri or (tracking_uri() if HIDDEN in known else known))
        run = cls(client, record.mlflow["run"], record.name, unsent)
        if parts := unsent.forget_parts():
            run._log_inputs(record)
            evaluations = folder.evaluations(of_any=True)
            if evaluations:
                run._log_table(evaluations)
            if _MODEL in parts:
                run.log_model(folder)
        run._send()
        if record.status != "running":  # else it was killed, or goes on and keeps the file itself
            run._close(record, folder)
            unsent.settle()
        if unsent:
            raise TrackingError(
                f"{folder.path}: MLflow at {known} does not take all of it yet; `recsys doctor` tests it"
            )
        return True

    def log_metrics(self, metrics: Mapping[str, float], step: int = 0) -> None:
        """Logs values; what the store refuses now waits and is sent with what follows.

        A store that is down is left alone for a while, so that asking it takes a small share of the time.

        Args:
            metrics: by any names; see `metric_name`.
            step: training step.
        """
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        self.unsent.add([Metric(metric_name(name), float(value), now, step) for name, value in metrics.items()])
        if time.monotonic() >= self._pause_until:
            self._send()
        self.unsent.keep()

    def log_evaluations(self, evaluations: Sequence[Evaluation]) -> None:
        """Logs the table of all models as `metrics.json`, and the metrics of the first as `test/...`.

        Args:
            evaluations: that of the trained model first.
        """
        name = evaluations[0].model
        for own in evaluations:
            if own.model in (name, f"{name}-ranked"):
                self.log_metrics({f"{metric_prefix(own, name)}/{metric}": v for metric, v in own.means().items()})
        self._log_table(evaluations)

    def _log_table(self, evaluations: Sequence[Evaluation]) -> None:
        from mlflow.utils.mlflow_tags import MLFLOW_LOGGED_ARTIFACTS

        with self._surviving("the table of metrics"):
            # What `log_table` writes; that would add to the rows which the same run may have written before.
            self.client.log_text(self.run_id, metric_table(evaluations).to_json(orient="split", index=False), TABLE)
            self.client.set_tag(self.run_id, MLFLOW_LOGGED_ARTIFACTS, json.dumps([{"path": TABLE, "type": "table"}]))

    def log_model(self, folder: RunFolder) -> str | None:
        """Logs the saved model of a run, every file of it from where it lies.

        Returns:
            Its address in MLflow; None: the store did not take it.
        """
        from recsys.tracking.logged_model import NAME, SavedBundle, log_to

        logged = None
        with self._surviving(_MODEL):
            experiment = self.client.get_run(self.run_id).info.experiment_id
            logged = log_to(self.client, experiment, SavedBundle.of(folder.model), NAME, self.run_id).model_uri
        return logged

    def log_files(self, folder: RunFolder) -> None:
        """Logs the small files of a run folder (up to 1 MiB), and its evaluation set whatever its size.

        Left out are the model, checkpoints and hidden files.
        """
        for path in sorted(folder.path.rglob("*")):
            place = path.relative_to(folder.path)
            hidden = any(part.startswith(".") for part in place.parts)
            if not path.is_file() or hidden or place.parts[0] in _NOT_LOGGED:
                continue
            if place.parts[0] != folder.evaluation_set.name and path.stat().st_size > SMALL_BYTES:
                continue
            if self._pause_until - time.monotonic() > _PATIENCE:  # it waited in vain for the last: the store is down
                self.unsent.miss(str(place))
                continue
            with self._surviving(str(place)):
                self.client.log_artifact(self.run_id, str(path), place.parent.as_posix() if place.parent.name else None)

    def finish(self, record: RunRecord, folder: RunFolder) -> None:
        """Logs what the run took, its configuration and its files, and closes it with the status of `record`."""
        self._pause_until = 0.0
        self.log_metrics({f"usage/{name}": value for name, value in record.usage.items()})
        self._close(record, folder)
        if self.unsent:
            kept = f"; `recsys sync {folder.path}` sends the rest" if self.unsent.path is not None else ""
            warnings.warn(f"MLflow has not taken all of this run{kept}", stacklevel=2)

    def _close(self, record: RunRecord, folder: RunFolder) -> None:
        self.log_files(folder)
        with self._surviving("the configuration"):
            self.client.log_dict(self.run_id, record.config, "config.yaml")
        with self._surviving("the end of the run"):
            self.client.set_terminated(self.run_id, _STATUS[record.status])

    def _send(self) -> None:
        with self._surviving("metrics"):
            while self.unsent.metrics:
                first = self.unsent.metrics[: _PER_CALL["metrics"]]
                self.client.log_batch(self.run_id, metrics=first)
                self.unsent.sent(len(first))

    def _log_inputs(self, record: RunRecord) -> None:
        from mlflow.entities import Dataset, DatasetInput

        with self._surviving("the configuration"):
            self._log_params(flatten(record.config))
            data = record.data
            dataset = Dataset(data["name"], data["fingerprint"], "local", json.dumps({"uri": data["folder"]}))
            self.client.log_inputs(self.run_id, [DatasetInput(dataset)])

    def _log_params(self, params: Mapping[str, str]) -> None:
        from mlflow.entities import Param

        entities = [Param(name, value) for name, value in params.items()]
        for first in range(0, len(entities), _PER_CALL["params"]):
            self.client.log_batch(self.run_id, params=entities[first : first + _PER_CALL["params"]])

    @contextmanager
    def _surviving(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        try:
            yield
        except Exception as error:  # each store of files has errors of its own, and none may cost a training
            now = time.monotonic()
            self._pause_until = now + _PATIENCE * (now - began)
            if what != "metrics":
                self.unsent.miss(what)
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
