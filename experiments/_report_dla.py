"""The part of the page of results that tells of learning from clicks that are biased by position."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from _markdown import markdown, number

Content = dict[str, Any]
FOLDER = "dual_learning"
METRICS = ("NDCG@1", "NDCG@3", "NDCG@5", "NDCG@10", "ERR@10")
TITLES = {
    "severity": (
        "methods by severity of position bias",
        "Users examine position i with chance rho_i to the power of the severity. `ipw_true` knows rho, `ipw_random` "
        "estimates it from shuffled lists, `labels` learns from the true grades of the shown documents and needs no "
        "severity.",
    ),
    "ranker": (
        "production rankers and numbers of sessions",
        "At severity 1. `R²` is how much of the shown position the features tell; sessions without a click count.",
    ),
    "users": (
        "users who do not fit the model",
        "Trust bias, browsing and cascade, at severity 1. Propensities depend on the position alone, which these users "
        "do not; `ipw_true` knows the mean chance of each position.",
    ),
    "switch": (
        "position bias that grows in mid-training",
        "Dual learning with one optimizer for both parts; in the middle of the training users become those of severity "
        "2, by which the end is judged.",
    ),
    "slates": (
        "slates of films",
        "SynerGen's ranking head beside retrieval, on logged slates over the histories of MovieLens-100K. The grades "
        "are those of the matrix factorization that completes the ratings; the production ranker orders films by "
        "popularity and noise. Users without slates are tested, on lists of random films. `R²` is how "
        "much of the shown position the places of a film in other slates tell.",
    ),
    "ltr": (
        "the learning-to-rank example of LightGBM",
        "201 training and 50 test queries with real features and grades. Ten training queries train the production "
        "ranker, a linear one, forty are clicked for validation, and the others for training: a ranker is judged at "
        "the step whose order of the validation lists has most of the clicks at the top, each divided by the "
        "propensity that its method found. `labels` is validated by grades.",
    ),
}


def dual_learning_part(results: Path) -> list[str]:
    """The section, if there are results.

    Args:
        results: the folder of all results.
    """
    tables = {name: json.loads(path.read_text(encoding="utf-8")) for name, path in _paths(results).items()}
    if not tables:
        return []
    parts = [
        "## Clicks biased by position",
        "Simulated sessions over lists with known grades, of synthetic queries where nothing else is said; the "
        "production ranker shows ten documents, and all of the test lists are ranked and judged by their true grades. "
        "Mean ± standard deviation over seeds; brackets hold 95 % intervals of a paired bootstrap over the test lists. "
        "Lists without a click are left out, but for `regression_em`.",
    ]
    for name, content in tables.items():
        title, meaning = TITLES[name]
        parts += [f"### {title}", meaning, _scores(content["rows"]), _curves(content["rows"]), _course(content["rows"])]
    parts += [f"![{path.stem}]({FOLDER}/{path.name})" for path in sorted((results / FOLDER).glob("*.png"))]
    machine = next(iter(tables.values()))["machine"]
    commands = "\n".join(dict.fromkeys(content["command"] for content in tables.values()))
    parts += [f"{machine['cpu']}, {machine['cores']} cores:\n\n```console\n{commands}\n```"]
    return list(filter(None, parts))


def _paths(results: Path) -> dict[str, Path]:
    found = {name: results / FOLDER / f"{name}.json" for name in TITLES}
    return {name: path for name, path in found.items() if path.exists()}


def _setting(row: Content) -> list[str]:
    sessions = "fresh" if row["sessions"] is None else f"{row['sessions']:,}"
    severity = "any" if row["method"] == "labels" else f"{row['eta']:g}"
    return [row["users"], severity, f"{row['ranker']} ({row['position_r2']:.2f})", sessions, row["method"]]


HEAD = ["users", "severity", "production ranker (R²)", "sessions", "method"]


def _scores(rows: Sequence[Content]) -> str:
    """Metrics of each row, its differences, and its cost."""
    lines = [
        [
            *_setting(row),
            *(number(row["metrics"][name]) for name in METRICS),
            *(_difference(row["comparisons"].get(other)) for other in ("naive", "ipw_true")),
            f"{row['cpu_s_per_1000_steps']['mean']:.1f}",
            str(len(row["seeds"])),
        ]
        for row in rows
    ]
    compared = ["NDCG@10 less naive", "NDCG@10 less ipw_true"]
    return markdown([*HEAD, *METRICS, *compared, "CPU s / 1,000 steps", "seeds"], lines)


def _difference(comparison: Content | None) -> str:
    if not comparison:
        return ""
    found = comparison["NDCG@10"]
    ends = f"[{found['difference']['low']:+.4f}, {found['difference']['high']:+.4f}]"
    return f"{found['difference']['mean']:+.4f} {ends}, p = {found['p_value']:.4f}"


def _curves(rows: Sequence[Content]) -> str:
    """Propensities of each row beside the true ones, and how far they are off."""
    lines: list[list[str]] = []
    shown = set()
    for row in rows:
        if "propensities" not in row or row["method"] == "ipw_true":
            continue
        setting = tuple(_setting(row)[:4])
        if setting not in shown:
            shown.add(setting)
            lines.append([*setting, "truth", *(f"{value:.3f}" for value in row["examined"][1:]), "", ""])
        curve = [f"{value:.3f}" for value in row["propensities"][1:]]
        lines.append([*setting, row["method"], *curve, number(row["log_error"]), number(row["relative_error"])])
    if not lines:
        return ""
    positions = [str(position) for position in range(2, len(lines[0]) - len(HEAD))]
    table = markdown([*HEAD, *positions, "log error, by clicks", "relative error"], lines)
    return f"Examination against position 1:\n\n{table}"


def _course(rows: Sequence[Content]) -> str:
    """Propensities along a training whose users change."""
    lines = [
        [row["method"], f"{look['step']:,}", *(f"{value:.3f}" for value in look[name][1:]), error]
        for row in rows
        for look in row.get("followed", [])
        for name, error in (("truth", ""), ("propensities", f"{look['log_error']:.4f}"))
    ]
    if not lines:
        return ""
    positions = [str(position) for position in range(2, len(lines[0]) - 1)]
    table = markdown(["method", "step", *positions, "log error, by clicks"], lines)
    return f"Along the training, the truth above what was found:\n\n{table}"
