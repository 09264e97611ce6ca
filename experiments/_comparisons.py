"""Paired comparisons of the rows of a table: with the strongest baseline, and with the rows that they name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from _results import Judgement
from _row import BASELINES, SEARCH_BASELINES, Row

from recsys.evaluation.intervals import compare
from recsys.evaluation.result import RULES

COMPARED = ("AUC", "HR@10", "NDCG@10", "HR@50", "NDCG@50", "MRR@50")
CHOSEN_BY = "NDCG@10"
RANKED = "/ranked"
"""What follows the task in the label of lists that the second stage ordered."""
Pair = tuple[str, str]
"""Names of what is compared, and of what it is compared with."""


@dataclass(frozen=True)
class Finished:
    """A row whose runs are finished.

    Attributes:
        row: the row.
        content: of its JSON.
        judgements: label -> one for each run.
    """

    row: Row
    content: dict[str, Any]
    judgements: Mapping[str, Sequence[Judgement]]


def with_comparisons(table: Mapping[str, Finished]) -> list[dict[str, Any]]:
    """The JSON of each row with its comparisons: paired bootstraps over the test users, means over the seeds first.

    | key | of | compares with |
    | --- | --- | --- |
    | `comparison` | a row without tasks | the strongest baseline |
    | `baseline_comparisons` | a row with tasks, by label | the strongest baseline of the task |
    | `comparisons` | any row, by the other's name and by label | the rows that it is declared to stand `against` |
    | `stage_comparisons` | a row that ranks, by task | its own retrieval: ranked less retrieved |

    Args:
        table: the finished rows of one data set and protocol, by name.
    """
    baselines_run = [name for name in BASELINES | SEARCH_BASELINES if name in table]
    contents = {name: finished.content | {"baselines_run": baselines_run} for name, finished in table.items()}
    for label in sorted({label for finished in table.values() for label in finished.judgements}):
        having = [name for name in table if _of(table[name], label)]
        best = _strongest([table[name] for name in having if table[name].row.is_baseline], label)
        beside = [(name, best) for name in having if best and not table[name].row.is_baseline]
        against = [(name, other) for name in having for other in table[name].row.against if other in having]
        found = _compared(table, label, list(dict.fromkeys(beside + against)))
        for name, other in beside:
            comparison = {"with": other, "metrics": found[name, other]}
            if label:
                contents[name].setdefault("baseline_comparisons", {})[label] = comparison
            else:
                contents[name]["comparison"] = comparison
        for name, other in against:
            contents[name].setdefault("comparisons", {}).setdefault(other, {})[label] = found[name, other]
    for name, finished in table.items():
        if found := _stages(finished.judgements):
            contents[name]["stage_comparisons"] = found
    return list(contents.values())


def _stages(judgements: Mapping[str, Sequence[Judgement]]) -> dict[str, dict[str, Any]]:
    """By task, what the second stage of a row made of its first."""
    tasks = [label.removesuffix(RANKED) for label in judgements if label.endswith(RANKED)]
    found = {task: _paired({(RANKED, task): (judgements[f"{task}{RANKED}"], judgements[task])}) for task in tasks}
    return {task: metrics for task, by_pair in found.items() for metrics in by_pair.values()}


def _of(finished: Finished, label: str) -> Sequence[Judgement]:
    """The judgements of a row by a label; a baseline has one list for both stages, that of its retrieval."""
    plain = label.removesuffix(RANKED) if finished.row.is_baseline else label
    return finished.judgements.get(plain, ())


def _strongest(baselines: Sequence[Finished], label: str) -> str | None:
    """The name of the best baseline."""
    means = {b.row.model: np.mean([j.means[CHOSEN_BY] for j in _of(b, label)]) for b in baselines}
    return max(means, key=means.__getitem__, default=None)


def _compared(table: Mapping[str, Finished], label: str, pairs: Sequence[Pair]) -> dict[Pair, dict[str, Any]]:
    """The comparisons of pairs of rows by a label, by pair and metric.

    A search log has so many pairs that they share the draws of the bootstrap. A row without tasks has draws of its own:
    its numbers do not change with the rows beside it.
    """
    if not label and len(pairs) > 1:
        return {pair: found for alone in pairs for pair, found in _compared(table, label, [alone]).items()}
    judged = {(name, other): (_of(table[name], label), _of(table[other], label)) for name, other in pairs}
    for (name, other), (ours, theirs) in judged.items():
        _check_alike(ours[0], theirs[0], f"{name} and {other}, {label or 'all requests'}")
    return _paired(judged)


def _paired(judged: Mapping[Pair, tuple[Sequence[Judgement], Sequence[Judgement]]]) -> dict[Pair, dict[str, Any]]:
    """The comparisons of pairs of judgements of the same users, by metric; all pairs share the draws."""
    first, second, users = {}, {}, None
    for number, (ours, theirs) in enumerate(judged.values()):
        users = ours[0].users
        for metric in COMPARED:
            if metric in ours[0].metrics:
                first[f"{number}/{metric}"] = np.mean([judgement.metrics[metric] for judgement in theirs], axis=0)
                second[f"{number}/{metric}"] = np.mean([judgement.metrics[metric] for judgement in ours], axis=0)
    found = compare(first, second, users=users) if judged else {}
    return {
        pair: {m: asdict(found[f"{number}/{m}"]) for m in COMPARED if f"{number}/{m}" in found}
        for number, pair in enumerate(judged)
    }


def _check_alike(ours: Judgement, theirs: Judgement, what: str) -> None:
    """Refuses to pair what was judged otherwise."""
    other = [rule for rule in RULES if ours.facts.get(rule) != theirs.facts.get(rule)]
    if other or not np.array_equal(ours.users, theirs.users):
        raise ValueError(f"{what}: judged by other {', '.join(other) or 'users'}; repeat the older one with `--again`")
