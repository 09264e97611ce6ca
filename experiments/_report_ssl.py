"""The part of the page of results that says what self-supervised terms add, and its two pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from _markdown import markdown, number
from _row import FEATURE_DATASETS, STRICT
from _rows_ssl import BASE, METHODS, MODELS

from recsys.evaluation import plots
from recsys.evaluation.intervals import wilson

Content = dict[str, Any]
GROUPS = ("head", "torso", "tail", "cold")
METRICS = ("NDCG@10", "HR@10")
NAMES = {"HR@10": "Recall@10"}
"""Each user has one item to be found, so that both are the same."""
DRAWN = (BASE, "spread_out", "rfm", "cfm")
FEW = plots.FEW
EXPLAINED = (
    "What learning items from their features adds to the task, for two models. Head is the tenth of the items with the "
    "most training events, tail has at most 5 of them, cold none, torso is the rest. These lines move with the share "
    "of the users that train: compare methods within a table. A group of fewer than "
    f"{FEW} targets is left out. All trainings of a data set have the same number of steps at most."
)


def feature_part(dataset: str, rows: Sequence[Content]) -> list[str]:
    """What stands under the heading of a data set and protocol.

    Args:
        dataset: its name.
        rows: the JSONs of its table.
    """
    parts = [EXPLAINED, _notes()]
    for model in MODELS:
        found = {row["model"].removeprefix(f"{model}_"): row for row in rows if row["model"].startswith(f"{model}_")}
        ordered = {name: found[name] for name in METHODS if name in found}
        if ordered:
            parts += [f"#### {dataset}: {model}", _table(ordered), *_differences(model, ordered)]
    return parts


def _notes() -> str:
    return "\n".join(f"- `{name}`: {method.note}" for name, method in METHODS.items())


def _shown(rows: Mapping[str, Content]) -> list[str]:
    """The groups that have enough targets, which are the same for all rows of a table."""
    groups = next(iter(rows.values()))["groups"]
    return [name for name in GROUPS if groups.get(name, {"targets": 0})["targets"] >= FEW]


def _table(rows: Mapping[str, Content]) -> str:
    """One line for each method; the best of each column in bold."""
    shown, first = _shown(rows), next(iter(rows.values()))["groups"]
    cells = {
        name: [*(row["metrics"][metric] for metric in METRICS), *(row["groups"][group] for group in shown)]
        for name, row in rows.items()
    }
    best = [max(column, key=lambda cell: cell["mean"])["mean"] for column in zip(*cells.values(), strict=True)]
    head = [NAMES.get(metric, metric) for metric in METRICS]
    head += [f"Recall@10, {group} ({first[group]['targets']:,})" for group in shown]
    lines = [
        [
            name,
            *(number(cell, cell["mean"] == top) for cell, top in zip(cells[name], best, strict=True)),
            ", ".join(map(str, row["seeds"])),
            f"{row['wall_s']:,.1f}",
        ]
        for name, row in rows.items()
    ]
    return markdown(["method", *head, "seeds", "wall s"], lines)


def _differences(model: str, rows: Mapping[str, Content]) -> Iterable[str]:
    """One line for each method with its differences to the base."""
    base, shown, lines = f"{model}_{BASE}", _shown(rows), []
    for name, row in rows.items():
        if base in row.get("comparisons", {}):
            overall, by_group = row["comparisons"][base][""], row["group_comparisons"][base]
            cells = [_difference(overall[metric]) for metric in METRICS]
            lines.append([name, *cells, *(_difference(by_group[group]) for group in shown)])
    if lines:
        yield f"Less `{BASE}`, with 95% intervals of a paired bootstrap over users (means over the seeds first):"
        yield markdown(["method", *(NAMES.get(m, m) for m in METRICS), *(f"{group}" for group in shown)], lines)


def _difference(found: Content) -> str:
    difference = found["difference"]
    return f"{difference['mean']:+.4f} [{difference['low']:+.4f}, {difference['high']:+.4f}]"


def draw(rows: Sequence[Content], folder: Path) -> list[Path]:
    """Draws recall by popularity and effective rank by epoch of the first log that has results.

    Args:
        rows: JSONs of any rows.
        folder: of the pictures.

    Returns:
        What was written; nothing where there are no results.
    """
    for dataset in (FEATURE_DATASETS[1], FEATURE_DATASETS[2], FEATURE_DATASETS[0]):
        for model in MODELS:
            names = {f"{model}_{name}": name for name in DRAWN}
            found = [r for r in rows if r["dataset"] == dataset and r["protocol"] == STRICT and r["model"] in names]
            if len(found) > 1:
                found.sort(key=lambda row: list(names).index(row["model"]))
                return _draw({names[row["model"]]: row for row in found}, f"{dataset}, {model}", folder)
    return []


def _draw(rows: Mapping[str, Content], what: str, folder: Path) -> list[Path]:
    recalls = {name: _recalls(row["deciles"]) for name, row in rows.items()}
    ranks = {
        f"{name}, {side}": pd.Series(np.mean(row["effective_rank"][side], axis=0), row["effective_rank"]["epochs"])
        for side in ("items", "users")
        for name, row in rows.items()
    }
    figures = {
        "ssl_recall_by_popularity.png": plots.recall_by_popularity(recalls, 10, title=f"Recall@10, {what}"),
        "ssl_effective_rank.png": plots.effective_ranks(ranks, title=f"Effective rank, {what}"),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, figure in figures.items():
        unfinished = folder / f".{name}"
        figure.savefig(unfinished, dpi=150, format="png")
        unfinished.replace(folder / name)
    return [folder / name for name in figures]


def _recalls(deciles: Mapping[str, Content]) -> pd.DataFrame:
    """As `slices.recall_by_decile` gives them; the interval is that of one seed's targets around the mean."""
    frame = pd.DataFrame([{"slice": name} | found for name, found in deciles.items()])
    low, high = wilson((frame["recall"] * frame["targets"]).to_numpy(), frame["targets"].to_numpy(), 0.95)
    return frame.assign(low=low, high=high)
