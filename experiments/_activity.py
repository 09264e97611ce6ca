"""How good a row is for users with short and with long histories."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from _markdown import markdown, number

from recsys.evaluation.intervals import over_seeds
from recsys.evaluation.slices import history_slices

METRIC = "NDCG@10"

Content = dict[str, Any]


def by_activity(judgements: Sequence[Any]) -> list[Content]:
    """`METRIC` over the seeds for each slice of users by the length of their histories, shortest first.

    Args:
        judgements: a `_results.Judgement` for each seed, of the same requests.
    """
    slices = []
    for name, chosen in history_slices(judgements[0].history_length):
        values = [judged.metrics[METRIC][chosen] for judged in judgements]
        if chosen.any() and not np.isnan(values[0]).all():
            found = over_seeds([float(np.nanmean(of_seed)) for of_seed in values])
            sd = None if len(values) == 1 else found.sd
            slices.append({"slice": name, "requests": int(chosen.sum()), "mean": found.mean, "sd": sd})
    return slices


def activity_table(rows: Sequence[Content], task: str) -> str:
    """A line for each slice, a column for each row that has slices of a task; empty where none has."""
    having = [row for row in rows if task in row.get("activity", {})]
    if not having:
        return ""
    names = [(found["slice"], found["requests"]) for found in having[0]["activity"][task]]
    by_row = [{found["slice"]: found for found in row["activity"][task]} for row in having]
    lines = []
    for name, requests in names:
        best = max((found[name]["mean"] for found in by_row if name in found), default=None)
        cells = [number(found.get(name), name in found and found[name]["mean"] == best) for found in by_row]
        lines.append([name, f"{requests:,}", *cells])
    return markdown(["events before", "requests", *(row["model"] for row in having)], lines)
