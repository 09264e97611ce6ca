"""How a model is asked while it is judged: without dropout, on its own device, and for numbers that are numbers."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from recsys.features.batch import SequenceBatch
from recsys.models.recommender import Recommender


@contextmanager
def evaluation_mode(model: Recommender) -> Iterator[None]:
    """No dropout while it lasts; the mode the model was in afterwards."""
    if not isinstance(model, nn.Module) or not model.training:
        yield
        return
    model.eval()
    try:
        yield
    finally:
        model.train()


def device_of(model: Recommender) -> torch.device:
    """Where the model's tensors lie."""
    return next(iter(model.state().values())).device


@torch.no_grad()
def candidate_scores(model: Recommender, batch: SequenceBatch, candidates: Tensor) -> Tensor:
    """The model's scores of given candidates, `[B, C]`.

    Raises:
        ValueError: the score of an item is NaN or infinite.
    """
    scores = model.candidate_scores(batch, candidates)
    bad = scores[(candidates != 0) & ~torch.isfinite(scores)]
    if len(bad):
        raise ValueError(f"the model gave {len(bad)} scores that are NaN or infinite (the first: {bad[0].item()})")
    return scores
