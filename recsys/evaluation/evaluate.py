"""Judges a model on a split: ranks the whole catalogue for every request and says where the right items stand."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.evaluation.exposure import exposure_metrics, popularity_deciles
from recsys.evaluation.metrics import check_cut_offs, debiased_metrics, find_targets, target_metrics
from recsys.evaluation.ranking import ranked_lists
from recsys.evaluation.relevance import ColdTargets, Relevance, check_catalogue, relevance
from recsys.evaluation.result import Evaluation, TargetTable
from recsys.evaluation.scoring import evaluation_mode
from recsys.evaluation.tasks import Part, Task, requests
from recsys.features.splits import Ids, Split
from recsys.models.recommender import Recommender


def evaluate(
    model: Recommender,
    split: Split,
    *,
    which: Part = "test",
    task: Task | None = None,
    ks: Sequence[int] = (10, 50),
    max_length: int | None = None,
    filter_seen: bool = True,
    cold_targets: ColdTargets | None = None,
    rerank: int | None = None,
    batch_users: int = 512,
    top: int = 100,
    tie_seed: int = 0,
    beta: float = 0.5,
    name: str | None = None,
) -> Evaluation:
    """Ranks the whole catalogue for every request of a part of a split.

    An item to be found counts once per request, however often it occurs. With `filter_seen` an item of the history is
    never recommended, so it is not asked for either. A cold item (no training event) is left out under `global_time`,
    where no model that knows items by id can name it, and is a miss under the other rules, as in published numbers;
    both kinds are counted in the facts, and the target table keeps cold items. The time of a request is the time of
    the first event to be found.

    A model with sharded tables is judged by all ranks of the job, which call this together and get the same lists and
    metrics; no rank holds the vectors of the whole catalogue (`ShardedRanker`).

    Memory: one batch of histories, one block of scores, and `U * top * 4` bytes of lists.

    Args:
        model: a fitted or trained model; a module in training mode is put in evaluation mode meanwhile.
        split: the split it was trained on.
        which: the part to judge on.
        task: recommendation or search alone, see `tasks.requests`; None: one request per user, without a query.
        ks: cut-offs of the metrics.
        max_length: events of a history that the model is given, the newest ones; None: all. The filter knows all.
        filter_seen: whether items of the history are kept out of the lists.
        cold_targets: leave cold items out, or let them be misses; None: what the rule asks for.
        rerank: two stages: this many items are retrieved and then ordered by the model's `candidate_scores`, equal
            scores as retrieved; None: the order of retrieval.
        batch_users: histories given to the model at a time; fewer where a matrix of all scores would be too large.
        top: length of the lists kept.
        tie_seed: decides among equal scores.
        beta: exponent of the propensities of the debiased metrics; see `metrics.propensities`.
        name: of the model, to print; None: its class.

    Raises:
        ValueError: the part or the task is empty, a cut-off exceeds `top`, `top` exceeds `rerank`, model and log have
            different catalogues, or `rerank` is asked of a sharded model that does not rank.
    """
    check_cut_offs(ks, top)
    if rerank is not None and rerank < top:
        raise ValueError(f"rerank {rerank} is less than top {top}: the end of the lists would be empty")
    started = time.perf_counter()
    asked = requests(split, which, task)
    check_catalogue(model, split)
    with evaluation_mode(model):
        ranked = ranked_lists(
            model,
            split,
            asked,
            max_length=max_length,
            filter_seen=filter_seen,
            rerank=rerank,
            batch_users=batch_users,
            top=top,
            tie_seed=tie_seed,
        )
    found = relevance(split, which, task, asked, filter_seen, cold_targets)
    settings = {"max_length": max_length, "rerank": rerank, "top": top, "tie_seed": tie_seed}
    return judged_lists(
        name or type(model).__name__,
        users=asked.users,
        history_length=asked.history_length,
        ranked=ranked,
        found=found,
        ks=ks,
        settings=settings,
        started=started,
        beta=beta,
    )


def judged_lists(
    model: str,
    *,
    users: Ids,
    history_length: Ids,
    ranked: NDArray[np.int32],
    found: Relevance,
    ks: Sequence[int],
    settings: Mapping[str, Any],
    started: float,
    beta: float = 0.5,
) -> Evaluation:
    """The evaluation of lists, whoever made them.

    Args:
        model: name to print.
        users: `[U]` int64, the user of each request.
        history_length: `[U]` events of each history.
        ranked: `[U, top]` int32 item ids, best first, 0 where fewer could be given.
        found: what each request wants.
        ks: cut-offs of the metrics.
        settings: how the lists were made, for the facts.
        started: `time.perf_counter()` when the evaluation began.
        beta: exponent of the propensities of the debiased metrics.
    """
    counts, lists = found.train_counts, torch.from_numpy(ranked)
    everything = find_targets(lists, found.wanted)
    targets = find_targets(lists, found.judged)
    metrics = target_metrics(targets, ks) | debiased_metrics(targets, torch.from_numpy(counts), ks, beta)
    seconds = time.perf_counter() - started
    facts = dict(settings) | {
        "ks": list(ks),
        "beta": beta,
        "short_lists": int((ranked[:, -1] == 0).sum()),
        "seconds": seconds,
        "users_per_s": len(users) / seconds,
    }
    return Evaluation(
        model=model,
        users=users,
        history_length=history_length.astype(np.int32),
        ranked=ranked,
        metrics={key: value.numpy() for key, value in metrics.items()},
        exposure=exposure_metrics(lists, counts, ks),
        targets=TargetTable(
            row=everything.row.numpy(),
            item=everything.item.numpy().astype(np.int32),
            rank=everything.rank.numpy().astype(np.int32),
            decile=popularity_deciles(counts)[everything.item.numpy()],
        ),
        facts=found.facts | facts,
    )
