"""`mlflow models serve` answers over HTTP as the model does in a process."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest

from recsys.tracking.bundle_server import ServingParams
from recsys.tracking.logged_model import save_model
from tests.tracking.served import Served, frame_of, served, synergen

pytestmark = pytest.mark.filterwarnings("ignore:Operation with range:DeprecationWarning")  # MLflow's

SECONDS = 120  # to start, on a busy machine


class Endpoint(NamedTuple):
    url: str
    made: Served


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Endpoint]:
    """A server of its own, in a folder without anything else, that must not unpickle."""
    folder = tmp_path_factory.mktemp("served")
    made = served(synergen)
    made.bundle.save(folder / "model")
    save_model(folder / "model", folder / "logged")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RECSYS", "PYTHON"))}
    environment |= {"MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
    command = ["-m", "mlflow", "models", "serve", "-m", str(folder / "logged"), "--env-manager", "local"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(
            [sys.executable, *command, "--host", "127.0.0.1", "--port", str(port), "--workers", "1"],
            cwd=folder, env=environment, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
    try:
        url = f"http://127.0.0.1:{port}"
        _wait(url, process, folder / "log")
        yield Endpoint(url, made)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(30)


def _wait(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{url}/ping", timeout=5)
            return
        except OSError:
            time.sleep(0.2)
    raise AssertionError(f"the server did not start:\n{log.read_text()}")


def post(url: str, content: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    request = urllib.request.Request(
        f"{url}/invocations", json.dumps(content).encode(), {"Content-Type": "application/json"}
    )
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def split_of(frame: pd.DataFrame) -> dict[str, Any]:
    return json.loads(frame.to_json(orient="split", index=False))


def test_requests_of_all_kinds(endpoint: Endpoint) -> None:
    frame = frame_of(endpoint.made, range(1, 9))
    frame["query"] = ["red soap" if row % 2 else None for row in range(8)]
    frame["candidates"] = [["101", "109", "117"] if row % 3 == 2 else None for row in range(8)]
    frame.loc[3, "user_id"] = None
    params = {"k": 4, "retrieve": 12, "deny": ["105", "106"], "filter_seen": False}
    status, content = post(endpoint.url, {"dataframe_split": split_of(frame), "params": params})
    assert status == 200, content
    answers = pd.DataFrame(content["predictions"])
    expected = endpoint.made.server.answer(frame, ServingParams(**params))
    columns = ["request", "user_id", "item_id", "rank"]
    assert answers[columns].astype(object).where(answers["user_id"].notna(), None).to_numpy().tolist() == (
        expected[columns].astype(object).where(expected["user_id"].notna(), None).to_numpy().tolist()
    )
    assert answers["score"].tolist() == pytest.approx(expected["score"].tolist(), rel=1e-5)
    assert answers["user_id"].isna().sum() == 4 and answers["model_version"].nunique() == 1


def test_the_shortest_request(endpoint: Endpoint) -> None:
    status, content = post(endpoint.url, {"dataframe_records": [{"history": ["101", "102"]}]})
    assert status == 200
    assert [row["rank"] for row in content["predictions"]] == list(range(1, 11))
    assert {row["user_id"] for row in content["predictions"]} == {None}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"dataframe_records": [{"user_id": "501"}]}, "row 0: SynerGen cannot tell user `501` by id; give `history`"),
        ({"dataframe_records": [{"history": ["101"]}], "params": {"k": 0}}, "k must be at least 1"),
        ({"dataframe_records": [{"history": ["101"]}], "params": {"k": "x"}}, "Invalid parameters"),
        ({"dataframe_records": [{"history": "101"}]}, "Expected data to be list or numpy array, got str"),
    ],
)
def test_what_cannot_be_answered_is_a_bad_request_with_the_reason(
    endpoint: Endpoint, content: dict[str, Any], message: str
) -> None:
    status, answer = post(endpoint.url, content)
    assert status == 400 and message in answer["message"]
