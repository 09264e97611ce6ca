"""How a model is asked while it is judged: without dropout, and on its own device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

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
