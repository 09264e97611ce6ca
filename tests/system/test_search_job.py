"""A job that learns to recommend, search and rank: what it leaves and answers, and that a kill changes nothing."""

from __future__ import annotations

import json
import os
import signal
import sqlite3
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from recsys.evaluation.evaluation_set import EvaluationSet
from recsys.evaluation.result import Evaluation, compare_evaluations
from recsys.tracking.bundle import Bundle
from recsys.tracking.bundle_server import BundleServer, ServingParams
from recsys.tracking.pyfunc_evaluation import evaluate_pyfunc
from recsys.tracking.run_folder import RunFolder

DRIVER = Path(__file__).with_name("train_and_die.py")
WORDS = np.array(["red", "blue", "soap", "cream", "brush", "oil", "balm", "wax"])
USERS, ITEMS = 150, 120

JOB = {
    "model": {
        "network": {
            "class_path": "recsys.models.synergen.SynerGen",
            "init_args": {"width": 16, "layers": 1, "ranking": True, "action_values": {"buy": 5.0}},
        },
        "objective": {
            "class_path": "recsys.training.joint_objective.JointObjective",
            "init_args": {
                "loss": {"class_path": "recsys.losses.info_nce.InfoNCE", "init_args": {"temperature": 0.1}},
                "negatives": {"class_path": "recsys.features.negatives.Uniform", "init_args": {"n": 40}},
                "ranking_loss": {"class_path": "recsys.losses.hybrid.Hybrid"},
                "ranking_negatives": {
                    "class_path": "recsys.training.slot_negatives.SlotNegatives",
                    "init_args": {"n": 4, "hard": 0.5},
                },
            },
        },
    },
    "data": {
        "schema": "schema.yaml",
        "events": "events.parquet",
        "items": "items.parquet",
        "cache": "cache",
        "batch_size": 32,
        "split": {"class_path": "recsys.features.splits.LeaveLastOut"},
    },
    "trainer": {"max_epochs": 3, "accelerator": "cpu", "enable_model_summary": False},
    "job": {
        "name": "search_shop",
        "checkpoint_every": 2,
        "baselines": [
            {"class_path": "recsys.models.popularity.Popularity"},
            {"class_path": "recsys.models.lexical.LexicalBM25"},
        ],
    },
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    random = np.random.default_rng(0)
    user = np.repeat(np.arange(USERS), random.integers(5, 12, USERS))
    item = random.integers(0, ITEMS, len(user))
    texts = np.array([" ".join(random.choice(WORDS, 3, replace=False)) for _ in range(ITEMS)])
    events = pd.DataFrame({"user_id": user, "item_id": item, "timestamp": 1_500_000_000 + 3600 * np.arange(len(user))})
    events["action"] = np.where(random.random(len(user)) < 0.4, "buy", "view")
    asked = random.random(len(user)) < 0.4
    events["query"] = pd.Series([text.split()[random.integers(3)] for text in texts[item]]).where(asked)
    events.to_parquet(folder / "events.parquet")
    pd.DataFrame({"item_id": range(ITEMS), "title": texts}).to_parquet(folder / "items.parquet")
    schema = {
        "name": "search_shop",
        "title": "title",
        "events": {"query": "query", "action": "action"},
        "features": [
            {"name": "words", "column": "title", "type": "text"},
            {"name": "asked", "type": "text", "entity": "query", "table": "words"},
        ],
    }
    (folder / "schema.yaml").write_text(yaml.safe_dump(schema))
    (folder / "job.yaml").write_text(yaml.safe_dump(JOB))
    return folder


def call(shop: Path, *words: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("RECSYS_", "MLFLOW_"))}
    environment |= {"OMP_NUM_THREADS": "1", **more}
    return subprocess.run(
        [sys.executable, *words], cwd=shop, env=environment, capture_output=True, text=True, timeout=240
    )


def recsys(shop: Path, *words: str) -> str:
    done = call(shop, "-m", "recsys.cli.main", *words)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def printed(shop: Path) -> str:
    """What `recsys fit` says; its run is in `run`."""
    return recsys(shop, "fit", "--config", "job.yaml", "--job.folder", "run")


def test_each_task_and_stage_is_judged(shop: Path, printed: str) -> None:
    assert printed.count("SynerGen-ranked") == 2 == printed.count("LexicalBM25") == printed.count("Popularity")
    assert "expected calibration error" in printed
    models = ("SynerGen", "SynerGen-ranked", "Popularity", "LexicalBM25")
    found = {folder.name for folder in (shop / "run" / "evaluation").iterdir()}
    assert found == {f"{model}.{task}" for model in models for task in ("search", "recommendation")}
    assert {picture.name for picture in (shop / "run" / "plots").iterdir()} == {
        "calibration.png",
        "effective_rank.png",
        "learning_curves.png",
        *(f"{kind}_{task}.png" for kind in ("scores", "recall_by_popularity") for task in ("search", "recommendation")),
    }
    error = json.loads((shop / "run" / "calibration.json").read_text())["expected_calibration_error"]
    assert error["after"] < error["before"]


@pytest.mark.usefixtures("printed")
def test_the_run_leaves_its_card(shop: Path) -> None:
    card = (shop / "run" / "model_card.md").read_text()
    assert ", finished\n" in card, "made when the record is complete"
    assert "\nRecommendation: " in card and "\nSearch: " in card and "LexicalBM25" in card
    assert "Expected calibration error" in (shop / "run" / "model_card.html").read_text()


@pytest.mark.usefixtures("printed")
def test_mlflow_knows_all_of_it(shop: Path) -> None:
    with sqlite3.connect(shop / "mlflow.db") as store:
        keys = {key for (key,) in store.execute("SELECT DISTINCT key FROM metrics")}
    assert {
        "train/recommendation",
        "train/search",
        "train/ranking_pointwise",
        "train/ranking_pairwise",
        "val/search_ndcg_at_10",
        "val/recommendation_ndcg_at_10",
        "val/ndcg_at_10",
        "val/item_effective_rank",
        "val/tail_share_at_10",
        "test/search/ndcg_at_10",
        "test/search/ranked/ndcg_at_10",
        "test/recommendation/ranked/ndcg_at_10",
        "calibration/before",
        "calibration/after",
    } <= keys


@pytest.mark.usefixtures("printed")
def test_the_frozen_set_judges_the_saved_model_as_the_run_did(shop: Path) -> None:
    run = RunFolder(shop / "run")
    frozen = EvaluationSet.load(run.evaluation_set)
    (logged,) = (shop / "mlartifacts").rglob("evaluation_set/manifest.json")
    assert EvaluationSet.load(logged.parent).fingerprint == frozen.fingerprint
    assert frozen.tasks == ("search", "recommendation") and frozen.sample is None
    server = BundleServer(Bundle.load(run.model), "1")
    for task in frozen.tasks:
        for name in ("SynerGen", "SynerGen-ranked"):
            own = Evaluation.load(run.evaluation(name, task))
            found = evaluate_pyfunc(
                lambda frame, params: server.answer(frame, ServingParams(**params)),
                frozen,
                task=task,
                ks=own.facts["ks"],
                retrieve=own.facts["rerank"] or 0,
            )
            compared = compare_evaluations(own, found, resamples=20)
            assert abs(compared["NDCG@10"].difference.mean) < 1e-6, (name, task)
            assert (own.ranked == found.ranked).mean() > 0.99, (name, task)


@pytest.mark.usefixtures("printed")
def test_the_run_answers_searches_and_recommends(shop: Path) -> None:
    words = ("recommend", "run", "--user", "7", "--k", "5", "--json")
    (found,) = json.loads(recsys(shop, *words, "--query", "red balm"))
    (plain,) = json.loads(recsys(shop, *words))
    (fused,) = json.loads(recsys(shop, *words, "--query", "red balm", "--lexical"))
    lists = [[item["item"] for item in answer["recommendations"]] for answer in (found, plain, fused)]
    assert all(len(set(items)) == 5 for items in lists) and lists[0] != lists[1]
    assert all(0 < item["probability"] < 1 for item in found["recommendations"])
    assert {"query", "title"} <= set(found["history"][0])


def checkpoint(folder: Path) -> dict[str, torch.Tensor]:
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


def test_killed_and_resumed_equals_undisturbed(shop: Path, tmp_path: Path) -> None:
    """Every generator of the objective is in the checkpoint: negatives, ranking negatives, ranked requests."""
    arguments = (str(DRIVER), "--config", "job.yaml")
    assert call(shop, *arguments, f"--job.folder={tmp_path / 'whole'}").returncode == 0
    cut = f"--job.folder={tmp_path / 'cut'}"
    assert call(shop, *arguments, cut, DIE_AFTER="7").returncode == -signal.SIGKILL
    done = call(shop, *arguments, cut, "--job.resume=true")
    assert done.returncode == 0, done.stderr
    whole, resumed = checkpoint(tmp_path / "whole"), checkpoint(tmp_path / "cut")
    assert whole["global_step"] == resumed["global_step"] == 15
    for name, value in whole["state_dict"].items():
        assert torch.equal(value, resumed["state_dict"][name]), name
    assert torch.equal(
        whole["generators"]["objective"]["ranking_slots"], resumed["generators"]["objective"]["ranking_slots"]
    )
