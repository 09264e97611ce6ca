"""How good a row is for users with short and with long histories, and at finding items that training does not know."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from _markdown import markdown, number

from recsys.evaluation.intervals import over_seeds
from recsys.evaluation.slices import history_slices

METRIC = "NDCG@10"
OF_COLD_ITEMS = ("HR@10", "HR@50")
NAMES = {"HR@10": "Recall@10", "HR@50": "Recall@50"}
"""Each of these requests has one item to be found, so that both are the same."""

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


def of_cold_items(judgements: Sequence[Any]) -> Content | None:
    """`OF_COLD_ITEMS` over the seeds for requests of items without training events; None where there are none.

    Args:
        judgements: a `_results.Judgement` for each seed, of the same requests.
    """
    cold = judgements[0].cold
    if not cold.any():
        return None
    metrics = {}
    for metric in OF_COLD_ITEMS:
        found = over_seeds([float(judged.metrics[metric][cold].mean()) for judged in judgements])
        metrics[metric] = {"mean": found.mean, "sd": None if len(judgements) == 1 else found.sd}
    return {"requests": int(cold.sum()), **metrics}


def cold_table(rows: Sequence[Content], task: str) -> str:
    """A line for each row that has requests of cold items in a task; empty where none has."""
    having = [row for row in rows if task in row.get("cold", {})]
    best = {m: max((row["cold"][task][m]["mean"] for row in having), default=0.0) for m in OF_COLD_ITEMS}
    lines = [
        [row["model"], *(number(row["cold"][task][m], row["cold"][task][m]["mean"] == best[m]) for m in OF_COLD_ITEMS)]
        for row in sorted(having, key=lambda row: -row["cold"][task][OF_COLD_ITEMS[-1]]["mean"])
    ]
    return markdown(["model", *(NAMES[metric] for metric in OF_COLD_ITEMS)], lines) if lines else ""


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
