"""From finished cells to the JSON of each table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

import numpy as np
from _dla_cells import Cell
from _results import spread

from recsys.evaluation.intervals import compare

Content = dict[str, Any]
Setting = tuple[str, float, str, int | None]
"""Of a row of a table: users, severity, production ranker, sessions."""


def table(wanted: Sequence[Cell], finished: Mapping[str, Content]) -> list[Content]:
    """A row for each setting and method of which a seed is finished.

    Args:
        wanted: the cells of the table.
        finished: content by the name of the cell.
    """
    rows: dict[Cell, list[Content]] = {}
    for cell in wanted:
        if cell.name in finished:
            rows.setdefault(replace(cell, seed=0), []).append(finished[cell.name])
    return [_row(row, contents, rows) for row, contents in rows.items()]


def _row(row: Cell, contents: Sequence[Content], rows: Mapping[Cell, Sequence[Content]]) -> Content:
    means = {name: [_mean(content, name) for content in contents] for name in contents[0]["metrics"]}
    against = {other: rows.get(replace(row, method=other)) for other in ("naive", "ipw_true") if other != row.method}
    return {
        **{name: value for name, value in asdict(row).items() if name != "seed"},
        "seeds": [content["cell"]["seed"] for content in contents],
        "metrics": {name: spread(values) for name, values in means.items()},
        "comparisons": {other: _compared(theirs, contents) for other, theirs in against.items() if theirs},
        **_propensities(contents),
        "position_r2": contents[0]["position_r2"],
        "parts": {
            name: spread([content["parts"][name] for content in contents])
            for name in contents[0]["parts"]
            if name.startswith("train/clipped")
        },
        "cpu_s_per_1000_steps": spread([1000 * c["cpu_seconds"] / c["size"]["steps"] for c in contents]),
    }


def _mean(content: Content, metric: str) -> float:
    return float(np.nanmean(_values(content, metric)))


def _values(content: Content, metric: str) -> np.ndarray:
    return np.array(content["metrics"][metric], dtype=np.float64)  # None, of a query without relevance, becomes NaN


def _compared(theirs: Sequence[Content], ours: Sequence[Content]) -> Content:
    """A paired bootstrap over the test queries, each query's value averaged over the seeds that both have."""
    common = sorted({c["cell"]["seed"] for c in theirs} & {c["cell"]["seed"] for c in ours})
    if not common:
        return {}
    sides = [
        {
            name: np.mean([_values(c, name) for c in side if c["cell"]["seed"] in common], axis=0)
            for name in ("NDCG@10", "ERR@10")
        }
        for side in (theirs, ours)
    ]
    return {"seeds": common} | {name: asdict(found) for name, found in compare(*sides).items()}


def _propensities(contents: Sequence[Content]) -> Content:
    """The mean curve, the truth, and the mean absolute log error, weighted by the clicks of each position."""
    truth = np.array(contents[0]["examined"])
    if contents[0]["propensities"] is None:
        return {"examined": truth.tolist()}
    curves = np.array([content["propensities"] for content in contents])
    logs, clicks = np.abs(np.log(curves / truth)), np.array(contents[0]["clicks"])
    return {
        "examined": truth.tolist(),
        "propensities": np.exp(np.log(curves).mean(0)).tolist(),
        "log_error": spread((logs * clicks).sum(1).tolist()),
        "relative_error": spread(np.abs(curves / truth - 1).mean(1).tolist()),
    }
