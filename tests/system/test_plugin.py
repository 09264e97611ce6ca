"""A package of somebody else brings its own parts; nothing here is touched or told of it."""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from recsys.models.artefact import ArtefactError, load_model

PACKAGE = Path(__file__).with_name("plugin_package")
USERS, BOOKS, EPOCHS = 60, 30, 2

LOAD = """
import json, sys
from pathlib import Path
import torch
from recsys.features.batch import SequenceBatch
from recsys.models.artefact import load_model

model = load_model(Path(sys.argv[1]))
batch = SequenceBatch.build(torch.tensor([0]), torch.tensor([2]), torch.tensor([3, 5]), torch.tensor([0, 60]))
scores = model.scores(batch)
history = model.items(batch.item_id)
expected = model.match(history.mean(0, keepdim=True)) @ model.match(model.items(torch.arange(1, model.n_items + 1))).T
print(json.dumps({
    "class": f"{type(model).__module__}.{type(model).__qualname__}",
    "width": model.hyperparameters["width"],
    "shape": list(scores.shape),
    "error": float((scores[:, 1:] - expected).abs().max()),
    "spread": float(scores[:, 1:].std()),
}))
"""


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder: the installed package in `site`, a log, its schema and the file of the job."""
    folder = tmp_path_factory.mktemp("shop")
    source = shutil.copytree(PACKAGE, folder / "source", ignore=shutil.ignore_patterns("__pycache__"))
    install = ["install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run(
        [sys.executable, "-m", "pip", *install, "--target", str(folder / "site"), str(source)], check=True, timeout=120
    )
    for name in ("schema.yaml", "fit.yaml"):
        shutil.copy(PACKAGE / name, folder)
    random = np.random.default_rng(0)
    books = np.arange(BOOKS)
    pd.DataFrame(
        {
            "item_id": books,
            "author": [f"author {book % 7}" for book in books],
            "subjects": ["poetry|drama" if book % 2 else "history" for book in books],
            "pages": 100.0 + 10 * books,
        }
    ).to_parquet(folder / "items.parquet")
    user = np.repeat(np.arange(USERS), 8)
    events = pd.DataFrame(
        {"user_id": user, "item_id": np.concatenate([random.permutation(BOOKS)[:8] for _ in range(USERS)])}
    )
    events["timestamp"] = 1_600_000_000 + 60 * np.arange(len(events))
    events.to_parquet(folder / "events.parquet")
    return folder


def call(shop: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RECSYS_", "MLFLOW_"))}
    environment |= {"PYTHONPATH": str(shop / "site"), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *words], cwd=shop, env=environment, capture_output=True, text=True, timeout=240
    )


@pytest.fixture(scope="module")
def run(shop: Path) -> Path:
    """The folder of a run that trained with every part of the package."""
    done = call(
        shop,
        *("-m", "recsys.cli.main", "fit", "--config", "fit.yaml"),
        f"--trainer.max_epochs={EPOCHS}",
        "--trainer.accelerator=cpu",
        "--trainer.enable_model_summary=false",
        "--data.batch_size=16",
        "--data.cache=cache",
        "--job.folder=run",
        "--job.baselines=[]",
    )
    assert done.returncode == 0, done.stderr
    return shop / "run"


@pytest.mark.slow
def test_the_parts_of_a_package_train(shop: Path, run: Path) -> None:
    with sqlite3.connect(shop / "mlflow.db") as database:
        logged = pd.read_sql("select key, value from metrics order by step", database).groupby("key")["value"].agg(list)
    for part in ("train/loss", "train/positive", "val/ndcg_at_10"):  # the second is what the loss of the package adds
        assert len(logged[part]) == EPOCHS
        assert np.isfinite(logged[part]).all()
    facts = json.loads((run / "evaluation" / "MeanOfHistory" / "evaluation.json").read_text())["facts"]
    assert facts["rule"] == "first_events"
    assert facts["users"] == USERS


@pytest.mark.slow
def test_the_saved_model_loads_in_a_fresh_process_that_has_the_package(shop: Path, run: Path) -> None:
    done = call(shop, "-c", LOAD, str(run / "model"))
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["class"] == "bookshop.network.MeanOfHistory"
    assert found["width"] == 32
    assert found["shape"] == [1, BOOKS + 1]
    assert found["error"] < 1e-5
    assert found["spread"] > 1e-3


@pytest.mark.slow
def test_where_the_package_is_missing_the_error_says_so(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bookshop.network", None)  # its source may have been collected in this process
    with pytest.raises(
        ArtefactError, match=r"bookshop.network.MeanOfHistory cannot be imported .* install the package"
    ):
        load_model(run / "model")


@pytest.mark.slow
def test_its_command_is_listed_and_runs(shop: Path, run: Path) -> None:
    listed = call(shop, "-m", "recsys.cli.main", "--help")
    assert "bestsellers  Prints the items of a prepared log that have most events" in listed.stdout
    (log,) = (folder for folder in (shop / "cache").iterdir() if folder.is_dir() and not folder.name.startswith("."))
    done = call(shop, "-m", "recsys.cli.main", "bestsellers", str(log), "--k", "3")
    counts = pd.read_parquet(shop / "events.parquet")["item_id"].value_counts()
    printed = [tuple(map(int, line.split())) for line in done.stdout.splitlines()]
    assert len(printed) == 3
    assert all(counts[book] == count for book, count in printed)
    assert [count for _, count in printed] == sorted(counts, reverse=True)[:3]
