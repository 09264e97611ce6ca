"""Real servers for tests: PostgreSQL in a temporary folder, an S3 server, and MLflow as `mlflow_server` starts it."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
import pytest

SERVER = Path(__file__).parents[2] / "mlflow_server"
ADMIN, PASSWORD = "admin", "a password for the administrator"
POSTGRES = next(iter(sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)), None)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


def as_postgres(*words: str | Path) -> None:
    """Runs a program of PostgreSQL, which refuses to run as root."""
    prefix = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
    assert POSTGRES is not None
    done = subprocess.run([*prefix, POSTGRES / words[0], *words[1:]], stdout=subprocess.DEVNULL, cwd="/")
    assert done.returncode == 0, words


def may_run_postgres() -> bool:
    if POSTGRES is None or shutil.which("pg_dump") is None:
        return False
    return os.geteuid() != 0 or "postgres" in {user.pw_name for user in pwd.getpwall()}


@contextmanager
def postgres() -> Iterator[dict[str, str]]:
    """PostgreSQL without durability on a port of its own; gives what the environment says of it."""
    if not may_run_postgres():
        pytest.skip("PostgreSQL is not installed: apt-get install postgresql")
    folder = Path(tempfile.mkdtemp(prefix="recsys-postgres-"))
    if os.geteuid() == 0:
        shutil.chown(folder, "postgres")
    port = free_port()
    options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off -c shared_buffers=32MB"
    try:
        as_postgres("initdb", "-D", folder / "data", "-A", "trust", "-U", "mlflow", "--no-sync", "-E", "UTF8")
        as_postgres("pg_ctl", "-D", folder / "data", "-w", "-l", folder / "log", "-o", options, "start")
        try:
            yield {"PGHOST": "127.0.0.1", "PGPORT": str(port), "PGUSER": "mlflow", "PGDATABASE": "postgres"}
        finally:
            as_postgres("pg_ctl", "-D", folder / "data", "-m", "immediate", "stop")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def s3() -> Iterator[dict[str, str]]:
    """moto's S3 server, in this process; gives what the environment says of it."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        yield {
            "MLFLOW_S3_ENDPOINT_URL": "http://{}:{}".format(*server.get_host_and_port()),
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
            "AWS_EC2_METADATA_DISABLED": "true",
        }
    finally:
        server.stop()


@dataclass
class TeamServer:
    """`mlflow_server/serve` over a database and a bucket of its own.

    Attributes:
        name: of the database and of the bucket; both are made, empty.
        services: what the environment says of PostgreSQL and S3.
        folder: for the log and the configuration.
    """

    name: str
    services: dict[str, str]
    folder: Path
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None

    def __post_init__(self) -> None:
        import boto3

        with psycopg.connect(self.database("postgres"), autocommit=True) as connection:
            connection.execute(f'CREATE DATABASE "{self.name}"')
        boto3.client("s3", endpoint_url=self.services["MLFLOW_S3_ENDPOINT_URL"]).create_bucket(Bucket=self.name)
        text = (SERVER / "basic_auth.ini").read_text()
        assert "database_uri = postgresql+psycopg:///mlflow\n" in text
        text = text.replace(":///mlflow\n", f":///{self.name}\n")
        self.folder.mkdir(exist_ok=True)
        (self.folder / "auth.ini").write_text(text)

    def database(self, name: str | None = None) -> str:
        return "postgresql://{PGUSER}@{PGHOST}:{PGPORT}/".format(**self.services) + (name or self.name)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def environment(self) -> dict[str, str]:
        """What `server.env` would say."""
        return self.services | {
            "MLFLOW_BACKEND_STORE_URI": f"postgresql+psycopg:///{self.name}",
            "MLFLOW_ARTIFACTS_DESTINATION": f"s3://{self.name}",
            "MLFLOW_AUTH_CONFIG_PATH": str(self.folder / "auth.ini"),
            "MLFLOW_AUTH_ADMIN_USERNAME": ADMIN,
            "MLFLOW_AUTH_ADMIN_PASSWORD": PASSWORD,
            "MLFLOW_FLASK_SERVER_SECRET_KEY": "0" * 32,
            "MLFLOW_SERVER_ALLOWED_HOSTS": "127.0.0.1:*",
            "MLFLOW_PORT": str(self.port),
            "MLFLOW_WORKERS": "1",
        }

    def start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_")}
        environment |= self.environment | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [SERVER / "serve"], env=environment, stdout=log, stderr=log, start_new_session=True, cwd=self.folder
            )
        wait_for(self.url, self.process, self.folder / "server.log")

    def kill(self) -> None:
        """SIGKILL to all of its processes: none of them may clean up."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None


def wait_for(url: str, process: subprocess.Popen[bytes], log: Path, seconds: float = 120) -> None:
    """Waits until a server is healthy."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        assert process.poll() is None, log.read_text()
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5):
                return
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"{url} is not healthy after {seconds} s: {log.read_text()}")


def wait_until(true: object, what: str, seconds: float = 120) -> None:
    """Waits until a function gives something true."""
    end = time.monotonic() + seconds
    while not true():  # type: ignore[operator]
        assert time.monotonic() < end, f"{what}: not after {seconds} s"
        time.sleep(0.05)
