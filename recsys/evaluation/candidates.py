"""Sampled metrics: how a model orders one item to be found among items drawn at random.

They depend on how many items are drawn, and may order two models otherwise than the whole catalogue does (Krichene and
Rendle, "On Sampled Metrics for Item Recommendation", KDD 2020). They are here for comparison with tables that were made
so, and carry `Sampled` in their names; they decide nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from recsys.evaluation.exposure import popularity_deciles
from recsys.evaluation.metrics import Targets, check_cut_offs, target_metrics
from recsys.evaluation.relevance import ColdTargets, Relevance, check_catalogue, distinct_pairs, relevance
from recsys.evaluation.result import Evaluation, TargetTable
from recsys.evaluation.scoring import device_of, evaluation_mode, threads_of
from recsys.evaluation.tasks import Part, Requests, Task, requests
from recsys.features.jagged import offsets_of
from recsys.features.splits import Ids, Split
from recsys.models.recommender import Recommender, VectorRecommender
from recsys.retrieval.reranking import candidate_scores
from recsys.retrieval.threads import in_threads
from recsys.retrieval.topk import BUDGET_BYTES, Jagged

_SCORED = 2**16
"""Candidates scored at a time."""

_DRAWS = 2**20
"""Candidates drawn at a time."""

_METRICS = ("HR", "NDCG", "MRR")
"""With one item to be found, recall is the hit rate and MAP is MRR."""


@dataclass(frozen=True)
class Candidates:
    """One item to be found and N drawn ones, for each request; the same for every model.

    Attributes:
        items: `[U, 1 + N]` int32 in random order, so that a stable sort breaks ties at random; a row of zeros where
            nothing is to be found.
        positive: `[U]` int32, the item to be found; 0 where there is none.
        pool: `[U]` int64, items that the N were drawn from.
    """

    items: NDArray[np.int32]
    positive: NDArray[np.int32]
    pool: Ids


@dataclass(frozen=True)
class Scored:
    """Candidates of the requests of a part, and what a model makes of them.

    Attributes:
        asked: the requests.
        relevance: what they want.
        candidates: what was drawn.
        scores: `[U, 1 + N]` float32 of `candidates.items`; `-inf` where an item is 0.
    """

    asked: Requests
    relevance: Relevance
    candidates: Candidates
    scores: NDArray[np.float32]


def rank_candidates(
    model: Recommender,
    split: Split,
    *,
    which: Part = "test",
    task: Task | None = None,
    negatives: int = 99,
    seed: int = 0,
    ks: Sequence[int] = (10,),
    max_length: int | None = None,
    filter_seen: bool = True,
    cold_targets: ColdTargets | None = None,
    name: str | None = None,
) -> Evaluation:
    """Orders one item to be found among drawn ones by the model's `candidate_scores`, request by request.

    The metrics are `Sampled AUC` (share of the drawn items below the one to be found, equal scores counting half), and
    `Sampled HR@k`, `Sampled NDCG@k` and `Sampled MRR@k`, equal scores being ordered at random.

    Args:
        model: a fitted or trained model.
        split: the split it was trained on.
        which: the part to judge on.
        task: as in `evaluate`.
        negatives: items drawn for each request.
        seed: of the drawing, and so of the order among equal scores.
        ks: cut-offs of the metrics.
        max_length: events of a history that the model is given, the newest ones; None: all.
        filter_seen: whether an item of the history is no item to be found.
        cold_targets: as in `evaluate`.
        name: of the model, to print; None: its class.

    Returns:
        An evaluation whose lists are the ordered candidates; those with other numbers of negatives or other seeds are
        not compared with it.

    Raises:
        ValueError: as in `evaluate`, or a user has too few items to draw from.
    """
    check_cut_offs(ks, 1 + negatives)
    started = time.perf_counter()
    found = scored_candidates(
        model,
        split,
        which=which,
        task=task,
        negatives=negatives,
        seed=seed,
        max_length=max_length,
        filter_seen=filter_seen,
        cold_targets=cold_targets,
    )
    asked, drawn = found.asked, found.candidates
    deciles = popularity_deciles(found.relevance.train_counts)
    ranked, rank, auc = _ordered(found.scores, drawn)
    row = np.flatnonzero(drawn.positive)
    item = drawn.positive[row]
    places = Targets(torch.from_numpy(row), torch.from_numpy(item), torch.from_numpy(rank[row]), len(asked))
    of_lists = {n: v.numpy() for n, v in target_metrics(places, ks).items() if n.split("@")[0] in _METRICS}
    metrics = {"AUC": auc} | of_lists
    seconds = time.perf_counter() - started
    facts = found.relevance.facts | {
        "targets": len(row),
        "targets_not_asked": found.relevance.facts["targets"] - len(row),
        "negatives": negatives,
        "candidate_seed": seed,
        "max_length": max_length,
        "top": 1 + negatives,
        "ks": list(ks),
        "seconds": seconds,
        "users_per_s": len(asked) / seconds,
    }
    return Evaluation(
        model=name or type(model).__name__,
        users=asked.users,
        history_length=asked.history_length.astype(np.int32),
        ranked=ranked,
        metrics={f"Sampled {n}": values for n, values in metrics.items()},
        exposure={},
        targets=TargetTable(row, item, rank[row].astype(np.int32), deciles[item]),
        facts=facts,
    )


def scored_candidates(
    model: Recommender,
    split: Split,
    *,
    which: Part,
    task: Task | None,
    negatives: int,
    seed: int,
    max_length: int | None,
    filter_seen: bool,
    cold_targets: ColdTargets | None,
) -> Scored:
    """Draws candidates for every request and lets the model score them; arguments and errors of `rank_candidates`."""
    asked = requests(split, which, task)
    check_catalogue(model, split)
    wanted = relevance(split, which, task, asked, filter_seen, cold_targets)
    drawn = draw_candidates(split, asked, wanted.judged, negatives, seed)
    return Scored(asked, wanted, drawn, _scores(model, split, asked, drawn.items, max_length))


def draw_candidates(split: Split, asked: Requests, judged: Jagged, negatives: int, seed: int) -> Candidates:
    """For each request the first of its targets that counts, and items drawn beside it.

    They are drawn without replacement, each item that is neither in the history nor among the targets of the request
    being as likely as any other.

    Args:
        split: whose hash goes into the drawing.
        asked: the requests.
        judged: the items that count, by request.
        negatives: items to draw for each request.
        seed: of the drawing.

    Raises:
        ValueError: `negatives` is not positive, or exceeds the items there are to draw from.
    """
    if negatives < 1:
        raise ValueError(f"negatives must be at least 1, not {negatives}")
    positive = _first(split, asked, judged)
    items = np.zeros((len(asked), 1 + negatives), dtype=np.int32)
    pool = np.zeros(len(asked), dtype=np.int64)
    random = np.random.default_rng([seed, int(split.hash, 16)])
    every, size = np.flatnonzero(positive), max(1, _DRAWS // negatives)
    for rows in (every[first : first + size] for first in range(0, len(every), size)):
        stride = split.log.n_items + 1
        taken = np.union1d(
            distinct_pairs(asked.history_items(split.log, rows), stride),
            distinct_pairs(asked.target_items(split.log, rows), stride),
        )
        lengths = np.bincount(taken // stride, minlength=len(rows))
        pool[rows] = split.log.n_items - lengths
        if (pool[rows] < negatives).any():
            short = rows[pool[rows].argmin()]
            raise ValueError(
                f"user {split.log.users.decode(asked.users[short : short + 1])[0]}: {pool[short]} items are neither in "
                f"the history nor targets, and {negatives} are to be drawn; ask for fewer"
            )
        at = _distinct_draws(random, pool[rows], negatives)
        # The r-th free item is r + 1 plus the number of taken items before it: those with r free items or fewer below.
        offsets = offsets_of(lengths)
        row = taken // stride
        free_below = taken % stride - 1 - (np.arange(len(taken)) - offsets[row])
        own = np.arange(len(rows))[:, None]
        before = np.searchsorted(row * stride + free_below, own * stride + at, side="right") - offsets[own]
        items[rows, 0] = positive[rows]
        items[rows, 1:] = at + 1 + before
        items[rows] = random.permuted(items[rows], axis=1)
    return Candidates(items, positive, pool)


def _scores(
    model: Recommender, split: Split, asked: Requests, items: NDArray[np.int32], max_length: int | None
) -> NDArray[np.float32]:
    """`[U, C]` scores of the items `[U, C]`."""
    size = max(1, _SCORED // items.shape[1])
    if not isinstance(model, VectorRecommender):
        size = max(1, min(size, BUDGET_BYTES // (4 * (model.n_items + 1))))
    scores = np.empty(items.shape, dtype=np.float32)
    device = device_of(model)

    def score(rows: NDArray[np.int64]) -> None:
        candidates = torch.from_numpy(items[rows].astype(np.int64)).to(device)
        batch = asked.batch(split.log, rows, max_length, device)
        scores[rows] = candidate_scores(model, batch, candidates).float().cpu().numpy()

    with evaluation_mode(model):
        in_threads(score, asked.blocks(size), threads_of(model))
    return scores


def _first(split: Split, asked: Requests, judged: Jagged) -> NDArray[np.int32]:
    """`[U]` the first target of each request that is judged; 0 where none is."""
    stride = split.log.n_items + 1
    row = np.repeat(np.arange(len(asked)), asked.targets.lengths)
    item = split.log.item_id[asked.targets.values]
    wanted = np.repeat(np.arange(len(asked)), judged.offsets.diff()) * stride + judged.values.numpy()
    counts = np.isin(row * stride + item, wanted)
    rows, first = np.unique(row[counts], return_index=True)
    positive = np.zeros(len(asked), dtype=np.int32)
    positive[rows] = item[counts][first]
    return positive


def _distinct_draws(random: np.random.Generator, below: Ids, size: int) -> Ids:
    """`[R, size]` distinct integers in `[0, below[r])`, every set of them as likely as any other.

    Repeats are drawn again until there are none: a row is then the first `size` distinct values of an endless sequence
    of independent draws, and these are any set with equal chance.
    """
    drawn = random.integers(0, below[:, None], size=(len(below), size))
    open_rows = np.arange(len(below))
    while len(open_rows):
        values = np.sort(drawn[open_rows], axis=1)
        again = np.zeros(values.shape, dtype=bool)
        again[:, 1:] = values[:, 1:] == values[:, :-1]
        values[again] = random.integers(0, below[open_rows[np.nonzero(again)[0]]])
        drawn[open_rows] = values
        open_rows = open_rows[again.any(axis=1)]
    return drawn


def _ordered(
    scores: NDArray[np.float32], drawn: Candidates
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.float32]]:
    """Candidates best first `[U, 1 + N]`, rank of the positive `[U]`, and AUC `[U]`: 0 and NaN without a positive."""
    ranked = np.zeros_like(drawn.items)
    rank = np.zeros(len(scores), dtype=np.int64)
    auc = np.full(len(scores), np.nan, dtype=np.float32)
    every, size = np.flatnonzero(drawn.positive), max(1, _DRAWS // scores.shape[1])
    for rows in (every[first : first + size] for first in range(0, len(every), size)):
        score, items, positive = scores[rows], drawn.items[rows], drawn.positive[rows][:, None]
        own = score[items == positive][:, None]
        equal = (score == own).sum(axis=1) - 1
        auc[rows] = ((score < own).sum(axis=1) + equal / 2) / (scores.shape[1] - 1)
        ranked[rows] = np.take_along_axis(items, np.argsort(-score, axis=1, kind="stable"), axis=1)
        rank[rows] = 1 + (ranked[rows] == positive).argmax(axis=1)
    return ranked, rank, auc
