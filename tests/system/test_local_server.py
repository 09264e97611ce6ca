"""`recsys server` for real: it shows what runs have written without a server, and takes what runs write through it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from mlflow.tracking import MlflowClient

from recsys.cli.doctor import answer_to_account, tracking_problem
from recsys.tracking.mlflow_store import experiment_id, open_client
from tests.system.servers import free_port, wait_for


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_it_shows_what_was_written_without_it(tmp_path: Path) -> None:
    uri, port = f"sqlite:///{tmp_path / 'mlflow.db'}", free_port()
    before = open_client(uri)
    old = before.create_run(experiment_id(before, uri, "old")).info.run_id
    before.log_metric(old, "loss", 0.5)
    before.log_text(old, "hello", "words.txt")

    words = [sys.executable, "-m", "recsys.cli.main", "server", "--folder", str(tmp_path), "--port", str(port)]
    log = tmp_path / "server.log"
    with log.open("wb") as file:
        server = subprocess.Popen(words, stdout=file, stderr=file, start_new_session=True, cwd="/")
    try:
        url = f"http://127.0.0.1:{port}"
        wait_for(url, server, log)
        assert f"{url} shows the runs in {tmp_path / 'mlflow.db'}" in log.read_text()
        assert tracking_problem(url) is None and answer_to_account(url)[0] == 200
        client = MlflowClient(url)
        assert client.get_run(old).data.metrics == {"loss": 0.5}
        with urllib.request.urlopen(f"{url}/get-artifact?run_uuid={old}&path=words.txt") as answer:
            assert answer.read() == b"hello"
        new = client.create_run(client.create_experiment("new")).info.run_id
        client.log_text(new, "again", "words.txt")
        assert [path.read_text() for path in (tmp_path / "mlartifacts").rglob(f"*/{new}/artifacts/words.txt")] == [
            "again"
        ]

        second = subprocess.run(words, capture_output=True, text=True, timeout=60, cwd="/")
        assert second.returncode == 1 and f"cannot listen at 127.0.0.1:{port}" in second.stderr
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait()
