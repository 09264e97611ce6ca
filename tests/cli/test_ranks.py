"""What `recsys fit` asks of its processes before they train, and what they leave when they end."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import pytest

from recsys.cli import ranks
from recsys.cli.ranks import as_rank, check_launch, devices, together
from recsys.training.job import Job, JobError
from recsys.training.strategy_checks import StrategyError
from recsys.training.torchrec_strategy import TorchRecStrategy


@pytest.fixture
def torchrun(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The environment of the first of four processes on two machines."""
    variables = {"RANK": 0, "LOCAL_RANK": 0, "GROUP_RANK": 0, "WORLD_SIZE": 4, "LOCAL_WORLD_SIZE": 2}
    variables |= {"TORCHELASTIC_RUN_ID": "x", "TORCHELASTIC_MAX_RESTARTS": 0, "TORCHELASTIC_USE_AGENT_STORE": "True"}
    for name, value in variables.items():
        monkeypatch.setenv(name, str(value))
    return monkeypatch


def trainer(**arguments: Any) -> L.Trainer:
    return L.Trainer(accelerator="cpu", strategy=TorchRecStrategy(), logger=False, **arguments)


def test_devices_are_those_of_torchrun(torchrun: pytest.MonkeyPatch) -> None:
    assert devices() == {"devices": 2, "num_nodes": 2}
    torchrun.delenv("TORCHELASTIC_RUN_ID")
    assert devices() == {"devices": 1}


def test_the_number_of_processes_must_be_that_of_the_job(torchrun: pytest.MonkeyPatch) -> None:
    check_launch(trainer(devices=2, num_nodes=2), Job(folder="x"))
    with pytest.raises(JobError, match=r"started 4 processes, and .* is 2: leave both out"):
        check_launch(trainer(devices=2), Job(folder="x"))


@pytest.mark.usefixtures("torchrun")
def test_processes_that_are_started_apart_need_a_folder() -> None:
    with pytest.raises(JobError, match=r"name the run's with `--job.folder`"):
        check_launch(trainer(devices=2, num_nodes=2), Job())


def test_processes_that_lightning_starts_need_none() -> None:
    check_launch(trainer(devices=2), Job())
    with pytest.raises(JobError, match=r"--job.folder"):  # on other machines it is started by hand
        check_launch(trainer(devices=2, num_nodes=2), Job())


def test_one_refusal_is_enough(torchrun: pytest.MonkeyPatch) -> None:
    torchrun.setenv("RANK", "1")
    torchrun.setenv("LOCAL_RANK", "1")
    check_launch(trainer(devices=2, num_nodes=2), Job())


def test_a_restart_that_could_not_work_is_refused_at_the_start(torchrun: pytest.MonkeyPatch) -> None:
    torchrun.setenv("TORCHELASTIC_MAX_RESTARTS", "3")
    with pytest.raises(StrategyError, match="TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1"):
        check_launch(trainer(devices=2, num_nodes=2), Job(folder="x"))
    torchrun.setenv("TORCHELASTIC_USE_AGENT_STORE", "False")
    check_launch(trainer(devices=2, num_nodes=2), Job(folder="x"))


def fail(error: BaseException) -> None:
    raise error


def test_torchrun_gets_to_know_the_error(torchrun: pytest.MonkeyPatch, tmp_path: Path) -> None:
    torchrun.setenv("TORCHELASTIC_ERROR_FILE", str(tmp_path / "error.json"))
    with pytest.raises(ValueError, match="the first error"):
        as_rank(lambda: fail(ValueError("the first error")))
    assert "the first error" in json.loads((tmp_path / "error.json").read_text())["message"]["message"]


def test_the_first_rank_speaks_of_an_interruption(monkeypatch: pytest.MonkeyPatch) -> None:
    assert as_rank(lambda: None) == 0
    with pytest.raises(KeyboardInterrupt):
        as_rank(lambda: fail(KeyboardInterrupt()))
    monkeypatch.setattr(ranks, "is_first", lambda: False)
    assert as_rank(lambda: fail(KeyboardInterrupt())) == 130


def test_launched_processes_end_with_the_one_that_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """At its very end, when its error is printed; they end by themselves where nothing fails."""
    at_end: list[tuple[Any, ...]] = []
    monkeypatch.setattr(ranks.atexit, "register", lambda *call: at_end.append(call))
    killed: list[int] = []
    launched: Any = SimpleNamespace(strategy=SimpleNamespace(launcher=SimpleNamespace(kill=killed.append)))
    with together(launched):
        pass
    assert not at_end
    with pytest.raises(ValueError, match="first"), together(launched):
        raise ValueError("first")
    assert not killed
    ((kill, signal),) = at_end
    kill(signal)
    assert killed == [9]
