"""What `recsys server` starts, whom it warns, and what it refuses. `tests/system` starts it for real."""

from __future__ import annotations

import configparser
import socket
import sys
from pathlib import Path

import pytest

from recsys.cli import server
from recsys.cli.server import ServerError, check_free, exposure, main


class Started(Exception):
    """Instead of becoming the server."""


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> dict[str, object]:
    """What the command would have started; the port is taken to be free."""
    seen: dict[str, object] = {}

    def execve(path: str, words: list[str], environment: dict[str, str]) -> None:
        seen.update(path=path, words=words, environment=environment)
        raise Started

    monkeypatch.setattr("os.execve", execve)
    monkeypatch.setattr(server, "check_free", lambda host, port: None)
    return seen


def start(*words: str) -> None:
    with pytest.raises(Started):
        main(list(words))


def test_by_default_it_serves_this_machine_and_this_folder(started, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    start()
    words = started["words"]
    assert started["path"] == words[0] == sys.executable
    assert words[1:4] == ["-m", "mlflow", "server"]
    assert words[words.index("--host") + 1] == "127.0.0.1" and words[words.index("--port") + 1] == "5000"
    assert words[words.index("--backend-store-uri") + 1] == f"sqlite:///{tmp_path}/mlflow.db"
    assert words[words.index("--artifacts-destination") + 1] == f"{tmp_path}/mlartifacts"
    assert "--app-name" not in words
    printed = capsys.readouterr()
    assert "http://127.0.0.1:5000" in printed.out and not printed.err


def test_another_address_is_warned_of_unless_there_are_accounts(started, tmp_path, monkeypatch, capsys):
    start("--folder", str(tmp_path), "--host", "0.0.0.0", "--allowed_hosts", "[box, box:5000]")
    assert "everybody who reaches 0.0.0.0" in capsys.readouterr().err
    words = started["words"]
    assert words[words.index("--allowed-hosts") + 1] == "box,box:5000"

    monkeypatch.setenv("MLFLOW_AUTH_ADMIN_PASSWORD", "correct horse battery")
    start("--folder", str(tmp_path), "--host", "0.0.0.0", "--auth", "true")
    assert not capsys.readouterr().err
    words, environment = started["words"], started["environment"]
    assert words[words.index("--app-name") + 1] == "basic-auth"
    config = configparser.ConfigParser()
    config.read(environment["MLFLOW_AUTH_CONFIG_PATH"])
    assert config["mlflow"]["database_uri"] == f"sqlite:///{tmp_path}/accounts.db"
    assert "correct horse" not in Path(environment["MLFLOW_AUTH_CONFIG_PATH"]).read_text()
    assert len(environment["MLFLOW_FLASK_SERVER_SECRET_KEY"]) == 64


@pytest.mark.parametrize(
    ("host", "reached"),
    [("127.0.0.1", False), ("127.1.2.3", False), ("::1", False), ("localhost", False), ("0.0.0.0", True), ("::", True),
     ("192.168.1.7", True), ("box.example.com", True)],
)  # fmt: skip
def test_who_is_reached_by_others(host: str, reached: bool) -> None:
    assert (exposure(host) is not None) is reached


def test_what_it_refuses(started, tmp_path, monkeypatch):
    with pytest.raises(ServerError, match="there is no such folder"):
        main(["--folder", str(tmp_path / "nowhere")])
    monkeypatch.delenv("MLFLOW_AUTH_ADMIN_PASSWORD", raising=False)
    with pytest.raises(ServerError, match="needs a password at the first start: export MLFLOW_AUTH_ADMIN_PASSWORD"):
        main(["--folder", str(tmp_path), "--auth", "true"])
    (tmp_path / "accounts.db").touch()
    start("--folder", str(tmp_path), "--auth", "true")  # the password is in there


def test_a_port_that_is_taken_is_said_so():
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(ServerError, match=r"cannot listen at 127\.0\.0\.1:\d+ .*`--port` takes another"):
            check_free("127.0.0.1", other.getsockname()[1])
    with pytest.raises(ServerError, match="an address of this machine"):
        check_free("203.0.113.7", 5000)
    check_free("127.0.0.1", 0)
