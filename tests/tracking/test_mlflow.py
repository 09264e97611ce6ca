"""Runs reach MLflow whole, and a store that fails never costs a training. One SQLite file: making it is slow."""

from __future__ import annotations

import json
import logging
import time
import warnings
from pathlib import Path
from types import SimpleNamespace

import lightning as L
import numpy as np
import pandas as pd
import pytest
import torch
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient
from torch import nn
from torch.utils.data import DataLoader

from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.result import Evaluation
from recsys.features.batch import SequenceBatch
from recsys.features.event_log import EventLog
from recsys.features.schema import Schema
from recsys.features.splits import GlobalTime, Split
from recsys.models.popularity import Popularity, RecentPopularity
from recsys.tracking import mlflow_run, mlflow_store
from recsys.tracking.mlflow_run import MLflowRun, flatten, metric_name, metric_table
from recsys.tracking.mlflow_store import TrackingError, experiment_id, open_client, tracking_uri
from recsys.tracking.record import RunRecord
from recsys.tracking.run_folder import RunFolder
from recsys.tracking.tracked import tracked
from recsys.training.callbacks import interruptible
from tests.tracking.stores import empty_store

RULE = GlobalTime(0.3, 0.1)
CONFIG = {
    "model": {"class_path": "m.Net", "init_args": {"width": 8}},
    "betas": [0.9, 0.98],
    "db": {"password": "hunter2"},
}


@pytest.fixture(scope="module")
def split() -> Split:
    random = np.random.default_rng(0)
    frame = {"user_id": random.integers(0, 30, 400), "item_id": random.integers(0, 25, 400), "timestamp": range(400)}
    return RULE(EventLog.from_frame(pd.DataFrame(frame), Schema(name="toy")))


@pytest.fixture(scope="module")
def evaluations(split: Split) -> list[Evaluation]:
    models = [RecentPopularity(0.001), Popularity()]
    for model in models:
        model.fit(split)
    return [evaluate(model, split, ks=(5, 10), top=10) for model in models]


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a store with its tables made."""
    folder = tmp_path_factory.mktemp("store")
    empty_store(folder)
    return folder


def uri_of(folder: Path) -> str:
    return f"sqlite:///{folder / 'mlflow.db'}"


def record_of(split: Split, name: str, **arguments) -> RunRecord:
    return RunRecord.of(name, "RecentPopularity", CONFIG, split, RULE, "cache/x", {"everything": 3}, **arguments)


class Module(L.LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def training_step(self, batch, batch_idx):
        self.log("val/NDCG@10", 0.25, on_step=False, on_epoch=True, batch_size=len(batch))
        return self.weight

    def configure_optimizers(self):
        return torch.optim.SGD([self.weight], lr=1.0)


def batches() -> DataLoader:
    lengths, zeros = torch.tensor([3, 1]), torch.zeros(4, dtype=torch.int64)
    return DataLoader([SequenceBatch.build(torch.arange(2), lengths, zeros, zeros)] * 3, batch_size=None)


def trainer_of(folder: Path, *callbacks: L.Callback) -> L.Trainer:
    return L.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, default_root_dir=folder, callbacks=list(callbacks),
    )  # fmt: skip


def test_a_whole_job(store, split, evaluations, tmp_path, capfd, monkeypatch):
    record, folder = record_of(split, "whole job"), RunFolder(tmp_path / "run")
    trainer = trainer_of(tmp_path)
    with tracked(trainer, record, folder, uri=uri_of(store)) as run, interruptible(trainer):
        assert RunRecord.read(folder.path).status == "running"
        trainer.fit(Module(), batches())
        for evaluation in evaluations:
            evaluation.save(folder.evaluation(evaluation.model))
        run.log_evaluations(evaluations)
        run.log_evaluations(evaluations)  # again, as a resumed run does: the table is not doubled
        (folder.path / "plots").mkdir()
        (folder.path / "plots" / "scores.png").write_bytes(b"png")
        (folder.path / "model").mkdir()
        (folder.path / "model" / "weights.safetensors").write_bytes(b"w")
        folder.save_config("password: hunter2\n")
    assert not [line for text in capfd.readouterr() for line in text.splitlines() if "mlflow" in line.lower()]

    again = RunRecord.read(folder.path)
    assert again.status == "finished" and again.mlflow["run"] == run.run_id
    assert (again.usage["sequences"], again.usage["padded_share"]) == (12, pytest.approx(1 / 3, abs=1e-5))
    client = MlflowClient(uri_of(store))
    found = client.get_run(run.run_id)
    assert found.info.status == "FINISHED" and found.info.run_name == "run"
    assert found.data.params == {
        "model.class_path": "m.Net", "model.init_args.width": "8", "betas": "[0.9, 0.98]", "db.password": "***",
    }  # fmt: skip
    tags = found.data.tags
    assert tags["data.fingerprint"] == split.log.fingerprint and tags["split.hash"] == split.hash
    assert tags["version.torch"] == torch.__version__ and tags["seed.everything"] == "3"
    assert ("git.revision" in tags) == (record.git is not None)
    (dataset,) = found.inputs.dataset_inputs
    assert (dataset.dataset.name, dataset.dataset.digest) == ("toy", split.log.fingerprint)
    assert [point.step for point in client.get_metric_history(run.run_id, "val/ndcg_at_10")] == [2, 5]
    assert len(client.get_metric_history(run.run_id, "train/sequences_per_s")) == 2
    metrics = found.data.metrics
    own = evaluations[0]
    assert metrics["test/ndcg_at_10"] == pytest.approx(np.nanmean(own.metrics["NDCG@10"]))
    assert metrics["test/coverage_at_5"] == pytest.approx(own.exposure["Coverage@5"])
    assert metrics["usage/peak_rss_mib"] == again.usage["peak_rss_mib"]

    def names(folder: str = "") -> set[str]:
        return {
            path
            for f in client.list_artifacts(run.run_id, folder)
            for path in (names(f.path) if f.is_dir else {f.path})
        }

    evaluated = {
        f"evaluation/{e.model}/{n}"
        for e in evaluations
        for n in ("evaluation.json", "users.parquet", "targets.parquet")
    }
    cards = {"model_card.md", "model_card.html"}
    assert names() == evaluated | cards | {"run.json", "config.yaml", "metrics.json", "plots/scores.png"}
    files = Path(store / "mlartifacts" / "whole-job" / run.run_id / "artifacts")
    assert "hunter2" not in "".join(path.read_text() for path in files.glob("*") if path.is_file())
    assert folder.config.stat().st_mode & 0o077 == 0

    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri_of(store))  # `load_table` asks the store of the environment
    table = client.load_table(found.info.experiment_id, "metrics.json", run_ids=[run.run_id])
    assert len(table) == len(metric_table(evaluations)) == sum(len(e.means()) for e in evaluations)
    row = table[(table["model"] == "Popularity") & (table["metric"] == "NDCG@10")].iloc[0]
    interval = evaluations[1].summary()["NDCG@10"]
    assert (row["value"], row["low"], row["high"]) == pytest.approx((interval.mean, interval.low, interval.high))


def test_resumed_interrupted_and_failed_runs(store, split, tmp_path):
    class Interrupt(L.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            raise KeyboardInterrupt

    folder, client = RunFolder(tmp_path / "run"), MlflowClient(uri_of(store))
    trainer = trainer_of(tmp_path, Interrupt())
    with (
        pytest.raises(KeyboardInterrupt),
        tracked(trainer, record_of(split, "resumed"), folder, uri=uri_of(store)) as run,
        interruptible(trainer),
    ):
        trainer.fit(Module(), batches())
    first = RunRecord.read(folder.path)
    assert first.status == "interrupted" and client.get_run(run.run_id).info.status == "KILLED"

    changed = record_of(split, "resumed", previous=first)
    changed.config = {"betas": [0.5]}  # a parameter of MLflow can never be changed
    with (
        pytest.raises(ZeroDivisionError),
        tracked(trainer_of(tmp_path), changed, folder, uri=uri_of(store)) as again,
    ):
        1 / 0  # noqa: B018
    assert again.run_id == run.run_id
    assert RunRecord.read(folder.path).status == "failed"
    assert client.get_run(run.run_id).info.status == "FAILED"

    client.delete_run(run.run_id)
    client._tracking_client.store._hard_delete_run(run.run_id)
    with pytest.warns(UserWarning, match="the one of this folder is gone"):
        fresh = MLflowRun.start(record_of(split, "resumed", previous=first), uri=uri_of(store))
    assert fresh.run_id != run.run_id


def test_untracked_job_is_recorded_all_the_same(split, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    trainer, folder = trainer_of(tmp_path), RunFolder(tmp_path / "run")
    with tracked(trainer, record_of(split, "job"), folder, mlflow=False) as run:
        trainer.fit(Module(), batches())
    assert run is None and RunRecord.read(folder.path).usage["sequences"] == 12
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_what_the_store_refuses_is_sent_later(monkeypatch):
    # On a clock that stands still: a busy machine makes the refusal slow, and after a slow one the store is left alone.
    monkeypatch.setattr(mlflow_run, "time", SimpleNamespace(monotonic=lambda: 0.0, time=time.time))

    class Flaky:
        def __init__(self):
            self.down, self.sent = True, []

        def log_batch(self, run_id, metrics):
            if self.down:
                raise MlflowException("down")
            self.sent += [(metric.key, metric.value, metric.step) for metric in metrics]

    store = Flaky()
    run = MLflowRun(store, "r", "e")
    with pytest.warns(UserWarning, match="MLflow did not take metrics: down"):
        run.log_metrics({"a": 1.0}, 1)
    store.down = False
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run.log_metrics({"a": 2.0}, 2)
        run.log_metrics({f"m{number}": 0.0 for number in range(2500)}, 3)
    assert store.sent[:2] == [("a", 1.0, 1), ("a", 2.0, 2)] and len(store.sent) == 2502


def test_stores_that_cannot_be_used(store, monkeypatch):
    client = open_client(uri_of(store))
    client.create_experiment("the server's", artifact_location="mlflow-artifacts:/7")
    with pytest.raises(TrackingError, match="belong to the tracking server"):
        experiment_id(client, uri_of(store), "the server's")
    client.delete_experiment(experiment_id(client, uri_of(store), "gone"))
    with pytest.raises(TrackingError, match="experiment `gone` is deleted"):
        experiment_id(client, uri_of(store), "gone")

    (store / "file").touch()
    with pytest.raises(TrackingError, match="cannot be used"):
        open_client(f"sqlite:///{store / 'file' / 'mlflow.db'}")

    def down(name):
        raise ConnectionError("refused")

    with pytest.raises(TrackingError, match=r"http://\*\*\*@host cannot be used: refused.*MLFLOW_TRACKING_URI"):
        experiment_id(SimpleNamespace(get_experiment_by_name=down), "http://me:hunter2@host", "x")


def test_default_store_and_silence(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(mlflow_store.URI_VARIABLE, raising=False)
    assert tracking_uri() == f"sqlite:///{tmp_path}/mlflow.db"
    monkeypatch.setenv(mlflow_store.URI_VARIABLE, "http://host")
    assert tracking_uri() == "http://host"
    assert mlflow_store.artifact_location("http://host", "x") is None
    from mlflow.telemetry.utils import is_telemetry_disabled

    assert is_telemetry_disabled()
    assert not logging.getLogger("mlflow.store.db.utils").isEnabledFor(logging.INFO)


@pytest.mark.parametrize(
    ("name", "allowed"),
    [("NDCG@10", "ndcg_at_10"), ("val/Debiased Recall@50", "val/debiased_recall_at_50"), ("a:b%c", "a_b_c")],
)
def test_names_of_metrics(name: str, allowed: str) -> None:
    from mlflow.utils.validation import _validate_metric_name

    assert metric_name(name) == allowed
    _validate_metric_name(metric_name(name))


def test_configuration_is_flattened() -> None:
    config = {"a": {"b": {}, "c": []}, "list": [{"x": 1}, 2], "plain": [1, [2]], "none": None, "long": "x" * 7000}
    assert flatten(config) == {
        "a.b": "{}", "a.c": "[]", "list.0.x": "1", "list.1": "2", "plain": "[1, [2]]", "none": "None",
        "long": "x" * 6000,
    }  # fmt: skip
    assert json.loads(json.dumps(flatten(config))) == flatten(config)
