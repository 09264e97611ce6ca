"""Killed and resumed equals never killed, weight for weight."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

DRIVER = Path(__file__).with_name("train_and_die.py")
BATCHES = 5  # of an epoch: 75 users in batches of 16


@pytest.fixture(scope="module")
def arguments(tmp_path_factory) -> list[str]:
    folder = tmp_path_factory.mktemp("resume")
    random = np.random.default_rng(0)
    user = np.repeat(np.arange(75), random.integers(4, 12, 75))
    events = pd.DataFrame({"user_id": user, "item_id": random.integers(0, 40, len(user))})
    events["timestamp"] = 1_500_000_000 + random.permutation(len(events)) * 3600
    events.drop_duplicates(["user_id", "item_id"]).to_parquet(folder / "events.parquet")
    (folder / "schema.yaml").write_text("name: toy\n")
    return [
        f"--data.schema={folder / 'schema.yaml'}",
        f"--data.events={folder / 'events.parquet'}",
        f"--data.cache={folder / 'cache'}",
        "--data.split=recsys.features.splits.LeaveLastOut",
        "--data.batch_size=16",
        "--model.network=recsys.models.synergen.SynerGen",
        "--model.network.width=16",
        "--model.network.dropout=0.5",
        "--model.objective=recsys.training.objective.RetrievalObjective",
        "--model.objective.negatives=recsys.features.negatives.Uniform",
        "--model.objective.negatives.n=8",
        "--trainer.max_epochs=4",
        "--trainer.enable_model_summary=false",
        "--validation.every_n_epochs=3",
        "--job.checkpoint_every=3",
    ]


def run(arguments: list[str], die_after: int | None = None) -> int:
    environment = dict(os.environ, OMP_NUM_THREADS="1") | ({} if die_after is None else {"DIE_AFTER": str(die_after)})
    done = subprocess.run([sys.executable, str(DRIVER), *arguments], env=environment, capture_output=True, text=True)
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def final(folder: Path) -> dict[str, torch.Tensor]:
    checkpoint = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)
    assert checkpoint["global_step"] == 4 * BATCHES
    moments = {
        f"{part}.{name}.{key}": value
        for part, state in checkpoint["optimizer_states"][0].items()
        for name, values in state["state"].items()
        for key, value in values.items()
    }
    stopping = next(state for name, state in checkpoint["callbacks"].items() if name.startswith("EarlyStopping"))
    return checkpoint["state_dict"] | moments | {name: stopping[name] for name in ("wait_count", "best_score")}


@pytest.fixture(scope="module")
def undisturbed(arguments, tmp_path_factory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("undisturbed")
    assert run([*arguments, f"--job.folder={folder}"]) == 0
    return final(folder)


@pytest.mark.parametrize("step", [8, 11, 15], ids=["mid-epoch", "first step of an epoch", "end of an epoch"])
def test_killed_and_resumed_equals_undisturbed(arguments, undisturbed, tmp_path, step):
    assert run([*arguments, f"--job.folder={tmp_path}"], die_after=step) == -signal.SIGKILL
    assert run([*arguments, f"--job.folder={tmp_path}", "--job.resume=true"]) == 0
    resumed = final(tmp_path)
    assert resumed.keys() == undisturbed.keys()
    for name, value in undisturbed.items():
        assert torch.equal(torch.as_tensor(value), torch.as_tensor(resumed[name])), name
