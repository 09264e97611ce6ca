"""Diagnostics in a job: on by default, without a trace in the weights, and continued where it is resumed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.cli.fit_job import FitCLI, run
from recsys.tracking.record import RunError
from recsys.tracking.run_folder import RunFolder

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    random = np.random.default_rng(0)
    user = np.repeat(np.arange(40), 6)
    events = pd.DataFrame({"user_id": user, "item_id": random.permutation(np.arange(len(user)) % 50)})
    events["timestamp"] = 1_500_000_000 + 60 * np.arange(len(events))
    events.to_parquet(folder / "events.parquet")
    (folder / "schema.yaml").write_text("name: toy\n")
    return folder


def fit(shop: Path, folder: str, epochs: int, *more: str) -> RunFolder:
    """A job with dropout and negatives, whose draws anything drawn beside them would change."""
    words = [
        *(f"--data.schema={shop}/schema.yaml", f"--data.events={shop}/events.parquet", f"--data.cache={shop}/cache"),
        *("--data.split=recsys.features.splits.LeaveLastOut", "--data.batch_size=16"),
        *("--model.network=recsys.models.synergen.SynerGen", "--model.network.width=8", "--model.network.dropout=0.5"),
        "--model.objective=recsys.training.objective.RetrievalObjective",
        *("--trainer.accelerator=cpu", "--job.track=false", "--job.baselines=[]", f"--job.folder={shop / folder}"),
    ]
    run(FitCLI([*words, f"--trainer.max_epochs={epochs}", *more]))
    return RunFolder(shop / folder)


@pytest.fixture(scope="module")
def watched(shop: Path) -> RunFolder:
    return fit(shop, "watched", 3)


def final(folder: RunFolder) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(folder.path / "checkpoints/last.ckpt", weights_only=True)
    return found


def test_weights_are_those_of_a_job_without_it(shop: Path, watched: RunFolder) -> None:
    alone = fit(shop, "alone", 3, "--diagnostics.every_n_epochs=null")
    ours, theirs = final(watched), final(alone)
    assert ours["state_dict"].keys() == theirs["state_dict"].keys()
    for name, weights in theirs["state_dict"].items():
        assert torch.equal(ours["state_dict"][name], weights), name
    assert torch.equal(ours["generators"]["torch"], theirs["generators"]["torch"])
    assert alone.history("diagnostics") == [] and not (alone.path / "plots/effective_rank.png").exists()
    assert alone.history("validation") == watched.history("validation")


def test_a_run_keeps_its_history_and_a_picture(watched: RunFolder) -> None:
    epochs = watched.history("diagnostics")
    assert [entry["epoch"] for entry in epochs] == [0, 1, 2]
    assert all(1 <= entry[f"{side}_effective_rank"] <= 8.01 for entry in epochs for side in ("item", "user"))
    assert (watched.path / "plots/effective_rank.png").stat().st_size > 10_000
    with pytest.raises(RunError, match="a run leaves it when its model is judged"):
        RunFolder(watched.path / "model").history("diagnostics")


def test_a_resumed_run_continues_the_history(shop: Path, watched: RunFolder) -> None:
    fit(shop, "resumed", 1)
    resumed = fit(shop, "resumed", 3, "--job.resume=true")
    assert resumed.history("diagnostics") == watched.history("diagnostics")
