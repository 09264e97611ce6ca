"""The second stage: what was retrieved, in the order of the model's ranking."""

from __future__ import annotations

import torch
from torch import Tensor

from recsys.features.batch import SequenceBatch
from recsys.models.recommender import Recommender
from recsys.retrieval.topk import TopK


@torch.no_grad()
def candidate_scores(model: Recommender, batch: SequenceBatch, candidates: Tensor) -> Tensor:
    """The model's scores of given candidates, `[B, C]`.

    Args:
        model: any recommender.
        batch: B histories.
        candidates: `[B, C]` int64 item ids; 0 fills up.

    Raises:
        ValueError: the score of an item is NaN or infinite.
    """
    scores = model.candidate_scores(batch, candidates)
    bad = scores[(candidates != 0) & ~torch.isfinite(scores)]
    if len(bad):
        raise ValueError(f"the model gave {len(bad)} scores that are NaN or infinite (the first: {bad[0].item()})")
    return scores


def reranked(model: Recommender, batch: SequenceBatch, found: TopK, k: int) -> TopK:
    """The k best of what was retrieved, by `candidate_scores`; equal scores stay in the order of retrieval.

    Args:
        model: the recommender.
        batch: B histories.
        found: `[B, C]` retrieved items.
        k: at most C.
    """
    scores, order = candidate_scores(model, batch, found.items).sort(dim=1, descending=True, stable=True)
    return TopK(found.items.gather(1, order)[:, :k], scores[:, :k])
