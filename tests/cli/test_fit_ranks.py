"""`recsys fit` on two ranks: killed and restarted under torchrun, launched plainly, resumed on one, exported."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
import yaml
from torchrec.distributed.types import ShardedModule

from recsys.cli import outcome
from recsys.cli.checkpoint_contents import contents
from recsys.cli.checkpoint_export import export
from recsys.cli.fit_job import FitCLI, run
from recsys.models.artefact import load_model
from recsys.models.network import SequenceNetwork
from recsys.tracking.bundle import Bundle
from recsys.tracking.run_folder import RunFolder
from recsys.training.consolidation import whole_network
from recsys.training.data import DataSourceError
from recsys.training.sharded_checkpoint import CheckpointError, consolidate

pytestmark = [pytest.mark.distributed, pytest.mark.filterwarnings("ignore")]

ROOT = Path(__file__).parents[2]
USERS, ITEMS, BATCHES = 61, 50, 4  # the last of the batches of an epoch is short, and no number here is even

JOB = {
    "model": {
        "network": {
            "class_path": "recsys.models.synergen.SynerGen",
            "init_args": {"width": 16, "layers": 1, "heads": 2},
        },
        "objective": {
            "class_path": "recsys.training.objective.RetrievalObjective",
            "init_args": {"negatives": {"class_path": "recsys.features.negatives.Uniform", "init_args": {"n": 16}}},
        },
        "table_optimizer": {"class_path": "recsys.training.row_wise_adagrad.RowWiseAdagrad", "init_args": {"lr": 0.1}},
    },
    "data": {
        "schema": "schema.yaml",
        "events": "events.parquet",
        "cache": "cache",
        "batch_size": 16,
        "split": {"class_path": "recsys.features.splits.LeaveLastOut"},
    },
    "trainer": {
        "max_epochs": 2,
        "accelerator": "cpu",
        "strategy": {
            "class_path": "recsys.training.torchrec_strategy.TorchRecStrategy",
            "init_args": {"rules": {"item_id": {"sharding": ["row_wise"]}}},
        },
    },
    "job": {
        "name": "toy",
        "baselines": [{"class_path": "recsys.models.popularity.Popularity"}],
        "checkpoint_every": 3,
        "track": False,
    },
}
KILL = """
import os, signal
from pathlib import Path
import lightning as L

class KillOnce(L.Callback):
    def on_train_batch_end(self, trainer, *_):
        if trainer.global_rank == 1 and trainer.global_step == 5 and not Path("killed").exists():
            Path("killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    random = np.random.default_rng(0)
    user = np.repeat(np.arange(USERS), random.integers(5, 12, USERS))
    events = pd.DataFrame({"user_id": user, "item_id": random.integers(0, ITEMS, len(user))})
    events["timestamp"] = 1_500_000_000 + 60 * np.arange(len(events))
    events.to_parquet(folder / "events.parquet")
    (folder / "schema.yaml").write_text("name: toy\n")
    (folder / "job.yaml").write_text(yaml.safe_dump(JOB))
    (folder / "kill.py").write_text(KILL)
    (folder / "kill.yaml").write_text("trainer: {callbacks: [{class_path: kill.KillOnce}]}\n")
    return folder


FIT = ("-m", "recsys.cli.main", "fit", "--config", "job.yaml")


def start(shop: Path, *words: str, **more: str) -> subprocess.Popen[str]:
    taken = ("RECSYS_", "MLFLOW_", "TORCHELASTIC_", "SLURM_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(taken)}
    environment |= {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}{os.pathsep}{shop}", **more}
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *words], cwd=shop, env=environment, **pipes)


@pytest.fixture(scope="module")
def said(shop: Path) -> dict[str, tuple[str, str]]:
    """What two jobs print that are started at the same moment, on a log that nobody has prepared.

    `killed` loses a rank in mid-epoch and is started again by torchrun; `plain` is launched by Lightning.
    """
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1")
    jobs = {
        "killed": start(
            shop,
            *(*torchrun, *FIT, "--config", "kill.yaml", "--job.folder", "killed_run", "--job.resume", "auto"),
            TORCH_DISABLE_SHARE_RDZV_TCP_STORE="1",
        ),
        "plain": start(shop, *FIT, "--job.folder", "plain_run", "--trainer.devices", "2"),
    }
    printed = {name: job.communicate(timeout=280) for name, job in jobs.items()}
    for name, job in jobs.items():
        assert job.returncode == 0, f"{name}: {printed[name][1][-8000:]}"
    return printed


def lists(run: Path) -> pd.DataFrame:
    return pd.read_parquet(run / "evaluation" / "SynerGen" / "users.parquet")


@pytest.mark.usefixtures("said")
def test_a_job_that_lost_a_rank_ends_like_one_that_did_not(shop: Path) -> None:
    assert (shop / "killed").exists()
    pd.testing.assert_frame_equal(lists(shop / "killed_run"), lists(shop / "plain_run"))
    weights, expected = (consolidate(shop / run / "checkpoints" / "last.ckpt") for run in ("killed_run", "plain_run"))
    assert weights.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(weights[name], value), name


def test_the_first_rank_alone_speaks(said: dict[str, tuple[str, str]]) -> None:
    for name, (output, _) in said.items():
        assert output.count("Popularity") == 1 == output.count("SynerGen"), name
        assert output.count(f"run      {name}_run") == 1
    _, errors = said["plain"]
    assert errors.count("epoch 1/2") == 1 == errors.count("epoch 2/2") == errors.count("UserWarning"), errors


@pytest.mark.usefixtures("said")
def test_the_record_counts_the_work_of_all_ranks(shop: Path) -> None:
    for name in ("killed_run", "plain_run"):
        record = RunFolder(shop / name).record
        assert record.status == "finished"
        assert record.usage["sequences"] == 2 * USERS
    assert [folder.name for folder in (shop / "cache").iterdir()] == [record.data["fingerprint"]]


@pytest.mark.usefixtures("said")
def test_what_is_judged_is_what_is_saved(shop: Path) -> None:
    """The saved model is the best checkpoint, tables whole; what it recommends is in the evaluation."""
    run = RunFolder(shop / "plain_run")
    saved = load_model(run.model).state()
    for name, value in consolidate(run.path / "checkpoints" / "best.ckpt").items():
        assert torch.equal(saved[name.replace("network.", "weights.", 1)], value), name
    assert contents(run.path / "checkpoints" / "best.ckpt").ranks == 2


@pytest.mark.usefixtures("said")
def test_export_makes_the_model_that_fit_saved(
    shop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shop)
    best = Path("plain_run/checkpoints/best.ckpt")
    export(best, tmp_path / "model")
    assert not dist.is_initialized()
    made, saved = ({file.name: file.read_bytes() for file in folder.iterdir()} for folder in (
        tmp_path / "model", shop / "plain_run" / "model"
    ))  # fmt: skip
    assert made == saved
    assert Bundle.load(tmp_path / "model").schema.name == "toy"
    export(best, shop / "plain_run" / "model")
    assert "recsys evaluate" in capsys.readouterr().out
    with pytest.raises(CheckpointError, match=r"the tables take .* GiB, and `--memory_gib` allows 1e-09"):
        export(best, tmp_path / "other", memory_gib=1e-9)
    assert not (tmp_path / "other").exists()
    frame = pd.read_parquet("events.parquet")
    frame[frame["user_id"] != 0].to_parquet("events.parquet")
    with pytest.raises(DataSourceError, match="another log or split"):
        export(best, tmp_path / "other")
    frame.to_parquet("events.parquet")


@pytest.mark.usefixtures("said")
def test_one_rank_goes_on_where_two_have_stopped(
    shop: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(shop)
    shards = []

    def counted(*arguments: Any) -> SequenceNetwork:
        shards.append(sum(issubclass(type(found), ShardedModule) for found in gc.get_objects()))
        return whole_network(*arguments)

    monkeypatch.setattr(outcome, "whole_network", counted)
    with mock.patch.dict(os.environ):
        more = ["--trainer.max_epochs", "3", "--job.folder", "killed_run", "--job.resume", "true"]
        run(FitCLI(args=["--config", "job.yaml", *more]))
    assert not dist.is_initialized()
    last = contents(shop / "killed_run" / "checkpoints" / "last.ckpt")
    assert (last.epoch, last.step, last.ranks) == (2, 3 * BATCHES, 1)
    assert json.loads((shop / "killed_run" / "run.json").read_text())["usage"]["sequences"] == 3 * USERS
    assert shards == [0]  # nothing holds what this rank had when the whole tables come
    assert "epoch 3/3" in capsys.readouterr().err
