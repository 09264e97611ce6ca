"""The part of the page of results about models that are judged on items shown at random."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from _markdown import markdown, number

RANDOM_TEST = "random_test"
MEANING = (
    "Trained on what users chose to rate, judged on the items that were shown to them at random, and on these alone: "
    "users who liked none of them count 0. The epoch is chosen by a validation that weighs items by inverse "
    "popularity, whose value stands last."
)
COLUMNS = ("NDCG@1", "NDCG@3", "NDCG@5", "Recall@5", "MAP@3", "MAP@5", "Rare NDCG@5", "Popularity@5", "Coverage@5")
DIFFERENCES = ("NDCG@1", "NDCG@3", "NDCG@5", "MAP@5")
CHOSEN_BY = "NDCG@5"


def random_test_part(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A table of all methods, the best first, and one of their differences from the one they are compared with."""
    rows = sorted(rows, key=lambda row: -row["metrics"][CHOSEN_BY]["mean"])
    lines = [
        [
            row["model"],
            *(number(row["metrics"].get(name)) for name in COLUMNS),
            str(len(row["seeds"])),
            f"{row['wall_s']:,.1f}",
            number(row.get("validation")),
        ]
        for row in rows
    ]
    parts = [MEANING, markdown(["method", *COLUMNS, "seeds", "wall s", "validation"], lines)]
    compared = [row for row in rows if "comparison" in row]
    if compared:
        differences = [
            [row["model"], *(_difference(row["comparison"]["metrics"][n]) for n in DIFFERENCES)] for row in compared
        ]
        others = ", ".join(sorted({row["comparison"]["with"] for row in compared}))
        parts += [
            f"Differences from {others}, with 95 % intervals and p-values of a paired bootstrap over users and seeds:",
            markdown(["method", *DIFFERENCES], differences),
        ]
    named = [
        [row["model"], other, *(_difference(metrics[n]) for n in DIFFERENCES)]
        for row in rows
        for other, metrics in row.get("comparisons", {}).items()
    ]
    if named:
        parts += [
            "Differences from the methods that a method names itself, likewise:",
            markdown(["method", "less", *DIFFERENCES], named),
        ]
    return parts


def _difference(found: dict[str, Any]) -> str:
    difference = found["difference"]
    interval = f"[{difference['low']:+.4f}, {difference['high']:+.4f}]"
    return f"{difference['mean']:+.4f} {interval}, p = {found['p_value']:.4f}"
