"""What MLflow refuses waits in the folder of the run, survives a kill, and is sent once MLflow answers again."""

from __future__ import annotations

import math
import time
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from mlflow.entities import Metric
from mlflow.exceptions import MlflowException
from mlflow.tracking import MlflowClient

from recsys.cli.sync import main as sync
from recsys.features.event_log import EventLog
from recsys.features.schema import Schema
from recsys.features.splits import GlobalTime
from recsys.tracking.mlflow_run import MLflowRun
from recsys.tracking.mlflow_store import TrackingError, explained, open_client
from recsys.tracking.record import RunRecord
from recsys.tracking.registry_calls import called
from recsys.tracking.run_folder import RunFolder
from recsys.tracking.unsent import UNSENT, Unsent
from tests.tracking.stores import empty_store

RULE = GlobalTime(0.3, 0.1)
CALLS = ("log_batch", "log_inputs", "log_artifact", "log_dict", "log_text", "set_tag", "set_terminated", "update_run")


class Outage:
    """Lets every call of a client that writes fail while it lasts."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.on, self.seconds, self.asked = False, 0.0, 0
        for name in CALLS:
            self._wrap(monkeypatch, name, getattr(MlflowClient, name))

    def _wrap(self, monkeypatch, name, call):
        def wrapped(client, *args, **kwargs):
            if self.on:
                self.asked += 1
                time.sleep(self.seconds)
                raise MlflowException("down")
            return call(client, *args, **kwargs)

        monkeypatch.setattr(MlflowClient, name, wrapped)


@pytest.fixture
def outage(monkeypatch: pytest.MonkeyPatch) -> Outage:
    return Outage(monkeypatch)


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    return empty_store(tmp_path_factory.mktemp("store"))


@pytest.fixture
def record() -> RunRecord:
    random = np.random.default_rng(0)
    frame = {"user_id": random.integers(0, 30, 200), "item_id": random.integers(0, 25, 200), "timestamp": range(200)}
    split = RULE(EventLog.from_frame(pd.DataFrame(frame), Schema(name="toy")))
    return RunRecord.of("toy", "Popularity", {"width": 8}, split, RULE, "cache/x", {"all": 3})


def values(uri: str, run_id: str, key: str) -> list[tuple[float, int]]:
    return sorted((point.value, point.step) for point in MlflowClient(uri).get_metric_history(run_id, key))


def test_the_file_keeps_what_waits_to_the_bit_and_ignores_a_line_that_was_cut_off(tmp_path):
    kept = Unsent(tmp_path)
    sent = [Metric("a", value, 7, step) for step, value in enumerate([0.1, 1e-300, math.inf, -math.inf, math.nan])]
    kept.add(sent)
    kept.keep()
    kept.keep()  # nothing twice
    kept.miss("files")
    with (tmp_path / UNSENT).open("a") as file:
        file.write('{"key": "b", "val')
    after = Unsent(tmp_path)  # the process was killed
    after.add([Metric("c", 2.0, 8, 9)])
    after.keep()
    found = Unsent(tmp_path)
    assert [(m.key, str(m.value), m.timestamp, m.step) for m in found.metrics] == [
        *((m.key, str(m.value), m.timestamp, m.step) for m in sent), ("c", "2.0", 8, 9),
    ]  # fmt: skip
    assert found.parts == {"files"} and found
    found.sent(6)
    assert (tmp_path / UNSENT).exists()  # the files still wait
    found.forget_parts()
    found.settle()
    assert not (tmp_path / UNSENT).exists() and not Unsent(tmp_path)


@pytest.mark.filterwarnings("ignore:MLflow")
def test_a_run_that_ends_during_an_outage_is_sent_by_a_command(uri, record, outage, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    folder = RunFolder(tmp_path / "run")
    run = MLflowRun.start(record, uri=uri, folder=folder)
    run.log_metrics({"Loss": 3.0}, 1)
    outage.on = True
    run.log_metrics({"Loss": 2.0}, 2)
    folder.save_config("width: 8\n")
    record.status, record.usage = "finished", {"wall_s": 5.0}
    record.write(folder.path)
    with pytest.warns(UserWarning, match=r"not taken all of this run; `recsys sync .*run` sends the rest"):
        run.finish(record, folder)
    assert sync([str(folder.path)]) == 1
    assert "does not take all of it yet" in capsys.readouterr().err
    outage.on = False
    assert values(uri, run.run_id, "loss") == [(3.0, 1)]
    assert sync([str(folder.path)]) == 0
    assert capsys.readouterr().out.endswith("run: sent\n")

    assert values(uri, run.run_id, "loss") == [(2.0, 2), (3.0, 1)]
    assert values(uri, run.run_id, "usage/wall_s") == [(5.0, 0)]
    client = MlflowClient(uri)
    assert client.get_run(run.run_id).info.status == "FINISHED"
    assert {file.path for file in client.list_artifacts(run.run_id)} == {"run.json", "config.yaml"}
    assert not (folder.path / UNSENT).exists()
    assert sync([str(folder.path)]) == 0
    assert capsys.readouterr().out.endswith("nothing waits\n")


@pytest.mark.filterwarnings("ignore:MLflow")
def test_a_killed_run_that_starts_again_sends_what_waited(uri, record, outage, tmp_path):
    folder = RunFolder(tmp_path / "run")
    create = MlflowClient.create_run

    def then_down(client, *args, **kwargs):
        started = create(client, *args, **kwargs)
        outage.on = True
        return started

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(MlflowClient, "create_run", then_down)
        run = MLflowRun.start(record, uri=uri, folder=folder)  # its parameters are refused
    run.log_metrics({"loss": 3.0}, 1)
    run.log_metrics({"loss": 2.0}, 2)
    record.write(folder.path)

    with pytest.raises(TrackingError, match="does not continue this run: down"):  # which is no reason for a new run
        MLflowRun.start(RunRecord.read(folder.path), uri=uri, folder=folder)
    outage.on = False
    again = MLflowRun.start(RunRecord.read(folder.path), uri=uri, folder=folder)
    assert again.run_id == run.run_id
    assert MlflowClient(uri).get_run(run.run_id).data.params == {"width": "8"}
    again.log_metrics({"loss": 1.0}, 3)
    assert values(uri, run.run_id, "loss") == [(1.0, 3), (2.0, 2), (3.0, 1)]
    assert not (folder.path / UNSENT).exists()


@pytest.mark.filterwarnings("ignore:MLflow")
def test_sending_again_what_was_taken_adds_nothing(uri, record, tmp_path):
    """The answer to a call can be lost: the store has taken it, and it waits all the same."""
    folder = RunFolder(tmp_path / "run")
    run = MLflowRun.start(record, uri=uri, folder=folder)
    lost = [Metric("loss", 0.5, 1_700_000_000_000, 4), Metric("loss", math.nan, 1_700_000_000_000, 5)]
    run.client.log_batch(run.run_id, metrics=lost)
    run.unsent.add([*lost, Metric("loss", 0.25, 1_700_000_000_001, 6)])
    run.log_metrics({"other": 1.0})
    assert [point.step for point in run.client.get_metric_history(run.run_id, "loss")] == [4, 5, 6]


@pytest.mark.filterwarnings("ignore:MLflow")
def test_a_store_that_is_down_costs_a_small_share_of_the_time(uri, record, outage):
    run = MLflowRun.start(record, uri=uri)
    outage.on, outage.seconds = True, 0.05
    began = time.monotonic()
    calls = 0
    while time.monotonic() - began < 1.5:
        run.log_metrics({"loss": 1.0}, calls)
        calls += 1
        time.sleep(0.005)
    assert 1 <= outage.asked <= 4 and calls > 30
    outage.on, run._pause_until = False, 0.0
    run.log_metrics({"loss": 0.0}, calls)
    assert len(values(uri, run.run_id, "loss")) == calls + 1


@pytest.mark.filterwarnings("ignore:MLflow")
def test_files_wait_together_once_the_store_is_known_to_be_down(uri, record, outage, tmp_path):
    folder = RunFolder(tmp_path / "run")
    run = MLflowRun.start(record, uri=uri, folder=folder)
    record.write(folder.path)
    (folder.path / "history.json").write_text("{}")
    outage.on = True
    run._pause_until = time.monotonic() + 60  # it took six seconds to refuse the last call
    run.log_files(folder)
    assert outage.asked == 0 and Unsent(folder.path).parts == {"run.json", "history.json"}


def test_folders_without_a_tracked_run(tmp_path, record, capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        record.write(tmp_path / "untracked")
    assert sync([str(tmp_path / "none"), str(tmp_path / "untracked")]) == 1
    printed = capsys.readouterr().err
    assert "no run here" in printed and "is not tracked by MLflow" in printed
    assert not Path(tmp_path / "untracked" / UNSENT).exists()


@pytest.mark.filterwarnings("ignore:MLflow")
def test_an_s3_that_is_down_costs_a_warning_and_no_run(uri, record, tmp_path, monkeypatch):
    """Its client raises what neither MLflow nor the system does."""
    for name, value in {
        "MLFLOW_S3_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_MAX_ATTEMPTS": "1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }.items():
        monkeypatch.setenv(name, value)
    record.name = "on S3"
    client = open_client(uri)
    client.create_experiment(record.name, artifact_location="s3://nowhere/files")
    run, folder = MLflowRun.start(record, None, uri), RunFolder(tmp_path)
    record.write(tmp_path)
    record.status = "finished"
    with pytest.warns(UserWarning, match=r"did not take run\.json: .*127\.0\.0\.1:9"):
        run.finish(record, folder)
    assert run.unsent.parts == {"run.json", "the configuration"}
    assert run.client.get_run(run.run_id).info.status == "FINISHED"
    with pytest.raises(TrackingError, match=r"cannot be used: .*127\.0\.0\.1:9"):
        called(uri, client.log_artifact, run.run_id, str(tmp_path / "run.json"))
    with pytest.raises(TrackingError, match=r"cannot be used: .*127\.0\.0\.1:9"), explained(uri):
        client.list_artifacts(run.run_id)
