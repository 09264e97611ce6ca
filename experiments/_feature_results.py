"""What rows of logs with more features are told apart by: recall of popular and of rare items, and effective rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from _results import spread
from _runs import Run
from numpy.typing import NDArray

from recsys.evaluation.diagnostics import rank_curves
from recsys.evaluation.exposure import GROUPS, group_of_events
from recsys.evaluation.intervals import compare
from recsys.evaluation.result import Evaluation
from recsys.evaluation.slices import recall_by_decile
from recsys.tracking.run_folder import RunFolder

K = 10
Content = dict[str, Any]


def with_groups(contents: Sequence[Content], runs: Mapping[str, Sequence[Run]]) -> list[Content]:
    """The JSON of each row with what its runs found of items that are popular, rare, and unknown to training.

    | key | what |
    | --- | --- |
    | `groups` | of each group of `group_of_events`: its targets, and recall at 10 over the seeds |
    | `deciles` | of each decile of popularity: its targets and mean recall at 10 |
    | `group_comparisons` | by the other row's name and by group: paired bootstrap of recall, seeds averaged first |
    | `effective_rank` | of item and user vectors: epochs, and one list of values for each seed |

    Args:
        contents: of one data set and protocol.
        runs: of each row by name, one for each seed.
    """
    found = {content["model"]: _evaluations(runs[content["model"]]) for content in contents}
    counts = _counts(next(iter(runs.values()))[0])
    recalls = {
        model: [recall_by_row(evaluation, counts) for evaluation in evaluations] for model, evaluations in found.items()
    }
    out = []
    for content in contents:
        model = content["model"]
        compared = {
            other: _compared(recalls[model], recalls[other], found[model][0].users)
            for other in content.get("comparisons", {})
        }
        out.append(
            content
            | {
                "groups": _groups(recalls[model]),
                "deciles": _deciles(found[model]),
                "effective_rank": _ranks(runs[model]),
            }
            | ({"group_comparisons": compared} if compared else {})
        )
    return out


def recall_by_row(evaluation: Evaluation, counts: NDArray[np.integer]) -> dict[str, NDArray[np.float64]]:
    """Share of the targets of each request that are found within 10, by group; NaN where it has none of the group.

    Args:
        evaluation: U requests.
        counts: `[n_items + 1]` training events of each item.

    Returns:
        `[U]` for each of `GROUPS`.
    """
    targets, n = evaluation.targets, len(evaluation.users)
    group, hit = group_of_events(counts)[targets.item], (targets.rank > 0) & (targets.rank <= K)
    recalls = {}
    for index, name in enumerate(GROUPS):
        there = np.bincount(targets.row[group == index], minlength=n)
        hits = np.bincount(targets.row[(group == index) & hit], minlength=n)
        recalls[name] = np.where(there > 0, hits / np.maximum(there, 1), np.nan)
    return recalls


def _evaluations(runs: Sequence[Run]) -> list[Evaluation]:
    return [RunFolder(run.folder).evaluations()[0] for run in runs]


def _counts(run: Run) -> NDArray[np.int64]:
    folder = RunFolder(run.folder)
    return folder.split(folder.log()).train_counts()


def _groups(of_seeds: Sequence[Mapping[str, NDArray[np.float64]]]) -> dict[str, Content]:
    groups = {}
    for name in GROUPS:
        defined = ~np.isnan(of_seeds[0][name])
        if defined.any():
            means = [float(recalls[name][defined].mean()) for recalls in of_seeds]
            groups[name] = {"targets": int(defined.sum()), **spread(means)}
    return groups


def _deciles(evaluations: Sequence[Evaluation]) -> dict[str, Content]:
    frames = [recall_by_decile(evaluation, K).set_index("slice") for evaluation in evaluations]
    recall = sum(frame["recall"] for frame in frames) / len(frames)
    targets = frames[0]["targets"]
    return {name: {"targets": int(targets[name]), "recall": float(recall[name])} for name in targets.index}


def _compared(
    ours: Sequence[Mapping[str, NDArray[np.float64]]],
    theirs: Sequence[Mapping[str, NDArray[np.float64]]],
    users: NDArray[np.int64],
) -> dict[str, Content]:
    found = {}
    for name in GROUPS:
        if not np.isnan(ours[0][name]).all():
            first, second = ({name: np.mean([r[name] for r in of_seeds], axis=0)} for of_seeds in (theirs, ours))
            found[name] = asdict(compare(first, second, users=users)[name])
    return found


def _ranks(runs: Sequence[Run]) -> Content:
    """As far as all seeds were trained."""
    curves = [rank_curves(RunFolder(run.folder).history("diagnostics")) for run in runs]
    epochs = sorted(set.intersection(*(set(of_run["items"].index) for of_run in curves)))
    return {"epochs": epochs} | {
        side: [of_run[side][epochs].tolist() for of_run in curves] for side in ("items", "users")
    }
