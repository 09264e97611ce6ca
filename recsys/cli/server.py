"""Starts the MLflow server of one machine, on the runs that `recsys` writes when no server is named.

It serves `mlflow.db` and `mlartifacts` of a folder at http://127.0.0.1:5000, to this machine alone. Other machines
reach it where `--host` names another address; then `--auth true` asks everybody for an account. A server for many
people (PostgreSQL, S3, TLS, backups) is set up as `mlflow_server/README.md` says.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from pathlib import Path

from jsonargparse import ArgumentParser

from recsys.tracking.mlflow_store import ARTIFACTS, DATABASE

ACCOUNTS = "accounts.db"
CONFIG_VARIABLE, PASSWORD_VARIABLE = "MLFLOW_AUTH_CONFIG_PATH", "MLFLOW_AUTH_ADMIN_PASSWORD"
SECRET_VARIABLE = "MLFLOW_FLASK_SERVER_SECRET_KEY"
# The environment wins: nothing is sent anywhere, and no workers start for what models of language are judged by.
_DEFAULTS = {"MLFLOW_DISABLE_TELEMETRY": "true", "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
# Who has an account reads everything; who made something manages it. The administrator gives the rest.
_CONFIG = """\
[mlflow]
default_permission = READ
database_uri = sqlite:///{accounts}
admin_username = admin
authorization_function = mlflow.server.auth:authenticate_request_basic_auth
"""


class ServerError(ValueError):
    """The server cannot start; the message says why and what to change."""


def parser() -> ArgumentParser:
    """The arguments of the command."""
    arguments = ArgumentParser("recsys server", description=__doc__, default_env=True, env_prefix="RECSYS_SERVER")
    arguments.add_argument("--config", action="config", help="YAML file with these arguments")
    arguments.add_argument("--folder", type=str, default=".", help=f"where {DATABASE} and {ARTIFACTS} are, or go")
    arguments.add_argument("--host", type=str, default="127.0.0.1", help="address of this machine that it answers at")
    arguments.add_argument("--port", type=int, default=5000, help="port that it answers at")
    arguments.add_argument("--auth", type=bool, default=False, help="whether everybody needs an account")
    arguments.add_argument("--allowed_hosts", type=list[str], default=[], help="names that browsers may call it by")
    return arguments


def main(argv: list[str] | None = None) -> int:
    """Runs the command: this process becomes the server.

    Args:
        argv: its arguments; None reads the command line.

    Raises:
        ServerError: it cannot start; the message says what to change.
    """
    given = parser().parse_args(argv).as_dict()
    folder = Path(given["folder"]).absolute()
    if not folder.is_dir():
        raise ServerError(f"{folder}: there is no such folder; `--folder` names the one with the runs")
    check_free(given["host"], given["port"])
    environment = _DEFAULTS | os.environ
    if given["auth"]:
        environment |= accounts(folder)
    elif warning := exposure(given["host"]):
        print(f"recsys server: {warning}", file=sys.stderr)
    print(f"http://{given['host']}:{given['port']} shows the runs in {folder / DATABASE}", flush=True)
    words = command(folder, given["host"], given["port"], given["auth"], given["allowed_hosts"])
    os.execve(sys.executable, words, environment)


def command(folder: Path, host: str, port: int, auth: bool, allowed_hosts: list[str]) -> list[str]:
    """The words that start MLflow's server.

    Args:
        folder: of the store.
        host: address to answer at.
        port: to answer at.
        auth: whether it asks for accounts.
        allowed_hosts: names that it may be called by; MLflow allows this machine and private addresses by itself.
    """
    words = [sys.executable, "-m", "mlflow", "server", "--host", host, "--port", str(port), "--workers", "1"]
    words += ["--backend-store-uri", f"sqlite:///{folder / DATABASE}"]
    words += ["--artifacts-destination", str(folder / ARTIFACTS)]
    words += ["--app-name", "basic-auth"] if auth else []
    return words + (["--allowed-hosts", ",".join(allowed_hosts)] if allowed_hosts else [])


def shown_by(uri: str) -> str:
    """Where the runs of a store are seen: its own address, or the command that shows them.

    Args:
        uri: of the store.

    Example:
        >>> shown_by("sqlite:////home/me/mlflow.db")
        'recsys server --folder /home/me'
        >>> shown_by("https://mlflow.example.com")
        'https://mlflow.example.com'
    """
    if uri.startswith("http"):
        return uri
    path = Path(uri.removeprefix("sqlite:///"))
    if uri.startswith("sqlite:///") and path.name == DATABASE:
        return f"recsys server --folder {path.parent}"
    return f"mlflow ui --backend-store-uri {uri}"


def accounts(folder: Path) -> dict[str, str]:
    """The environment of a server with accounts, which are kept in `accounts.db` beside the runs.

    Args:
        folder: of the store.

    Raises:
        ServerError: a package or the first password is missing.
    """
    from importlib.util import find_spec

    if find_spec("flask_wtf") is None:
        raise ServerError("accounts need a package that is missing: pip install 'recsys[server]'")
    if not (folder / ACCOUNTS).exists() and not os.environ.get(PASSWORD_VARIABLE):
        raise ServerError(f"the account `admin` needs a password at the first start: export {PASSWORD_VARIABLE}=...")
    config = folder / ".accounts.ini"
    config.write_text(_CONFIG.format(accounts=folder / ACCOUNTS), encoding="utf-8")
    # The key signs forms of the pages; a new one at each start only asks people to open a form again.
    return {CONFIG_VARIABLE: str(config), SECRET_VARIABLE: os.environ.get(SECRET_VARIABLE) or os.urandom(32).hex()}


def exposure(host: str) -> str | None:
    """What to say of a server without accounts at an address that other machines reach; None at one they do not.

    Example:
        >>> exposure("127.0.0.1"), exposure("localhost")
        (None, None)
    """
    try:
        local = ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = host == "localhost"
    if local:
        return None
    return (
        f"WARNING: everybody who reaches {host} can read, change and delete all runs and models, for nobody is asked "
        "who they are; `--auth true` asks, and `mlflow_server/README.md` sets up a server for many people"
    )


def check_free(host: str, port: int) -> None:
    """Sees that the port can be listened at.

    Raises:
        ServerError: it is taken, or the address is not of this machine.
    """
    try:
        family, kind, *_, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
        with socket.socket(family, kind) as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
    except (OSError, OverflowError) as error:
        raise ServerError(
            f"cannot listen at {host}:{port} ({error}); `--port` takes another port, and `--host` an address of this "
            "machine"
        ) from error
