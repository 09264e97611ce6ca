"""Which items each request wants, and which of them are not asked for: seen ones and cold ones."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from recsys.evaluation.tasks import Part, Requests, Task
from recsys.features.jagged import JaggedColumn, offsets_of
from recsys.features.splits import GlobalTime, Ids, Split
from recsys.models.recommender import Recommender
from recsys.retrieval.topk import Jagged

ColdTargets = Literal["exclude", "miss"]

_BLOCK = 512
"""Requests whose histories and targets are laid out at a time."""


@dataclass(frozen=True)
class Relevance:
    """The items to be found by each request.

    Attributes:
        wanted: distinct items of each request, cold ones among them.
        judged: those of them that count.
        train_counts: `[n_items + 1]` int64, training events of each item.
        facts: the rules, and what was counted under them.
    """

    wanted: Jagged
    judged: Jagged
    train_counts: Ids
    facts: dict[str, Any]


def relevance(
    split: Split, which: Part, task: Task | None, asked: Requests, filter_seen: bool, cold_targets: ColdTargets | None
) -> Relevance:
    """Applies the rules of an evaluation to the targets of its requests.

    Args:
        split: the split.
        which: the part that the requests are of.
        task: their task.
        asked: the requests.
        filter_seen: an item of the history is not asked for.
        cold_targets: leave items without a training event out, or let them be misses; None: what the rule asks for.
    """
    if cold_targets is None:
        cold_targets = "exclude" if split.rule == GlobalTime.name else "miss"
    counts = split.train_counts()
    wanted, seen = _wanted(split, asked, filter_seen)
    judged = judged_targets(wanted, counts, cold_targets)
    facts = {
        "rule": split.rule,
        "split_hash": split.hash,
        "part": which,
        "task": task,
        "filter_seen": filter_seen,
        "cold_targets": cold_targets,
        "other_task_events": asked.other_task,
        "seen_targets": seen,
        "cold_users": int(split.facts[f"{which.split('_')[0]}_cold_users"]),
        **target_counts(asked.users, wanted, judged, counts),
    }
    return Relevance(wanted, judged, counts, facts)


def judged_targets(wanted: Jagged, counts: Ids, cold_targets: ColdTargets) -> Jagged:
    """Those of the items to be found that count.

    Args:
        wanted: distinct items of each request.
        counts: `[n_items + 1]` training events of each item.
        cold_targets: leave items without a training event out, or let them be misses.
    """
    return _where(wanted, torch.from_numpy(counts)[wanted.values] > 0) if cold_targets == "exclude" else wanted


def target_counts(users: Ids, wanted: Jagged, judged: Jagged, counts: Ids) -> dict[str, int]:
    """How many users, requests and targets there are, and how many of them count.

    Args:
        users: `[U]` int64, the user of each request.
        wanted: distinct items of each request.
        judged: those of them that count.
        counts: `[n_items + 1]` training events of each item.
    """
    answerable = (judged.offsets.diff() > 0).numpy()
    everybody, judged_users = len(np.unique(users)), len(np.unique(users[answerable]))
    return {
        "users": everybody,
        "judged_users": judged_users,
        "users_without_targets": everybody - judged_users,
        "requests": len(users),
        "judged_requests": int(answerable.sum()),
        "targets": len(judged.values),
        "cold_item_targets": int((counts[wanted.values.numpy()] == 0).sum()),
        "n_items": len(counts) - 1,
        "train_items": int((counts > 0).sum()),
    }


def check_catalogue(model: Recommender, split: Split) -> None:
    """Refuses a model that another log trained.

    Raises:
        ValueError: model and log have catalogues of different sizes.
    """
    if model.n_items != split.log.n_items:
        raise ValueError(
            f"the model knows {model.n_items} items and the log {split.log.n_items}: another log trained it"
        )


def distinct_pairs(items: JaggedColumn, stride: int) -> NDArray[np.int64]:
    """Distinct `row * stride + item` of jagged items, ascending."""
    return np.unique(np.repeat(np.arange(len(items)), items.lengths) * stride + items.values)


def _wanted(split: Split, asked: Requests, filter_seen: bool) -> tuple[Jagged, int]:
    """Distinct items of the targets, and how many of them the history holds (these left out if filtered)."""
    stride = split.log.n_items + 1
    kept, seen = [], 0
    for first in range(0, len(asked), _BLOCK):
        rows = np.arange(first, min(first + _BLOCK, len(asked)))
        pairs = distinct_pairs(asked.target_items(split.log, rows), stride)
        known = distinct_pairs(asked.history_items(split.log, rows), stride)
        again = np.isin(pairs, known, assume_unique=True)
        seen += int(again.sum())
        kept.append((pairs[~again] if filter_seen else pairs) + first * stride)
    flat = np.concatenate(kept)
    lengths = np.bincount(flat // stride, minlength=len(asked))
    return Jagged(torch.from_numpy(flat % stride), torch.from_numpy(offsets_of(lengths))), seen


def _where(table: Jagged, keep: Tensor) -> Jagged:
    """The entries at which `keep` is true."""
    before = torch.nn.functional.pad(keep.long().cumsum(0), (1, 0))
    return Jagged(table.values[keep], before[table.offsets])
