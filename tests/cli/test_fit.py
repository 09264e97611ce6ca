"""What `recsys fit` checks before it trains, and a job that is not judged."""

from __future__ import annotations

import argparse
from pathlib import Path

import mlflow
import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from mlflow.tracking import MlflowClient

from recsys.cli import checkpoint, evaluate
from recsys.cli.fit_job import FitCLI, check, check_memory, run
from recsys.models.artefact import load_model
from recsys.tracking.bundle import Bundle
from recsys.tracking.record import RunRecord
from recsys.training.job import JobError

pytestmark = pytest.mark.filterwarnings("ignore")

ITEMS, WIDTH = 50, 8
STRATEGY = "--trainer.strategy=recsys.training.torchrec_strategy.TorchRecStrategy"


@pytest.fixture
def arguments(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Of a small job, in a working folder of its own."""
    random = np.random.default_rng(0)
    user = np.repeat(np.arange(40), 6)
    events = pd.DataFrame({"user_id": user, "item_id": random.permutation(np.arange(len(user)) % ITEMS)})
    events["timestamp"] = 1_500_000_000 + 60 * np.arange(len(events))
    events.to_parquet(tmp_path / "events.parquet")
    (tmp_path / "schema.yaml").write_text("name: toy\n")
    monkeypatch.chdir(tmp_path)
    return [
        *("--data.schema=schema.yaml", "--data.events=events.parquet", "--data.cache=cache"),
        "--data.split=recsys.features.splits.LeaveLastOut",
        *("--model.network=recsys.models.synergen.SynerGen", f"--model.network.width={WIDTH}"),
        "--model.objective=recsys.training.objective.RetrievalObjective",
        "--model.table_optimizer=recsys.training.row_wise_adagrad.RowWiseAdagrad",
        *("--trainer.max_epochs=1", "--trainer.accelerator=cpu", "--job.track=false", "--job.folder=run"),
    ]


def checked(*arguments: str) -> None:
    cli = FitCLI(list(arguments))
    check(cli, cli.config_init.job)


def test_whole_tables_must_fit_where_the_model_is_saved(arguments: list[str]) -> None:
    gib = (ITEMS + 1) * WIDTH * 4 / 2**30
    checked(*arguments, STRATEGY)
    checked(*arguments, STRATEGY, f"--job.memory_gib={gib}")
    too_little = f"--job.memory_gib={gib * 0.99}"
    with pytest.raises(JobError, match=r"may give them \(`job.memory_gib`\) .*--job.judge false"):
        checked(*arguments, STRATEGY, too_little)
    checked(*arguments, STRATEGY, too_little, "--job.judge=false")
    checked(*arguments, too_little)  # without sharding they are in one process anyway
    assert not Path("run").exists()


def test_without_a_stated_limit_it_is_what_the_machine_has_free() -> None:
    free = psutil.virtual_memory().available / 2**30
    check_memory(free * 0.5, None)
    with pytest.raises(JobError, match="the first rank has free"):
        check_memory(free * 2, None)


def test_a_checkpoint_is_continued_in_the_way_it_was_saved(arguments: list[str]) -> None:
    last = Path("run/checkpoints/last.ckpt")
    last.mkdir(parents=True)
    checked(*arguments, STRATEGY, "--job.resume=true")
    with pytest.raises(JobError, match=r"last.ckpt: has sharded tables; continue it with `--trainer.strategy"):
        checked(*arguments, "--job.resume=auto")
    last.rmdir()
    last.touch()
    checked(*arguments, "--job.resume=auto")
    with pytest.raises(JobError, match=r"was saved without sharded tables; leave `trainer.strategy` out"):
        checked(*arguments, STRATEGY, "--job.resume=true")


def test_baselines_without_validation_matter_to_a_job_that_is_judged(arguments: list[str]) -> None:
    no_validation = "--data.split.refit=true"
    with pytest.raises(JobError, match="no validation users to choose the settings of baselines by"):
        checked(*arguments, no_validation)
    checked(*arguments, no_validation, "--job.judge=false")


def test_a_job_that_is_not_judged_leaves_what_export_and_evaluate_need(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    run(FitCLI([*arguments, "--job.judge=false"]))
    assert {path.name for path in Path("run").iterdir()} == {"run.json", "config.yaml", "checkpoints"}
    assert "`recsys checkpoint export` makes it" in capsys.readouterr().out
    assert checkpoint.main(["export", "run/checkpoints/best.ckpt", "--folder", "run/model"]) == 0
    weights = torch.load("run/checkpoints/best.ckpt", weights_only=True)["state_dict"]
    saved = load_model("run/model").state()
    assert weights and all(torch.equal(saved[name.replace("network", "weights", 1)], w) for name, w in weights.items())
    assert evaluate.main(["run", "--recompute"]) == 0
    assert "SynerGen" in capsys.readouterr().out


def test_the_model_of_a_tracked_job_is_logged_and_can_be_served(
    arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    tracked = [*arguments, "--job.track=true", "--job.baselines=[]", "--job.rerank=null"]
    run(FitCLI(tracked))
    client, record = MlflowClient(uri), RunRecord.read("run")
    (output,) = client.get_run(record.mlflow["run"]).outputs.model_outputs
    logged = client.get_logged_model(output.model_id)
    assert logged.status == "READY" and logged.name == "model"
    assert f"mlflow models serve --env-manager local -m models:/{logged.model_id}\n" in capsys.readouterr().out
    answers = mlflow.pyfunc.load_model(f"models:/{logged.model_id}").predict(pd.DataFrame({"history": [["3", "7"]]}))
    bundle = Bundle.load("run/model")
    found = bundle.recommend([bundle.history(bundle.items.encode([3, 7]))], 10).items[0]
    assert answers["item_id"].tolist() == [str(item) for item in bundle.items.decode(found.tolist())]

    run(FitCLI([*tracked, "--job.folder=other", "--job.log_model=false"]))
    assert not client.get_run(RunRecord.read("other").mlflow["run"]).outputs.model_outputs
    assert "mlflow models serve" not in capsys.readouterr().out


def test_resume_says_yes_no_or_auto(arguments: list[str]) -> None:
    for word, expected in (("true", True), ("false", False), ("auto", "auto")):
        Path("run/checkpoints/last.ckpt").unlink(missing_ok=True)
        if word == "true":
            Path("run/checkpoints").mkdir(parents=True)
            Path("run/checkpoints/last.ckpt").touch()
        elif word == "false":
            Path("run/checkpoints").rmdir()
        assert FitCLI([*arguments, f"--job.resume={word}"]).config_init.job.resume == expected
    with pytest.raises((SystemExit, argparse.ArgumentError)):
        FitCLI([*arguments, "--job.resume=maybe"])


def test_a_class_that_refuses_its_arguments_is_a_job_that_cannot_start(arguments: list[str]) -> None:
    with pytest.raises(JobError, match="every_n_epochs and k must be positive"):
        FitCLI([*arguments, "--diagnostics.every_n_epochs=0"])
