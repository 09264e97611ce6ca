"""How a model is asked while it is judged: without dropout, on its own device, by so many threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain

import torch
from torch import nn

from recsys.models.recommender import Recommender
from recsys.retrieval.sharded import is_sharded


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
    if isinstance(model, nn.Module):  # the state of sharded tables would be put together first
        return next(chain(model.buffers(), model.parameters())).device
    return next(iter(model.state().values())).device


def threads_of(model: Recommender) -> int:
    """Threads that may ask the model side by side; one where ranks must look their tables up in step."""
    return 1 if device_of(model).type != "cpu" or is_sharded(model) else torch.get_num_threads()
