"""Judges a model on a split: ranks the whole catalogue for every user and says where the right items stand."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from recsys.evaluation.exposure import exposure_metrics, popularity_deciles
from recsys.evaluation.metrics import check_cut_offs, debiased_metrics, find_targets, target_metrics
from recsys.evaluation.result import Evaluation, TargetTable
from recsys.features.batching import histories
from recsys.features.jagged import expand_ranges, offsets_of
from recsys.features.splits import EvaluationSet, GlobalTime, Split
from recsys.models.recommender import Recommender, VectorRecommender
from recsys.retrieval.topk import BUDGET_BYTES, Jagged, Ranker

Part = Literal["test", "validation", "test_cold_users", "validation_cold_users"]
ColdTargets = Literal["exclude", "miss"]


def evaluate(
    model: Recommender,
    split: Split,
    *,
    which: Part = "test",
    ks: Sequence[int] = (10, 50),
    max_length: int | None = None,
    filter_seen: bool = True,
    cold_targets: ColdTargets | None = None,
    batch_users: int = 512,
    top: int = 100,
    tie_seed: int = 0,
    beta: float = 0.5,
    name: str | None = None,
) -> Evaluation:
    """Ranks the whole catalogue for every user of a part of a split.

    An item to be found counts once per user, however often it occurs. With `filter_seen` an item of the history is
    never recommended, so it is not asked for either. A cold item (no training event) is left out under `global_time`,
    where no model that knows items by id can name it, and is a miss under the other rules, as in published numbers;
    both kinds are counted in the facts, and the target table keeps cold items. The time of a request is the time of
    the user's first event to be found.

    Memory: one batch of histories, one block of scores, and `U * top * 4` bytes of lists.

    Args:
        model: a fitted or trained model; a module in training mode is put in evaluation mode meanwhile.
        split: the split it was trained on.
        which: the part to judge on.
        ks: cut-offs of the metrics.
        max_length: events of a history that the model is given, the newest ones; None: all. The filter knows all.
        filter_seen: whether items of the history are kept out of the lists.
        cold_targets: leave cold items out, or let them be misses; None: what the rule asks for.
        batch_users: histories given to the model at a time; fewer where a matrix of all scores would be too large.
        top: length of the lists kept.
        tie_seed: decides among equal scores.
        beta: exponent of the propensities of the debiased metrics; see `metrics.propensities`.
        name: of the model, to print; None: its class.

    Raises:
        ValueError: the part is empty, a cut-off exceeds `top`, or model and log have different catalogues.
    """
    check_cut_offs(ks, top)
    started = time.perf_counter()
    part: EvaluationSet = getattr(split, which)
    if not len(part):
        raise ValueError(f"split `{split.rule}` has no user in `{which}`: there is nothing to judge")
    if model.n_items != split.log.n_items:
        raise ValueError(
            f"the model knows {model.n_items} items and the log {split.log.n_items}: another log trained it"
        )
    if cold_targets is None:
        cold_targets = "exclude" if split.rule == GlobalTime.name else "miss"
    with _evaluation_mode(model):
        ranked = _rank(model, split, part, max_length, filter_seen, batch_users, top, tie_seed)
    counts = split.train_counts()
    table, seen = _targets(split, part, filter_seen, batch_users)
    cold = torch.from_numpy(counts)[table.values] == 0
    everything = find_targets(torch.from_numpy(ranked), table)
    relevant = _where(table, ~cold) if cold_targets == "exclude" else table
    targets = find_targets(torch.from_numpy(ranked), relevant)
    metrics = target_metrics(targets, ks) | debiased_metrics(targets, torch.from_numpy(counts), ks, beta)
    seconds = time.perf_counter() - started
    judged = int((relevant.offsets.diff() > 0).sum())
    facts = {
        "rule": split.rule,
        "split_hash": split.hash,
        "part": which,
        "filter_seen": filter_seen,
        "cold_targets": cold_targets,
        "max_length": max_length,
        "top": top,
        "ks": list(ks),
        "tie_seed": tie_seed,
        "beta": beta,
        "users": len(part),
        "judged_users": judged,
        "users_without_targets": len(part) - judged,
        "targets": len(relevant.values),
        "seen_targets": seen,
        "cold_item_targets": int(cold.sum()),
        "cold_users": int(split.facts[f"{which.split('_')[0]}_cold_users"]),
        "n_items": model.n_items,
        "train_items": int((counts > 0).sum()),
        "short_lists": int((ranked[:, -1] == 0).sum()),
        "seconds": seconds,
        "users_per_s": len(part) / seconds,
    }
    return Evaluation(
        model=name or type(model).__name__,
        users=part.users,
        history_length=(part.history_end - part.history_start).astype(np.int32),
        ranked=ranked,
        metrics={key: value.numpy() for key, value in metrics.items()},
        exposure=exposure_metrics(torch.from_numpy(ranked), counts, ks),
        targets=TargetTable(
            row=everything.row.numpy(),
            item=everything.item.numpy().astype(np.int32),
            rank=everything.rank.numpy().astype(np.int32),
            decile=popularity_deciles(counts)[everything.item.numpy()],
        ),
        facts=facts,
    )


@contextmanager
def _evaluation_mode(model: Recommender) -> Iterator[None]:
    """No dropout while it lasts; the mode the model was in afterwards."""
    if not isinstance(model, nn.Module) or not model.training:
        yield
        return
    model.eval()
    try:
        yield
    finally:
        model.train()


def _rank(
    model: Recommender,
    split: Split,
    part: EvaluationSet,
    max_length: int | None,
    filter_seen: bool,
    batch_users: int,
    top: int,
    tie_seed: int,
) -> NDArray[np.int32]:
    """`[U, top]` lists. Users go through the model in order of history length, so that little is padded."""
    device = next(iter(model.state().values())).device
    if not isinstance(model, VectorRecommender):
        batch_users = max(1, min(batch_users, BUDGET_BYTES // (4 * (model.n_items + 1))))
    ranker = Ranker(model, tie_seed=tie_seed)
    ranked = np.empty((len(part), top), dtype=np.int32)
    log = split.log
    order = np.argsort(part.history_end - part.history_start, kind="stable")
    for first in range(0, len(order), batch_users):
        rows = order[first : first + batch_users]
        start, end = part.history_start[rows], part.history_end[rows]
        batch = histories(log, part.users[rows], start, end, max_length)
        request = torch.from_numpy(np.asarray(log.timestamp[part.target_start[rows]], dtype=np.int64))
        batch = replace(batch, request_timestamp=request).to(device)
        seen = _items(split, start, end) if filter_seen else None
        ranked[rows] = ranker(batch, top, seen=seen).items.cpu().numpy()
    return ranked


def _items(split: Split, start: NDArray[np.int64], end: NDArray[np.int64]) -> Jagged:
    """The items of event ranges."""
    items = split.log.item_id[expand_ranges(start, end - start)]
    return Jagged(torch.from_numpy(items.astype(np.int64)), torch.from_numpy(offsets_of(end - start)))


def _targets(split: Split, part: EvaluationSet, filter_seen: bool, batch_users: int) -> tuple[Jagged, int]:
    """Distinct items to be found by each user, and how many of them the history holds (these left out if filtered)."""
    stride = split.log.n_items + 1
    kept, seen = [], 0
    for first in range(0, len(part), batch_users):
        rows = slice(first, first + batch_users)
        wanted = _pairs(_items(split, part.target_start[rows], part.target_end[rows]), first, stride)
        known = _pairs(_items(split, part.history_start[rows], part.history_end[rows]), first, stride)
        again = np.isin(wanted, known, assume_unique=True)
        seen += int(again.sum())
        kept.append(wanted[~again] if filter_seen else wanted)
    pairs = np.concatenate(kept)
    lengths = np.bincount(pairs // stride, minlength=len(part))
    return Jagged(torch.from_numpy(pairs % stride), torch.from_numpy(offsets_of(lengths))), seen


def _pairs(items: Jagged, first: int, stride: int) -> NDArray[np.int64]:
    """Distinct `row * stride + item`, ascending; rows count from `first`."""
    row = torch.repeat_interleave(items.offsets.diff()) + first
    return np.unique((row * stride + items.values).numpy())


def _where(table: Jagged, keep: torch.Tensor) -> Jagged:
    """The entries at which `keep` is true."""
    before = torch.nn.functional.pad(keep.long().cumsum(0), (1, 0))
    return Jagged(table.values[keep], before[table.offsets])
