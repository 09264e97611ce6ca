"""Where a model is good: by popularity of the item to be found, and by length of the user's history."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import norm

from recsys.evaluation.exposure import GROUPS, group_of_decile
from recsys.evaluation.intervals import bootstrap
from recsys.evaluation.metrics import check_cut_offs
from recsys.evaluation.result import Evaluation

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


def by_history_length(
    evaluation: Evaluation, metric: str, edges: Sequence[int] = (5, 10, 20, 50), level: float = 0.95
) -> pd.DataFrame:
    """A per-user metric by length of the history.

    Args:
        evaluation: the evaluation.
        metric: name of the metric.
        edges: first length of each slice but the first, ascending.
        level: of the bootstrap intervals.

    Returns:
        One row per slice that has users: `slice, users, value, low, high`.

    Raises:
        ValueError: the evaluation has no such metric.
    """
    if metric not in evaluation.metrics:
        raise ValueError(f"no metric `{metric}`; there are {', '.join(evaluation.metrics)}")
    values = evaluation.metrics[metric]
    defined = ~np.isnan(values)
    place = np.searchsorted(edges, evaluation.history_length, side="right")
    bounds = [0, *edges]
    names = [f"{low}-{high - 1}" for low, high in zip(bounds, edges, strict=False)] + [f"{bounds[-1]}+"]
    rows = []
    for index, name in enumerate(names):
        chosen = defined & (place == index)
        if chosen.any():
            interval = bootstrap({metric: values[chosen]}, level=level)[metric]
            rows.append((name, interval.users, interval.mean, interval.low, interval.high))
    return pd.DataFrame(rows, columns=["slice", "users", "value", "low", "high"])


def _recall(
    evaluation: Evaluation, place: NDArray[np.int8], names: Sequence[str], k: int, level: float
) -> pd.DataFrame:
    check_cut_offs([k], evaluation.ranked.shape[1])
    rank = evaluation.targets.rank
    targets = np.bincount(place, minlength=len(names))
    found = np.bincount(place[(rank > 0) & (rank <= k)], minlength=len(names))
    some = targets > 0
    n, share = targets[some], found[some] / targets[some]
    z = norm.ppf((1 + level) / 2)
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * np.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    return pd.DataFrame(
        {
            "slice": np.array(names)[some],
            "targets": n,
            "recall": share,
            # The interval holds the share; at 0 and at 1 rounding may put its end a hair beyond.
            "low": np.clip(middle - half, 0.0, share),
            "high": np.clip(middle + half, share, 1.0),
        }
    )
