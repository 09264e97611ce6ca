"""The part of the page of results that a search log has: a table for each task, and how candidates are ranked."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from _markdown import markdown, number
from _ranking import NEGATIVES, USERS
from _row import SEARCH_BASELINES
from _slices import METRIC, activity_table, cold_table

Content = dict[str, Any]
TASKS = ("search", "recommendation")
STAGES = {"": "retrieval", "/ranked": "ranked"}
COLUMNS = ("Recall@10", "Recall@50", "NDCG@10", "MRR@50")
OF_CANDIDATES = ("AUC", "NDCG@10")
CHOSEN_BY = "NDCG@10"
ROTARY = "rotary_"
COMPARED = {
    "": "retrieval, NDCG@10",
    "/ranked": "ranked, NDCG@10",
    **{f"/candidates_{n}": f"candidates among {n}, AUC" for n in NEGATIVES},
}
"""What follows the task in a label -> how a comparison is named; the metric stands last."""

WORDS_OF_THE_BOUGHT = (
    "**The queries are synthetic: nobody typed them.** They are words of the item that was bought, with noise, for "
    "three purchases in ten, drawn by a seed (`experiments/search_logs.py`); the purchases are real. What a model "
    "gains from these queries says that it can read them, not how people search."
)
SYNTHETIC = {
    "search_beauty": WORDS_OF_THE_BOUGHT,
    "search_sports": WORDS_OF_THE_BOUGHT,
    "search_cellphones": "**The queries are synthetic: nobody typed them.** They are the category paths of products, "
    "as published with the source; every purchase answered one. The purchases are real, but their order is that of a "
    "file and says nothing of time. The words of an item are the queries by which it was bought in the source's "
    "training rows: a held-out purchase of these rows has lent its item words too.",
}


def search_part(dataset: str, rows: Sequence[Content]) -> list[str]:
    """What stands under the heading of a data set and protocol.

    Args:
        dataset: its name.
        rows: the JSONs of its table.
    """
    rotary = [row for row in rows if row["model"].startswith(ROTARY)]
    main = [row for row in rows if row not in rotary]
    tasks = [task for task in TASKS if any(task in row["requests"] for row in rows)]
    parts = [SYNTHETIC.get(dataset, "The queries are synthetic."), _notes(main)]
    for task in tasks:
        requests = max(row["requests"].get(task, 0) for row in rows)
        parts += [f"#### {dataset}: {task}, {requests:,} requests", _lists(main, task), *_comparisons(main, task)]
        parts += [*_by_activity(main, task), *_cold_items(main, task)]
    parts += [f"#### {dataset}: ranking of candidates", CANDIDATES]
    parts += [part for task in tasks for part in (f"Task {task}:", _candidates(main, task))]
    if rotary:
        beside = [row for row in main if row["model"] == "synergen"]
        parts += [f"#### {dataset}: ablation of rotary embeddings", "`synergen` has SplitByDim."]
        parts += [part for task in tasks for part in (f"Task {task}:", _lists([*beside, *rotary], task))]
    return parts


def _by_activity(rows: Sequence[Content], task: str) -> Iterable[str]:
    """The recipe and what it is compared with, by activity of the user."""
    recipe = next((row for row in rows if row["model"] == "synergen"), None)
    if recipe is not None:
        beside = recipe.get("comparisons", {}).keys() | SEARCH_BASELINES.keys()
        table = activity_table([recipe, *(row for row in rows if row["model"] in beside)], task)
        if table:
            yield f"{METRIC} of retrieval by activity of the user:"
            yield table


def _cold_items(rows: Sequence[Content], task: str) -> Iterable[str]:
    """What rows find of items that training does not know."""
    if table := cold_table(rows, task):
        requests = max(row["cold"][task]["requests"] for row in rows if task in row.get("cold", {}))
        yield f"The {requests:,} of these requests whose item has no training event:"
        yield table


CANDIDATES = (
    f"One item to be found among {' or '.join(map(str, NEGATIVES))} drawn with equal chances, for at most {USERS:,} "
    "users a task, the same for every model. Such numbers depend on how many are drawn, and may order models "
    "otherwise than the whole catalogue does (Krichene and Rendle, KDD 2020)."
)


def _notes(rows: Iterable[Content]) -> str:
    """What each row is."""
    noted = [(row["model"], row["settings"]["note"]) for row in rows if row["settings"]["note"]]
    first = (
        "The recipe is `synergen`; the others are the recipe with one part changed. `ranked` is what the ranking made "
    )
    lines = [f"- `{model}`: {note}" for model, note in sorted(noted, key=lambda pair: pair[0] != "synergen")]
    return f"{first}of the best that were retrieved.\n\n" + "\n".join(lines)


def _lists(rows: Sequence[Content], task: str) -> str:
    """One line for each model and stage, the best first."""
    found = [(row, f"{task}{stage}") for row in rows for stage in STAGES if f"{task}{stage}" in row["requests"]]
    best = {name: max(_mean(row, label, name) for row, label in found) for name in COLUMNS}
    lines = []
    for row, label in sorted(found, key=lambda pair: -_mean(*pair, CHOSEN_BY)):
        numbers = (number(_metric(row, label, name), _mean(row, label, name) == best[name]) for name in COLUMNS)
        cost = f"{row['wall_s']:,.1f}", f"{row['peak_rss_mib']:,.0f}"
        stage = STAGES[label.removeprefix(task)]
        lines.append([_name(row), stage, *numbers, ", ".join(map(str, row["seeds"])), *cost])
    return markdown(["model", "lists", *COLUMNS, "seeds", "wall s", "peak MiB"], lines)


def _candidates(rows: Sequence[Content], task: str) -> str:
    """One line for each model, the best by the larger number of drawn items first."""
    labels = [f"{task}/candidates_{n}" for n in NEGATIVES]
    found = sorted(
        (row for row in rows if set(labels) <= row["requests"].keys()), key=lambda row: -_mean(row, labels[-1], "AUC")
    )
    cells = [(label, name) for label in labels for name in OF_CANDIDATES]
    best = {cell: max((_mean(row, *cell) for row in found), default=0.0) for cell in cells}
    lines = [
        [_name(row), *(number(_metric(row, *cell), _mean(row, *cell) == best[cell]) for cell in cells)] for row in found
    ]
    return markdown(["model", *(f"{name}, {n} drawn" for n in NEGATIVES for name in OF_CANDIDATES)], lines)


def _comparisons(rows: Sequence[Content], task: str) -> Iterable[str]:
    """One sentence for each pair of rows, with what is known of it in a task."""
    lines = []
    for row in rows:
        pairs: dict[str, dict[str, Any]] = {}
        for label, found in row.get("baseline_comparisons", {}).items() if row["model"] == "synergen" else ():
            pairs.setdefault(f"{found['with']} (the strongest baseline)", {})[label] = found["metrics"]
        pairs |= row.get("comparisons", {})
        for other, labels in pairs.items():
            said = [
                _difference(words, labels[f"{task}{suffix}"])
                for suffix, words in COMPARED.items()
                if f"{task}{suffix}" in labels
            ]
            lines += [f"- {row['model']} less {other}: {'; '.join(said)}."] if said else []
        if task in row.get("stage_comparisons", {}):
            lines.append(
                f"- {row['model']}, {_difference('ranked less retrieved, NDCG@10', row['stage_comparisons'][task])}."
            )
    if lines:
        yield "Differences, with 95% intervals of a paired bootstrap over users:"
        yield "\n".join(lines)


def _difference(words: str, metrics: Content) -> str:
    found = metrics[words.rpartition(", ")[2]]
    difference = found["difference"]
    interval = f"[{difference['low']:+.4f}, {difference['high']:+.4f}]"
    return f"{words} {difference['mean']:+.4f} {interval}, p = {found['p_value']:.4f}"


def _name(row: Content) -> str:
    return f"{row['model']} (baseline)" if row["model"] in SEARCH_BASELINES else row["model"]


def _metric(row: Content, label: str, name: str) -> Content | None:
    return row["metrics"].get(f"{label}/{name}")


def _mean(row: Content, label: str, name: str) -> float:
    metric = _metric(row, label, name)
    return metric["mean"] if metric else -1.0
