"""Every number of ranks is started once, and many tests look at what its cases have left."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.distributed.jobs import write_log
from tests.distributed.launch import launch

TIMEOUT_S = 280.0


class Ranks:
    """What the cases of some ranks have found, by name."""

    def __init__(self, folder: Path, world: int, output: str):
        self.folder, self.world, self.output = folder, world, output

    def __getitem__(self, case: str) -> Any:
        return torch.load(self.folder / f"{case}.{self.world}.pt", weights_only=True)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of a test run share, with the log."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "distributed"
    folder.mkdir(exist_ok=True)
    with (folder / "log.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "events.parquet").exists():
            write_log(folder)
    return folder


def started_once(shared: Path, name: str, expected: int, *arguments: Any, **more: Any) -> str:
    """The output of a job that the first test process to need it starts; the others wait for its end."""
    with (shared / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        said = shared / f"{name}.txt"
        if not said.exists():
            code, output = launch(*arguments, timeout=TIMEOUT_S, **more)
            said.write_text(f"{code}\n{output}")
    code_line, _, output = said.read_text().partition("\n")
    assert int(code_line) == expected, f"exit code {code_line}\n{output[-8000:]}"
    return output


def ranks(shared: Path, world: int, expected: int = 0) -> Ranks:
    output = started_once(shared, f"world{world}", expected, "worker.py", shared, world)
    return Ranks(shared, world, output)


@pytest.fixture(scope="session")
def two(shared: Path) -> Ranks:
    return ranks(shared, 2)


@pytest.fixture(scope="session")
def one(shared: Path, two: Ranks) -> Ranks:
    return ranks(shared, 1)


@pytest.fixture(scope="session")
def three(shared: Path, two: Ranks) -> Ranks:
    return ranks(shared, 3, expected=1)  # its last case fails, as it should


@pytest.fixture(scope="session")
def restarted(shared: Path, two: Ranks) -> Any:
    """What a job leaves of which a rank was killed, and which torchrun started again."""
    started_once(
        shared, "restart", 0, "restart.py", shared, 2, torchrun=("--max-restarts", "1"),
        TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1",
    )  # fmt: skip
    return torch.load(shared / "restarted.pt", weights_only=True)


@pytest.fixture
def ranks_of(request: pytest.FixtureRequest) -> Any:
    """The ranks of a number, by its name."""
    return request.getfixturevalue
