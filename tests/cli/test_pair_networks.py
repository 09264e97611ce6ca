"""The recipes of networks of pairs on a small log: trained, judged, asked by user, and served where no log is."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import yaml

from recsys.cli import evaluate, plan, recommend
from recsys.cli.fit import with_recipe_paths
from recsys.cli.fit_job import FitCLI, run
from recsys.cli.main import main
from recsys.models.artefact import load_model
from recsys.models.interaction import InteractionNetwork
from recsys.tracking.record import RunError
from recsys.tracking.run_folder import RunFolder

pytestmark = pytest.mark.filterwarnings("ignore")

RECIPES = {"matrix_factorization": "MatrixFactorization", "light_gcn": "LightGCN"}
USERS, ITEMS, LATE = 40, 30, "late"
CUT = {"class_path": "recsys.features.splits.GlobalTime", "init_args": {"test_share": 0.03}}
OTHERS: dict[str, Any] = {
    "rel_mf": {"loss": {"class_path": "recsys.unbiased.pointwise.RelMF", "init_args": {"clip": 0.1}}},
    "du": {"loss": {"class_path": "recsys.unbiased.normalized.DualUnbiased", "init_args": {"clip": 0.1}}},
    "pld": {},
}


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of two tastes with one user who comes after the cut, and a run of each recipe on it."""
    folder = tmp_path_factory.mktemp("shop")
    random = np.random.default_rng(0)
    rows = []
    for number in range(USERS):
        own = np.arange(ITEMS).reshape(2, -1)[number % 2]
        rows += [(f"u{number}", item) for item in random.choice(own, random.integers(6, 10), replace=False)]
    rows += [("u0", item) for item in range(4, 7)]  # after the cut, and so is all of the next one
    rows += [(LATE, item) for item in range(4)]
    events = pd.DataFrame(rows, columns=["user_id", "item_id"]).drop_duplicates()
    events["timestamp"] = 1_500_000_000 + 60 * np.arange(len(events))
    events.to_parquet(folder / "events.parquet")
    (folder / "schema.yaml").write_text(yaml.safe_dump({"name": "shop"}))
    for name in RECIPES:
        run(FitCLI(with_recipe_paths(arguments(name, folder))))
    return folder


def arguments(recipe: str, folder: Path, run: str | None = None) -> list[str]:
    return [
        *("--config", recipe, f"--job.folder={folder / (run or recipe)}", "--job.track=false"),
        *(f"--data.schema={folder / 'schema.yaml'}", f"--data.events={folder / 'events.parquet'}"),
        *(f"--data.cache={folder / 'cache'}", "--data.batch_size=64"),
        f"--data.split={json.dumps(CUT)}",
        "--job.baselines=[{class_path: recsys.models.popularity.Popularity}]",
        *("--trainer.max_epochs=3", "--trainer.accelerator=cpu"),
    ]


def ask(capsys: pytest.CaptureFixture[str], *words: str) -> list[dict[str, Any]]:
    assert recommend.main([*words, "--json"]) == 0
    found: list[dict[str, Any]] = json.loads(capsys.readouterr().out)
    return found


def raw(answer: dict[str, Any]) -> list[int]:
    return [item["item"] for item in answer["recommendations"]]


def by_hand(folder: Path, user: str, seen: bool) -> list[int]:
    """The best five items of a user by inner products of the trained vectors, unseen ones unless `seen`."""
    log, model = RunFolder(folder).log(), load_model(folder / "model")
    assert isinstance(model, InteractionNetwork)
    (row,) = log.users.encode([user]).tolist()
    with torch.no_grad():
        vectors = model(torch.full((model.n_items,), row), torch.arange(1, model.n_items + 1))
    scores = (vectors.users * vectors.items).sum(-1)
    if not seen:
        frame = log.to_frame()
        scores[torch.from_numpy(log.items.encode(frame.loc[frame["user_id"] == user, "item_id"])) - 1] = -torch.inf
    best: list[int] = log.items.decode((scores.topk(5).indices + 1).numpy()).tolist()
    return best


def popular(folder: Path) -> list[int]:
    """Training events of all items, the most first."""
    counts: list[int] = load_model(folder / "model").catalogue.counts[1:].tolist()  # type: ignore[attr-defined]
    return sorted(counts, reverse=True)


def counts_of(folder: Path, answer: dict[str, Any]) -> list[int]:
    counts = load_model(folder / "model").catalogue.counts  # type: ignore[attr-defined]
    found: list[int] = counts[RunFolder(folder).log().items.encode(raw(answer))].tolist()
    return found


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_run_is_judged_and_judged_again_alike(
    shop: Path, recipe: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copytree(shop / recipe, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    assert folder.record.status == "finished" and folder.record.model == RECIPES[recipe]
    assert {evaluation.model for evaluation in folder.evaluations()} == {RECIPES[recipe], "Popularity"}
    assert evaluate.main([str(folder.path), "--recompute", "--json"]) == 0
    output = capsys.readouterr()
    assert "every list is the same as before" in output.err
    assert {row["model"] for row in json.loads(output.out)} == {RECIPES[recipe], "Popularity"}


@pytest.mark.parametrize("recipe", RECIPES)
def test_users_get_lists_of_their_own(shop: Path, recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = [str(shop / recipe), "--user", "u3", "--user", "u4", "--k", "5"]
    for seen in (False, True):
        answers = ask(capsys, *words, *(["--seen"] if seen else []))
        for answer in answers:
            assert raw(answer) == by_hand(shop / recipe, answer["user"], seen)
            assert answer["known"]
        assert raw(answers[0]) != raw(answers[1])


@pytest.mark.parametrize("recipe", RECIPES)
def test_who_is_not_known_gets_what_is_popular(shop: Path, recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    folder = shop / recipe
    (stranger,) = ask(capsys, str(folder), "--user", "nobody", "--k", "5")
    assert not stranger["known"] and counts_of(folder, stranger) == popular(folder)[:5]
    (late,) = ask(capsys, str(folder), "--user", LATE, "--k", "5", "--seen")
    assert not late["known"] and late["events"] == 4 and counts_of(folder, late) == popular(folder)[:5]
    assert recommend.main([str(folder), "--user", "nobody", LATE]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "user nobody is not in the log: these are the popular items" in text
    assert "user late is in the log, but has no training events: these are the popular items" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--items", "4", "5"],
            "--items: MatrixFactorization knows users by their ids and reads no history; name users",
        ),
        (["--user", "u3", "--items", "4"], "--items: MatrixFactorization knows users"),
        (
            ["--user", "u3", "--query", "red"],
            "--query: MatrixFactorization knows users by their ids and reads no query",
        ),
    ],
)
def test_what_the_model_does_not_read_is_refused(shop: Path, words: list[str], message: str) -> None:
    with pytest.raises(recommend.RequestError, match=message):
        recommend.main([str(shop / "matrix_factorization"), *words])


def test_without_the_log_only_the_filter_is_missing(
    shop: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = shop / "light_gcn"
    with_log = ask(capsys, str(folder), "--user", "u3", "nobody", "--seen")
    gone = RunError("the prepared log is not there")
    monkeypatch.setattr(RunFolder, "log", lambda *_: (_ for _ in ()).throw(gone))
    with pytest.raises(RunError, match=r"not there; without the log nobody knows what a user had: `--seen`"):
        recommend.main([str(folder), "--user", "u3"])
    without = ask(capsys, str(folder), "--user", "u3", "nobody", "--seen")
    for ours, theirs in zip(without, with_log, strict=True):
        assert raw(ours) == raw(theirs) and ours["known"] == theirs["known"]
    assert recommend.main([str(folder), "--user", "u3", "--seen"]) == 0
    assert "last 0 of 0" not in capsys.readouterr().out


SERVE = """
import json, sys
import numpy as np
from recsys.tracking.bundle import Bundle
users, out = sys.argv[2:], []
for folder in sys.argv[1].split(","):
    bundle = Bundle.load(folder)
    asked = [bundle.history(np.zeros(0, dtype=np.int64), user) for user in users]
    items = bundle.recommend(asked, 5).items.tolist()
    out.append([[bundle.items.decode(row).tolist() for row in items], [bundle.knows(each) for each in asked]])
print(json.dumps(out))
"""


def test_bundles_serve_elsewhere(shop: Path, tmp_path: Path) -> None:
    for recipe in RECIPES:
        shutil.copytree(shop / recipe / "model", tmp_path / recipe)
    command = [sys.executable, "-W", "ignore", "-c", SERVE, ",".join(RECIPES), "u3", "u4", LATE, "nobody"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    for recipe, (lists, known) in zip(RECIPES, json.loads(done.stdout), strict=True):
        assert lists[:2] == [by_hand(shop / recipe, user, seen=True) for user in ("u3", "u4")]
        assert known == [True, True, False, False]
        assert lists[2] == lists[3] != lists[0]


@pytest.mark.parametrize("recipe", RECIPES)
def test_there_is_nothing_to_plan(shop: Path, recipe: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert plan.main(with_recipe_paths(arguments(recipe, shop))) == 2
    assert "one process trains on pairs" in capsys.readouterr().err


@pytest.mark.parametrize("name", OTHERS)
def test_the_other_losses_that_the_recipe_names(shop: Path, name: str) -> None:
    batches = {"class_path": "recsys.features.pair_batches.AllPairs"}
    objective: dict[str, Any] = {"class_path": "recsys.training.pair_objective.PairObjective"}
    if name == "pld":
        batches = {"class_path": "recsys.denoising.user_pools.UserPools", "init_args": {"size": 5}}  # type: ignore[dict-item]
        objective = {"class_path": "recsys.training.pool_objective.PoolObjective"}
    words = [f"--model.objective={json.dumps(objective | {'init_args': OTHERS[name]})}"]
    words += [f"--data.batches={json.dumps(batches)}", "--trainer.max_epochs=1", "--job.judge=false"]
    run(FitCLI(with_recipe_paths([*arguments("matrix_factorization", shop, name), *words])))
    assert RunFolder(shop / name).record.status == "finished"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (
            ["--data.batches=null"],
            "MatrixFactorization knows users by their ids, and the catalogue has none: set `data.b",
        ),
        (["--data.batches=recsys.features.pair_batches.AllPairs"], "reads a TripleBatch, not a PairBatch: set `data.b"),
        (["--data.batches=recsys.denoising.user_pools.UserPools"], "reads a TripleBatch, not a PoolBatch: set `data.b"),
        (["--model.network=recsys.models.two_tower.TwoTower"], "pairs need a network that knows users by id"),
    ],
)
def test_parts_that_do_not_fit_are_named_in_a_sentence(
    shop: Path, changed: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = arguments("matrix_factorization", shop)
    assert main(["fit", *job, *changed, f"--job.folder={tmp_path / 'run'}"]) == 1
    assert message in capsys.readouterr().err
