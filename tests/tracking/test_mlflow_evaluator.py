"""`mlflow.models.evaluate` judges a model that this package did not make, under a real store."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pandas as pd
import pytest
from mlflow.exceptions import MlflowException

from recsys.evaluation.evaluation_set import EvaluationSet
from recsys.evaluation.given_requests import given_set
from recsys.evaluation.result import EvaluationError
from recsys.features.event_log import EventLog
from recsys.features.schema import Schema
from recsys.features.splits import GlobalTime
from recsys.tracking.mlflow_evaluator import METRICS, PLOTS, SLICES
from recsys.tracking.most_popular import MostPopular
from recsys.tracking.pyfunc_evaluation import evaluate_pyfunc
from tests.tracking.stores import empty_store

pytestmark = pytest.mark.filterwarnings("ignore")

ITEMS = [f"i{number:02}" for number in range(30)]


@pytest.fixture(scope="module")
def frozen() -> EvaluationSet:
    """Of a log with searches: two tasks, 20 users or so in each."""
    random = np.random.default_rng(0)
    weight = 1.0 / np.arange(1, 31)
    frame = pd.DataFrame({"user_id": np.repeat([f"u{number}" for number in range(40)], 12)})
    frame["item_id"] = random.choice(ITEMS, len(frame), p=weight / weight.sum())
    frame["timestamp"] = random.permutation(len(frame))
    frame["query"] = pd.Series(random.choice(["red", "blue"], len(frame))).where(random.random(len(frame)) < 0.4)
    schema = {"name": "toy", "events": {"query": "query"}}
    schema["features"] = [{"name": "words", "type": "text", "entity": "query"}]
    return EvaluationSet.of(GlobalTime(0.3, 0.1)(EventLog.from_frame(frame, Schema.parse(schema))))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a store that everything in this module writes to."""
    folder = tmp_path_factory.mktemp("store")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", empty_store(folder))
        patch.setenv("MLFLOW_EXPERIMENT_ID", mlflow.create_experiment("foreign", str(folder / "files")))
        yield folder


class Foreign(mlflow.pyfunc.PythonModel):
    """Knows nothing of this package: items by name, backwards."""

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        rows = []
        for row, history in enumerate(model_input["history"]):
            best = [item for item in sorted(ITEMS, reverse=True) if item not in set(history)][: params["k"]]
            rows += [(row, item, rank, -float(rank)) for rank, item in enumerate(best, 1)]
        return pd.DataFrame(rows, columns=["request", "item_id", "rank", "score"])


def logged(store: Path) -> str:
    """The address of the foreign model in the store."""
    from mlflow.models import infer_signature

    params = {"k": 10, "filter_seen": True, "retrieve": 0}
    example = pd.DataFrame({"user_id": ["u"], "history": [["i01", "i02"]]})
    answer = pd.DataFrame({"request": [0], "item_id": ["i03"], "rank": [1], "score": [0.5]})
    with mlflow.start_run():
        return mlflow.pyfunc.log_model(
            name="foreign",
            python_model=Foreign(),
            signature=infer_signature(example, answer, params),
            pip_requirements=[],
        ).model_uri


def test_a_foreign_model_on_a_frozen_set(store: Path, frozen: EvaluationSet, tmp_path: Path) -> None:
    frozen.save(tmp_path / "set")
    uri = logged(store)
    config = {"evaluation_set": str(tmp_path / "set"), "ks": [5, 10], "top": 20, "name": "backwards"}
    with mlflow.start_run() as run:
        result = mlflow.models.evaluate(
            uri, frozen.frame(), targets="relevant", model_type="recommender", evaluators="recsys",
            evaluator_config=config,
        )  # fmt: skip
    model = mlflow.pyfunc.load_model(uri)
    expected = {}
    for task in ("search", "recommendation"):
        own = evaluate_pyfunc(model, frozen, task=task, ks=(5, 10), top=20)
        expected |= {
            f"test/{task}/{n.lower().replace('@', '_at_').replace(' ', '_')}": v for n, v in own.means().items()
        }
    assert result.metrics == pytest.approx({name: value for name, value in expected.items() if np.isfinite(value)})
    kept = mlflow.get_run(run.info.run_id)
    assert kept.data.metrics == pytest.approx(result.metrics)

    tables = result.tables
    metrics, slices = tables["recsys_metrics"], tables["recsys_slices"]
    assert metrics.groupby(["model", "task"]).ngroups == 4
    ndcg = metrics.query("model == 'backwards' and task == 'search' and metric == 'NDCG@10'").iloc[0]
    assert ndcg["low"] <= ndcg["value"] <= ndcg["high"]
    assert ndcg["value"] == pytest.approx(result.metrics["test/search/ndcg_at_10"])
    floor = metrics.query("model == 'Popularity' and task == 'search' and metric == 'NDCG@10'").iloc[0]
    popular = evaluate_pyfunc(MostPopular(frozen), frozen, task="search", ks=(10,))
    assert floor["value"] == pytest.approx(popular.means()["NDCG@10"]) and floor["value"] > ndcg["value"]
    assert set(slices["by"]) == {"task", "history length", "popularity decile of the item"}
    for (_, task), own in slices[slices["by"] == "history length"].groupby(["model", "task"]):
        assert own["number"].sum() == frozen.facts_of(task)["judged_users"]

    files = {path.relative_to(store / "files").as_posix() for path in (store / "files").rglob("*") if path.is_file()}
    pictures = [f"{kind}_{task}" for kind in ("scores", "recall_by_popularity") for task in frozen.tasks]
    for file in (METRICS, SLICES, *(f"{PLOTS}/{picture}.png" for picture in pictures)):
        assert f"{run.info.run_id}/artifacts/{file}" in files
    assert set(result.artifacts) == {"recsys_metrics", "recsys_slices", *pictures}
    result.save(tmp_path / "saved")
    again = mlflow.models.EvaluationResult.load(str(tmp_path / "saved"))
    assert again.metrics == result.metrics
    assert again.artifacts["scores_search"].content.size == result.artifacts["scores_search"].content.size


def test_a_function_on_a_given_table(store: Path, frozen: EvaluationSet, tmp_path: Path) -> None:
    """Requests without a split, asked of a plain function, which MLflow gives no parameters."""
    asked = pd.DataFrame({"user_id": ["u", "v"], "history": [["i00"], ["i01"]], "relevant": [["i02"], ["i00", "i01"]]})
    frozen.items.to_pandas().to_parquet(tmp_path / "items.parquet")

    def first(frame: pd.DataFrame) -> pd.DataFrame:
        return pd.DataFrame({"request": range(len(frame)), "item_id": ["i02", "i00"], "rank": 1, "score": 1.0})

    config = {"items": tmp_path / "items.parquet", "ks": [1], "top": 1, "batch_requests": 2}
    with mlflow.start_run() as run:
        result = mlflow.models.evaluate(
            first, asked, targets="relevant", model_type="recommender", evaluators="recsys", evaluator_config=config
        )
    assert result.metrics["given/hr_at_1"] == 1.0 and result.metrics["given/coverage_at_1"] == pytest.approx(2 / 30)
    assert mlflow.get_run(run.info.run_id).data.metrics == pytest.approx(result.metrics)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": 5}, "no `k` is known; there are evaluation_set, items"),
        ({"items": None}, "give either `evaluation_set`, the folder of one, or `items`"),
        ({"filter_seen": False}, "is a rule of the evaluation set"),
        ({"name": "Popularity"}, "`Popularity` is what the most popular items are called"),
    ],
)
def test_configurations_that_are_refused(
    store: Path, frozen: EvaluationSet, tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    frozen.save(tmp_path / "set")
    with mlflow.start_run(), pytest.raises(EvaluationError, match=message):
        mlflow.models.evaluate(
            MostPopular(frozen), frozen.frame(), targets="relevant", model_type="recommender", evaluators="recsys",
            evaluator_config={"evaluation_set": tmp_path / "set"} | change,
        )  # fmt: skip


def test_what_else_is_refused(store: Path, frozen: EvaluationSet, tmp_path: Path) -> None:
    frozen.save(tmp_path / "set")
    usual: dict[str, Any] = {
        "model_type": "recommender",
        "evaluators": "recsys",
        "evaluator_config": {"evaluation_set": tmp_path / "set"},
        "targets": "relevant",
    }
    frame = frozen.frame()
    with mlflow.start_run():
        with pytest.raises(EvaluationError, match="data are not the requests of"):
            mlflow.models.evaluate(MostPopular(frozen), frame.iloc[1:], **usual)
        with pytest.raises(EvaluationError, match="extra_metrics: this evaluator takes none"):
            metric = mlflow.models.make_metric(eval_fn=lambda *_: 0.0, greater_is_better=True, name="x")
            mlflow.models.evaluate(MostPopular(frozen), frame, extra_metrics=[metric], **usual)
        with pytest.raises(EvaluationError, match="the model itself is asked"):
            mlflow.models.evaluate(None, frame, predictions="query", **usual)
        with pytest.raises(MlflowException, match="could not be evaluated by any"):
            mlflow.models.evaluate(MostPopular(frozen), frame, **usual | {"model_type": "text"})


def test_most_popular_items_are_those_of_a_loop(frozen: EvaluationSet) -> None:
    counts = frozen.items.to_pandas().set_index("item_id")["training_events"]
    model, rows = MostPopular(frozen), frozen.rows("recommendation")
    frame = frozen.questions(rows)
    for filter_seen in (True, False):
        answer = model(frame, {"k": 7, "filter_seen": filter_seen})
        for row, history in enumerate(frame["history"]):
            left = counts.drop(list(set(history))) if filter_seen else counts
            own = answer[answer["request"] == row]
            assert own["rank"].tolist() == list(range(1, 8))
            assert own["score"].tolist() == left.sort_values(ascending=False)[:7].tolist()
            assert own["score"].tolist() == counts[own["item_id"]].tolist() and not (
                set(own["item_id"]) - set(left.index)
            )
    whole = model(frame, {"k": 100, "filter_seen": True})
    assert (whole.groupby("request").size() == 30 - frame["history"].map(lambda h: len(set(h)))).all()
    nobody = given_set(pd.DataFrame({"user_id": ["u"], "relevant": [["i00"]]}), frozen.items.to_pandas())
    assert len(model(nobody.questions(np.arange(1)), {"k": 3, "filter_seen": True})) == 3
    assert not len(model(frame.iloc[:0], {"k": 3, "filter_seen": True}))


def test_nothing_heavy_is_loaded_before_a_model_is_judged() -> None:
    """MLflow loads evaluators whenever somebody asks for one, who may have no use for this package."""
    code = (
        "import sys, warnings; warnings.filterwarnings('error', message='Failure attempting')\n"
        "{first}from mlflow.models.evaluation import list_evaluators\n"
        "assert 'recsys' in list_evaluators()\n"
        "assert not {{'torch', 'recsys.evaluation'}} & sys.modules.keys()\n"
    )
    for first in ("", "import recsys.tracking.mlflow_evaluator\n"):
        done = subprocess.run(
            [sys.executable, "-c", code.format(first=first)], capture_output=True, text=True, timeout=120
        )
        assert done.returncode == 0, done.stderr
