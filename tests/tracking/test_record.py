"""The record of a run: complete, readable, without secrets, written whole."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

import recsys
from recsys.features.event_log import EventLog
from recsys.features.schema import Schema
from recsys.features.splits import GlobalTime
from recsys.tracking.environment import git_state, machine, versions
from recsys.tracking.record import RUN, RunError, RunRecord
from recsys.training.usage import Work


@pytest.fixture
def log() -> EventLog:
    random = np.random.default_rng(0)
    frame = {"user_id": random.integers(0, 9, 90), "item_id": random.integers(0, 9, 90), "timestamp": np.arange(90)}
    return EventLog.from_frame(pd.DataFrame(frame), Schema(name="toy"))


def record_of(log: EventLog, **arguments) -> RunRecord:
    rule = GlobalTime(0.2, 0.1)
    config = {"trainer": {"max_epochs": 3}, "store": {"password": "hunter2"}}
    return RunRecord.of("job", "Model", config, rule(log), rule, "cache/x", {"everything": 7}, **arguments)


def test_holds_what_a_run_is_judged_by(log: EventLog, tmp_path: Path) -> None:
    record = record_of(log)
    record.measure(Work(sequences=100, events=300, slots=400, seconds=2.0))
    record.write(tmp_path)
    content = json.loads((tmp_path / RUN).read_text())
    split = GlobalTime(0.2, 0.1)(log)
    assert content["data"]["fingerprint"] == log.fingerprint != ""
    assert content["data"]["facts"] == log.facts
    assert Path(content["data"]["folder"]).is_absolute()
    assert (content["split"]["rule"], content["split"]["hash"]) == ("global_time", split.hash)
    assert content["split"]["facts"] == split.facts
    assert content["split"]["class_path"] == "recsys.features.splits.GlobalTime"
    assert content["split"]["init_args"] == {"test_share": 0.2, "validation_share": 0.1}
    assert content["seeds"] == {"everything": 7}
    usage = content["usage"]
    assert (usage["sequences_per_s"], usage["padded_share"], usage["train_s"]) == (50.0, 0.25, 2.0)
    assert usage["peak_rss_mib"] > 50 and 0 <= usage["wall_s"] < 60
    assert content["versions"]["torch"] == torch.__version__
    assert content["versions"]["recsys"] == recsys.__version__
    assert {"python", "torchrec", "lightning", "mlflow", "implicit", "numpy", "pandas"} <= content["versions"].keys()
    assert any(name.startswith("fbgemm") for name in content["versions"])
    assert content["machine"]["cores"] >= 1 and content["machine"]["memory_gib"] > 0
    assert "hunter2" not in (tmp_path / RUN).read_text()
    assert [path.name for path in tmp_path.iterdir()] == [RUN]
    assert RunRecord.read(tmp_path) == record


def test_a_resumed_run_keeps_its_start_and_adds_its_time(log: EventLog) -> None:
    first = record_of(log)
    first.measure(Work())
    first.usage["wall_s"], first.started = 100.0, "2020-01-01T00:00:00+00:00"
    first.mlflow = {"uri": "u", "experiment": "e", "run": "r"}
    second = record_of(log, previous=first)
    second.measure(Work())
    assert 100 <= second.usage["wall_s"] < 160
    assert (second.started, second.mlflow) == (first.started, first.mlflow)


def test_refuses_what_it_cannot_read_or_write(log: EventLog, tmp_path: Path) -> None:
    with pytest.raises(RunError, match=r"no run here \(run.json is missing\); `recsys fit` makes one"):
        RunRecord.read(tmp_path)
    record = record_of(log)
    record.write(tmp_path)
    text = (tmp_path / RUN).read_text()
    (tmp_path / RUN).write_text(text[:-20])
    with pytest.raises(RunError, match=r"run.json: damaged"):
        RunRecord.read(tmp_path)
    for content, message in (
        ({**json.loads(text), "format": 99}, "format 99, this version reads 1"),
        ({k: v for k, v in json.loads(text).items() if k != "git"}, "missing or unknown: git"),
        ([], "format None"),
    ):
        (tmp_path / RUN).write_text(json.dumps(content))
        with pytest.raises(RunError, match=message):
            RunRecord.read(tmp_path)
    record.config["rate"] = float("nan")
    with pytest.raises(RunError, match="not JSON"):
        record.write(tmp_path)
    assert json.loads((tmp_path / RUN).read_text()) == []  # what stood there is untouched


def test_git_state_of_a_checkout(tmp_path: Path) -> None:
    assert git_state(tmp_path) is None
    (tmp_path / "a").write_text("1")
    identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
    for words in (["init", "-q"], ["add", "a"], [*identity, "commit", "-qm", "first"]):
        subprocess.run(["git", "-C", str(tmp_path), *words], check=True)
    head = subprocess.run(["git", "-C", str(tmp_path), "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    assert git_state(tmp_path) == {"revision": head.stdout.strip(), "dirty": False}
    (tmp_path / "b").write_text("untracked")
    assert git_state(tmp_path) == {"revision": head.stdout.strip(), "dirty": False}
    (tmp_path / "a").write_text("2")
    assert git_state(tmp_path) == {"revision": head.stdout.strip(), "dirty": True}


def test_no_git_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(".") is None


def test_environment_is_plain_json() -> None:
    assert json.loads(json.dumps([versions(), machine()])) == [versions(), machine()]
