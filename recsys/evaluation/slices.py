"""Where a model is good: by popularity of the item to be found, by activity of the user, and by task."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from recsys.evaluation.exposure import GROUPS, group_of_decile, group_of_events
from recsys.evaluation.intervals import bootstrap, wilson
from recsys.evaluation.metrics import check_cut_offs
from recsys.evaluation.result import RULES, Evaluation, EvaluationError, differing

DECILES = ("cold", *(str(decile) for decile in range(1, 11)))


def recall_by_decile(evaluation: Evaluation, k: int, level: float = 0.95) -> pd.DataFrame:
    """Share of the targets found within k, by popularity decile of the item (1 = most popular, `cold` = untrained).

    Returns:
        One row per slice that has targets: `slice, targets, recall, low, high`. The Wilson score interval (Wilson,
        JASA 1927) takes targets as independent.

    Raises:
        ValueError: k exceeds the length of the lists.
    """
    return _recall(evaluation, evaluation.targets.decile, DECILES, k, level)


def recall_by_group(evaluation: Evaluation, k: int, level: float = 0.95) -> pd.DataFrame:
    """`recall_by_decile` for cold, head, torso and tail."""
    return _recall(evaluation, group_of_decile(evaluation.targets.decile), GROUPS, k, level)


def recall_by_events(evaluation: Evaluation, counts: NDArray[np.integer], k: int, level: float = 0.95) -> pd.DataFrame:
    """`recall_by_decile` for cold, head, torso and tail as `exposure.group_of_events` draws the lines.

    Args:
        evaluation: the evaluation.
        counts: `[n_items + 1]` training events of each item, `split.train_counts()`.
        k: the cut-off.
        level: of the intervals.
    """
    return _recall(evaluation, group_of_events(counts)[evaluation.targets.item], GROUPS, k, level)


def by_history_length(
    evaluation: Evaluation, metric: str, edges: Sequence[int] = (5, 10, 20, 50), level: float = 0.95
) -> pd.DataFrame:
    """A metric by activity of the user: the length of the history.

    Args:
        evaluation: the evaluation.
        metric: name of the metric.
        edges: as of `history_slices`.
        level: of the bootstrap intervals.

    Returns:
        One row per slice that has users: `slice, users, value, low, high`.

    Raises:
        ValueError: the evaluation has no such metric.
    """
    _check_metric(evaluation, metric)
    values = evaluation.metrics[metric]
    defined = ~np.isnan(values)
    rows = []
    for name, of_length in history_slices(evaluation.history_length, edges):
        chosen = defined & of_length
        if chosen.any():
            interval = bootstrap({metric: values[chosen]}, users=evaluation.users[chosen], level=level)[metric]
            rows.append((name, interval.users, interval.mean, interval.low, interval.high))
    return pd.DataFrame(rows, columns=["slice", "users", "value", "low", "high"])


def history_slices(
    history_length: NDArray[np.integer], edges: Sequence[int] = (5, 10, 20, 50)
) -> list[tuple[str, NDArray[np.bool_]]]:
    """Slices of requests by activity of the user.

    Args:
        history_length: `[U]` events before each request.
        edges: first length of each slice but the first, ascending.

    Returns:
        Name and `[U]` members of each slice, also of those that have none.

    Example:
        >>> [(name, members.tolist()) for name, members in history_slices(np.array([3, 7]), edges=(5,))]
        [('0-4', [True, False]), ('5+', [False, True])]
    """
    place, bounds = np.searchsorted(edges, history_length, side="right"), [0, *edges]
    names = [f"{low}-{high - 1}" for low, high in zip(bounds, edges, strict=False)] + [f"{bounds[-1]}+"]
    return [(name, place == index) for index, name in enumerate(names)]


def by_task(evaluations: Sequence[Evaluation], metric: str, level: float = 0.95) -> pd.DataFrame:
    """A metric of one model by task.

    Args:
        evaluations: of one model on one part of one split, one for each task.
        metric: name of the metric.
        level: of the bootstrap intervals.

    Returns:
        One row per task, in the order given: `slice, users, value, low, high`.

    Raises:
        EvaluationError: the evaluations differ in model, split or rules, or a task comes twice.
        ValueError: an evaluation has no such metric.
    """
    rows, tasks = [], [str(evaluation.facts.get("task")) for evaluation in evaluations]
    if len(set(tasks)) < len(tasks):
        raise EvaluationError(f"one evaluation for each task is wanted, not {', '.join(tasks)}")
    for task, evaluation in zip(tasks, evaluations, strict=True):
        other = list(differing(evaluations[0], evaluation, [fact for fact in RULES if fact != "task"]))
        if other or evaluation.model != evaluations[0].model:
            raise EvaluationError(f"tasks `{tasks[0]}` and `{task}` differ in {', '.join(other or ['model'])}")
        _check_metric(evaluation, metric)
        interval = evaluation.summary(level=level)[metric]
        rows.append((task, interval.users, interval.mean, interval.low, interval.high))
    return pd.DataFrame(rows, columns=["slice", "users", "value", "low", "high"])


def _check_metric(evaluation: Evaluation, metric: str) -> None:
    if metric not in evaluation.metrics:
        raise ValueError(f"no metric `{metric}`; there are {', '.join(evaluation.metrics)}")


def _recall(
    evaluation: Evaluation, place: NDArray[np.int8], names: Sequence[str], k: int, level: float
) -> pd.DataFrame:
    if evaluation.facts.get("negatives") is not None:
        raise EvaluationError(f"`{evaluation.model}` ranks drawn items: its ranks say nothing of recall")
    check_cut_offs([k], evaluation.ranked.shape[1])
    rank = evaluation.targets.rank
    targets = np.bincount(place, minlength=len(names))
    found = np.bincount(place[(rank > 0) & (rank <= k)], minlength=len(names))
    some = targets > 0
    low, high = wilson(found[some], targets[some], level)
    return pd.DataFrame(
        {
            "slice": np.array(names)[some],
            "targets": targets[some],
            "recall": found[some] / targets[some],
            "low": low,
            "high": high,
        }
    )
