"""The ranked lists of an evaluation, by one process or by the ranks of a job together."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray

from recsys.evaluation.scoring import device_of, threads_of
from recsys.evaluation.tasks import Requests
from recsys.features.splits import Split
from recsys.models.recommender import Recommender, VectorRecommender
from recsys.retrieval.reranking import reranked
from recsys.retrieval.sharded import ShardedRanker, is_sharded
from recsys.retrieval.threads import in_threads
from recsys.retrieval.topk import BUDGET_BYTES, Jagged, Ranker

_STAND_IN = np.zeros(1, dtype=np.int64)
"""The first request, which is asked by a rank that has none left: the others need it to look rows up."""

_LISTS = 65_536
"""Lists that ranks exchange at a time."""


def ranked_lists(
    model: Recommender,
    split: Split,
    asked: Requests,
    *,
    max_length: int | None,
    filter_seen: bool,
    rerank: int | None,
    batch_users: int,
    top: int,
    tie_seed: int,
) -> NDArray[np.int32]:
    """The lists of all requests, `[U, top]`, 0 where fewer items could be given; arguments as in `evaluate`.

    The ranks of a job with sharded tables share the requests, and each gets the lists of all.

    Raises:
        ValueError: the tables are sharded, and the model has no item vectors, or `rerank` is asked of a model that does
            not rank.
    """
    device = device_of(model)
    sharded = is_sharded(model)
    if sharded and rerank is not None and not model.ranks:
        raise ValueError(
            f"rerank {rerank}: {type(model).__name__} has no second stage that knows more than its retrieval, and with "
            "sharded tables nothing is scored twice; leave `rerank` out, or train a ranking head"
        )
    if not isinstance(model, VectorRecommender):
        batch_users = max(1, min(batch_users, BUDGET_BYTES // (4 * (model.n_items + 1))))
    threads = threads_of(model)
    ranker = (ShardedRanker if sharded else Ranker)(model, tie_seed=tie_seed, budget=BUDGET_BYTES // threads)
    ranked = np.zeros((len(asked), top), dtype=np.int32)

    def rank(rows: NDArray[np.int64]) -> None:
        own, rows = len(rows), rows if len(rows) else _STAND_IN
        batch = asked.batch(split.log, rows, max_length, device)
        seen = None
        if filter_seen:
            known = asked.history_items(split.log, rows)
            seen = Jagged(torch.from_numpy(known.values), torch.from_numpy(known.offsets))
        found = ranker(batch, rerank or top, seen=seen)
        if rerank is not None:
            found = reranked(model, batch, found, top)
        ranked[rows[:own]] = found.items[:own].cpu().numpy()

    ranker.prepare(device)
    in_threads(rank, _shares(asked, batch_users) if sharded else asked.blocks(batch_users), threads)
    if sharded:
        _add_up(ranked, device)
    return ranked


def _shares(asked: Requests, size: int) -> list[NDArray[np.int64]]:
    """The blocks of this rank; equally many on all, the last of some empty."""
    rank, ranks = dist.get_rank(), dist.get_world_size()
    blocks = asked.blocks(max(1, min(size, -(-len(asked) // ranks))))
    own = blocks[rank::ranks]
    return own + [blocks[0][:0]] * (-(-len(blocks) // ranks) - len(own))


def _add_up(ranked: NDArray[np.int32], device: torch.device) -> None:
    """Fills in the lists of the other ranks, which are zero here as those of this rank are there."""
    for part in torch.from_numpy(ranked).split(_LISTS):
        everybody = part.to(device)
        dist.all_reduce(everybody)
        part.copy_(everybody)
