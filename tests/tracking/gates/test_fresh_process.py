"""Models are loaded and asked in a process of their own; what happens to it happens to no other."""

from __future__ import annotations

import json
import os
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recsys.tracking.gates import fresh_process, latency
from recsys.tracking.gates.answering import answer
from recsys.tracking.gates.case import Contestant, PromotionCase
from recsys.tracking.gates.fresh_process import Answers
from recsys.tracking.gates.gate import GateError
from recsys.tracking.gates.latency import Latency
from recsys.tracking.gates.load_test import LoadTest
from recsys.tracking.gates.size import Size
from recsys.tracking.mlflow_store import quiet
from recsys.tracking.model_files import sizes
from tests.tracking.gates.cases import frozen

pytestmark = pytest.mark.filterwarnings("ignore")
CODE = """
import os, subprocess, time
import pandas as pd
from mlflow.models import set_model
from mlflow.pyfunc import PythonModel


class Shop(PythonModel):
    def predict(self, context, model_input, params=None):
        {body}
        asked = range(len(model_input))
        return pd.DataFrame({{"request": asked, "item_id": "item 1", "rank": 1, "score": 1.0}})


set_model(Shop())
"""


def saved(folder: Path, body: str = "pass") -> Path:
    """An MLflow model that is none of ours, with a line of its own."""
    quiet()
    import mlflow
    from mlflow.models import ModelSignature
    from mlflow.types import ColSpec, ParamSchema, ParamSpec, Schema

    (folder / "code.py").write_text(CODE.format(body=body))
    signature = ModelSignature(
        inputs=Schema([ColSpec("string", "user_id")]),
        outputs=Schema([ColSpec("string", "item_id")]),
        params=ParamSchema(
            [ParamSpec("k", "long", 10), ParamSpec("retrieve", "long", 0), ParamSpec("filter_seen", "boolean", True)]
        ),
    )
    mlflow.pyfunc.save_model(
        str(folder / "model"), python_model=str(folder / "code.py"), signature=signature, pip_requirements=["mlflow"]
    )
    return folder / "model"


def case_of(model: Path | None) -> PromotionCase:
    uri = None if model is None else str(model)
    return PromotionCase(
        challenger=Contestant("challenger", lambda: None, uri=uri),
        champion=Contestant("champion", lambda: None),
        evaluation_set=frozen(),
        judge=lambda contestant, task: None,  # type: ignore[arg-type,return-value]
        tracking_uri="sqlite:///nowhere.db",
    )


def test_a_model_that_answers_passes_and_is_loaded_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSYS_DATA", "/somewhere")
    note = f"open({str(tmp_path / 'note')!r}, 'w').write(f'{{os.getpid()}} {{os.environ.get(\"RECSYS_DATA\")}}')"
    verdict = LoadTest(requests=30, batch=10).check(case_of(saved(tmp_path, note)))
    assert verdict.passed, verdict.sentence
    assert (verdict.numbers["asked"], verdict.numbers["answered"]) == (30, 30)
    process, data = (tmp_path / "note").read_text().split()
    assert int(process) != os.getpid() and data == "None"


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("os._exit(0)", "ended without answers"),
        ("os.kill(os.getpid(), 9)", "was killed by SIGKILL"),
        ("raise ValueError('no item known')", "ended with 1: "),
    ],
)
def test_a_process_that_dies_is_a_refusal(tmp_path: Path, body: str, said: str) -> None:
    verdict = LoadTest(requests=10).check(case_of(saved(tmp_path, body)))
    assert not verdict.passed and said in verdict.sentence, verdict.sentence


def test_a_model_that_hangs_is_killed_with_what_it_started(tmp_path: Path) -> None:
    pid = tmp_path / "pid"
    body = f"open({str(pid)!r}, 'w').write(str(subprocess.Popen(['sleep', '600']).pid)); time.sleep(600)"
    case, started = case_of(saved(tmp_path, body)), time.monotonic()
    timeout_s = 5.0
    while True:  # a machine that is slow may not have come to the model yet
        verdict = LoadTest(requests=10, timeout_s=timeout_s).check(case)
        assert not verdict.passed and verdict.sentence == f"no answers within {timeout_s:g} s; the process was killed"
        if pid.exists() or timeout_s > 100:
            break
        timeout_s *= 2
    assert time.monotonic() - started < 4 * timeout_s + 10
    deadline = time.monotonic() + 10
    while (state := _state(int(pid.read_text()))) not in ("Z", None) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert state in ("Z", None)


def _state(pid: int) -> str | None:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return None


def test_what_is_not_there_is_a_refusal(tmp_path: Path) -> None:
    assert not LoadTest(requests=1).check(case_of(tmp_path / "nothing")).passed
    assert "no MLflow model" in LoadTest().check(case_of(None)).sentence
    with pytest.raises(GateError, match="no MLflow model"):
        Latency({1: 10}).check(case_of(None))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ([1, 2], "no data frame"),
        ({"request": [0], "item_id": ["a"], "rank": [1]}, "no data frame"),
        ({"request": [2], "item_id": ["a"], "rank": [1], "score": [1.0]}, "names requests 2 to 2 where 2 were asked"),
        ({"request": [-1], "item_id": ["a"], "rank": [1], "score": [1.0]}, "names requests -1"),
        ({"request": [0], "item_id": ["a"], "rank": [1], "score": [np.nan]}, "not finite"),
        ({"request": [0] * 4, "item_id": list("abcd"), "rank": [1, 2, 3, 4], "score": [1.0] * 4}, "4 items where 3"),
    ],
)
def test_answers_that_are_none(monkeypatch: pytest.MonkeyPatch, found: Any, said: str) -> None:
    import mlflow

    given = pd.DataFrame(found) if isinstance(found, dict) else found
    model = SimpleNamespace(predict=lambda frame, params: given)
    monkeypatch.setattr(mlflow.pyfunc, "load_model", lambda uri: model)
    with pytest.raises(ValueError, match=said):
        answer("x", pd.DataFrame({"user_id": ["u", "v", "w"]}), {"k": 3}, [2], 1)


def test_calls_are_counted_and_requests_go_around(monkeypatch: pytest.MonkeyPatch) -> None:
    import mlflow

    seen: list[list[str]] = []

    def predict(frame: pd.DataFrame, params: Any) -> pd.DataFrame:
        seen.append(frame["user_id"].tolist())
        return pd.DataFrame({"request": [0], "item_id": ["a"], "rank": [1], "score": [1.0]})

    monkeypatch.setattr(mlflow.pyfunc, "load_model", lambda uri: SimpleNamespace(predict=predict))
    found = answer("x", pd.DataFrame({"user_id": ["u", "v", "w"]}), {"k": 3}, [1, 2], 2)
    assert seen == [["u"], ["u"], ["v"], ["u", "v"], ["u", "v"], ["w", "u"]]
    assert {size: len(times) for size, times in found["seconds"].items()} == {"1": 2, "2": 2}
    assert (found["asked"], found["answered"]) == (6, 4)


def test_too_few_requests_with_items_are_a_refusal(monkeypatch: pytest.MonkeyPatch) -> None:
    from recsys.tracking.gates import load_test

    monkeypatch.setattr(load_test, "answers", lambda *_: Answers(1.0, {}, 200, 199))
    assert not LoadTest().check(case_of(None)).passed
    assert LoadTest(at_least_answered=0.99).check(case_of(None)).passed


def test_the_slowest_call_of_a_hundred_is_no_reason_to_refuse(monkeypatch: pytest.MonkeyPatch) -> None:
    times = [0.010] * 98 + [0.020, 9.0]
    monkeypatch.setattr(latency, "answers", lambda *_: Answers(1.0, {1: times}, 100, 100))
    verdict = Latency({1: 20.0}).check(case_of(None))
    assert verdict.passed and verdict.numbers == pytest.approx({"batch 1 p50_ms": 10.0, "batch 1 p99_ms": 20.0})
    assert not Latency({1: 19.9}).check(case_of(None)).passed


@pytest.mark.parametrize(
    "make",
    [
        lambda: Latency({}), lambda: Latency({1: 0.0}), lambda: Latency({0: 5.0}), lambda: Latency({1: 5.0}, calls=99),
        lambda: LoadTest(requests=0), lambda: Size(0.0),
    ],
)  # fmt: skip
def test_limits_that_make_no_sense(make: Any) -> None:
    with pytest.raises(GateError):
        make()


def test_size_is_that_of_all_files(tmp_path: Path) -> None:
    model = saved(tmp_path)
    (model / "deep").mkdir()
    (model / "deep" / "weights").write_bytes(b"x" * 3_000_000)
    expected = sum(path.stat().st_size for path in model.rglob("*") if path.is_file())
    case = case_of(model)
    assert sum(sizes(str(model), case.tracking_uri).values()) == expected
    assert Size(expected / 2**20 + 1e-6).check(case).passed
    verdict = Size(expected / 2**20 - 1e-6).check(case)
    assert not verdict.passed and verdict.numbers["mib"] == pytest.approx(expected / 2**20)


def test_the_job_holds_requests_that_are_spread_over_the_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs: list[Any] = []

    def run(command: list[str], case: Any, timeout_s: float) -> None:
        job = json.loads(Path(command[-1]).read_text())
        jobs.append((job, pd.read_parquet(job["requests"])))
        Path(job["answers"]).write_text(json.dumps({"load_s": 1, "seconds": {"5": [1]}, "asked": 5, "answered": 5}))

    monkeypatch.setattr(fresh_process, "_run", run)
    monkeypatch.setattr(fresh_process, "REQUESTS", 4)
    case = replace(case_of(tmp_path), retrieve=30)
    assert fresh_process.answers(case, [5], 1, 7, 9.0).seconds == {5: [1]}
    job, requests = jobs[0]
    assert requests["user_id"].tolist() == ["u0", "u19", "u39", "u59"]
    assert job["params"] == {"k": 7, "retrieve": 30, "filter_seen": True}
    assert not {"relevant", "task"} & set(requests)
