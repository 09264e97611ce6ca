"""What is told of a model that answers requests: numbers, slices and pictures, beside the most popular items."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.figure import Figure

from recsys.evaluation import plots
from recsys.evaluation.evaluation_set import EvaluationSet
from recsys.evaluation.report import by_rules
from recsys.evaluation.result import Evaluation
from recsys.evaluation.slices import by_history_length, by_task, recall_by_decile
from recsys.tracking.mlflow_run import metric_name, metric_prefix
from recsys.tracking.most_popular import MostPopular
from recsys.tracking.pyfunc_evaluation import evaluate_pyfunc


def beside_popularity(
    model: Any, evaluation_set: EvaluationSet, *, name: str, retrieve: int = 0, **settings: Any
) -> list[Evaluation]:
    """Judges a model and the most popular items, task by task, the model first.

    Args:
        model: as `evaluate_pyfunc` takes it.
        evaluation_set: the requests.
        name: of the model, to print.
        retrieve: items that the model retrieves for its ranking.
        settings: further ones of `evaluate_pyfunc`.
    """
    floor, judged = MostPopular(evaluation_set), []
    for task in evaluation_set.tasks:
        judged.append(evaluate_pyfunc(model, evaluation_set, task=task, name=name, retrieve=retrieve, **settings))
        judged.append(evaluate_pyfunc(floor, evaluation_set, task=task, **settings))
    return judged


def metrics_of(evaluations: Sequence[Evaluation]) -> dict[str, float]:
    """The metrics of the first model, by `<part>/<task>/<metric>`; what is undefined is left out."""
    name = evaluations[0].model
    return {
        metric_name(f"{metric_prefix(own, name)}/{metric}"): value
        for own in evaluations
        if own.model == name
        for metric, value in own.means().items()
        if math.isfinite(value)
    }


def slices_of(evaluations: Sequence[Evaluation], k: int) -> pd.DataFrame:
    """NDCG@k by task and by activity of the user, and recall at k by popularity of the item, of each model.

    Returns:
        One row per model, task and slice: `model, task, by, slice, number, metric, value, low, high`, with the number
        of users, of targets for recall.
    """
    ndcg, frames = f"NDCG@{k}", []
    judged = [evaluation for evaluation in evaluations if evaluation.facts["judged_users"]]
    for model in dict.fromkeys(evaluation.model for evaluation in judged):
        own = [evaluation for evaluation in judged if evaluation.model == model]
        if len(own) > 1:
            frames.append(_rows(by_task(own, ndcg), model, None, "task", ndcg))
        for evaluation in own:
            task = evaluation.facts["task"]
            frames.append(_rows(by_history_length(evaluation, ndcg), model, task, "history length", ndcg))
            recall = recall_by_decile(evaluation, k)
            frames.append(_rows(recall, model, task, "popularity decile of the item", f"Recall@{k}"))
    columns = ["model", "task", "by", "slice", "number", "metric", "value", "low", "high"]
    return pd.concat(frames, ignore_index=True)[columns] if frames else pd.DataFrame(columns=columns)


def pictures_of(evaluations: Sequence[Evaluation], k: int) -> dict[str, Figure]:
    """NDCG@k with intervals, and recall along the popularity of items, by file name, for each task."""
    made: dict[str, Figure] = {}
    ndcg = f"NDCG@{k}"
    for comparable in by_rules([evaluation for evaluation in evaluations if evaluation.facts["judged_users"]]):
        task = comparable[0].facts["task"]
        suffix, of_task = ("", "") if task is None else (f"_{task}", f", {task}")
        intervals = {evaluation.model: evaluation.summary()[ndcg] for evaluation in comparable}
        highlight = [comparable[0].model]
        made[f"scores{suffix}.png"] = plots.scores(intervals, ndcg, highlight=highlight, title=f"{ndcg}{of_task}")
        made[f"recall_by_popularity{suffix}.png"] = plots.recall_by_popularity(
            {evaluation.model: recall_by_decile(evaluation, k) for evaluation in comparable},
            k,
            title=f"Recall@{k} by popularity of the item{of_task}",
        )
    return made


def _rows(frame: pd.DataFrame, model: str, task: str | None, by: str, metric: str) -> pd.DataFrame:
    """A frame of `recsys.evaluation.slices` with what it is of."""
    named = frame.set_axis(["slice", "number", "value", "low", "high"], axis=1)
    return named.assign(model=model, task=task, by=by, metric=metric)
