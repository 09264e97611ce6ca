"""`mlflow.models.evaluate(..., evaluators="recsys")`: lists of any model, judged over the whole catalogue.

MLflow imports this module whenever somebody imports its evaluation, so that nothing else of the package is loaded
before a model is judged.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlflow.data.evaluation_dataset import EvaluationDataset
from mlflow.models.evaluation.base import EvaluationArtifact, EvaluationResult, ModelEvaluator

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

    from recsys.evaluation.evaluation_set import EvaluationSet

MODEL_TYPE = "recommender"
FLOOR = "Popularity"
"""What the most popular items are called, beside which every model is judged."""
METRICS, SLICES, PLOTS = "recsys_metrics.json", "recsys_slices.json", "recsys_plots"


@dataclass(frozen=True)
class EvaluatorConfig:
    """What `evaluator_config` may hold.

    Attributes:
        evaluation_set: folder of a frozen evaluation set; `data` must be its requests.
        items: without such a folder, the catalogue: a DataFrame or Parquet file of `item_id` and `training_events`.
        filter_seen: without such a folder, whether seen items are kept out of lists.
        ks: cut-offs of the metrics; slices and pictures look at the first.
        top: length of the lists.
        batch_requests: requests put to the model at a time.
        retrieve: items that a model that ranks retrieves; 0: the order of retrieval.
        name: of the model, in table and pictures.
    """

    evaluation_set: str | Path | None = None
    items: Any = None
    filter_seen: bool = True
    ks: Sequence[int] = (10, 50)
    top: int = 100
    batch_requests: int = 512
    retrieve: int = 0
    name: str = "model"

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> EvaluatorConfig:
        """The configuration that MLflow hands on.

        Raises:
            EvaluationError: a name is unknown, or the catalogue is missing or given twice.
        """
        from recsys.evaluation.result import EvaluationError

        known = [field.name for field in fields(cls)]
        for name in sorted(given.keys() - set(known)):
            raise EvaluationError(f"evaluator_config: no `{name}` is known; there are {', '.join(known)}")
        if ("evaluation_set" in given) == ("items" in given):
            raise EvaluationError(
                "evaluator_config: give either `evaluation_set`, the folder of one, or `items`, the whole catalogue "
                "with `item_id` and `training_events`"
            )
        if "evaluation_set" in given and "filter_seen" in given:
            raise EvaluationError("evaluator_config: whether seen items are filtered is a rule of the evaluation set")
        if given.get("name") == FLOOR:
            raise EvaluationError(f"evaluator_config: `{FLOOR}` is what the most popular items are called")
        return cls(**given)


class RecsysEvaluator(ModelEvaluator):
    """Judges a model of type `recommender` as `evaluate_pyfunc` does, beside the most popular items.

    Metrics of the model go to the run by `<part>/<task>/<metric>`; all metrics with their intervals, and slices by
    task, popularity of the item and activity of the user, are tables of it, and pictures lie in `recsys_plots`.
    """

    @classmethod
    def can_evaluate(cls, *, model_type: str, evaluator_config: dict[str, Any], **kwargs: Any) -> bool:
        return model_type == MODEL_TYPE

    def evaluate(
        self,
        *,
        model_type: str,
        dataset: EvaluationDataset,
        run_id: str,
        evaluator_config: dict[str, Any],
        model: Any = None,
        extra_metrics: Any = None,
        custom_artifacts: Any = None,
        predictions: Any = None,
        model_id: str | None = None,
        **kwargs: Any,
    ) -> EvaluationResult:
        """Judges the model and fills the run.

        Raises:
            EvaluationError: `data` or `evaluator_config` are not as they should be.
            AnswerError: the model answers with something that is no list.
        """
        import mlflow
        from mlflow.models.evaluation.artifacts import ImageEvaluationArtifact, JsonEvaluationArtifact

        from recsys.evaluation.result import EvaluationError
        from recsys.tracking.mlflow_run import metric_table
        from recsys.tracking.mlflow_store import open_client
        from recsys.tracking.pyfunc_results import beside_popularity, metrics_of, pictures_of, slices_of

        for name, value in {"extra_metrics": extra_metrics, "custom_artifacts": custom_artifacts}.items():
            if value:
                raise EvaluationError(f"{name}: this evaluator takes none; name one of MLflow's own beside it")
        if model is None or predictions is not None:
            raise EvaluationError("the model itself is asked: give `model`, and no `predictions`")
        config = EvaluatorConfig.of(evaluator_config)
        evaluations = beside_popularity(
            model,
            _evaluation_set(dataset, config),
            name=config.name,
            ks=config.ks,
            top=config.top,
            batch_requests=config.batch_requests,
            retrieve=config.retrieve,
        )
        metrics = metrics_of(evaluations)
        client, uri = open_client(mlflow.get_tracking_uri()), mlflow.get_run(run_id).info.artifact_uri
        if model_id is None:  # else MLflow logs what is returned, for run and model together
            _log_metrics(client, run_id, metrics)
        artifacts: dict[str, EvaluationArtifact] = {}
        for file, table in ((METRICS, metric_table(evaluations)), (SLICES, slices_of(evaluations, config.ks[0]))):
            client.log_table(run_id, table, file)
            content = json.loads(table.to_json(orient="split", index=False))
            artifacts[file.removesuffix(".json")] = JsonEvaluationArtifact(f"{uri}/{file}", content)
        with tempfile.TemporaryDirectory() as made:
            for file, figure in pictures_of(evaluations, config.ks[0]).items():
                path = Path(made) / file
                figure.savefig(path, dpi=150)
                client.log_artifact(run_id, str(path), PLOTS)
                picture = ImageEvaluationArtifact(f"{uri}/{PLOTS}/{file}")
                picture._load(str(path))  # the file is gone when somebody asks for its content
                artifacts[file.removesuffix(".png")] = picture
        return EvaluationResult(metrics=metrics, artifacts=artifacts, run_id=run_id)


def _evaluation_set(dataset: EvaluationDataset, config: EvaluatorConfig) -> EvaluationSet:
    """The requests of `data`, under the rules of the configuration.

    Raises:
        EvaluationError: they are no table of requests, or not those of the evaluation set that is named.
    """
    import pandas as pd

    from recsys.evaluation.evaluation_set import EvaluationSet
    from recsys.evaluation.given_requests import given_requests, given_set
    from recsys.evaluation.requests_table import digest
    from recsys.evaluation.result import EvaluationError

    frame = dataset.features_data
    if not isinstance(frame, pd.DataFrame):
        raise EvaluationError(f"data must be a DataFrame with a row for each request, not {type(frame).__name__}")
    if dataset.has_targets:
        frame = frame.assign(relevant=list(dataset.labels_data))
    if config.evaluation_set is None:
        items = config.items if isinstance(config.items, pd.DataFrame) else pd.read_parquet(config.items)
        return given_set(frame, items, filter_seen=config.filter_seen)
    frozen = EvaluationSet.load(config.evaluation_set)
    if digest(given_requests(frame)) != digest(frozen.requests):
        raise EvaluationError(
            f"data are not the requests of {config.evaluation_set}; give those: `EvaluationSet.load(folder).frame()`"
        )
    return frozen


def _log_metrics(client: MlflowClient, run_id: str, metrics: Mapping[str, float]) -> None:
    from mlflow.entities import Metric

    now = int(time.time() * 1000)
    client.log_batch(run_id, metrics=[Metric(name, value, now, 0) for name, value in metrics.items()])
