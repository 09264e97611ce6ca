"""Where new embedding tables are made: in memory, or as shapes alone until they are sharded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch

_DEVICE: ContextVar[torch.device | None] = ContextVar("table_device", default=None)


def table_device() -> torch.device | None:
    """The `device` for TorchRec collections that are made now; None: TorchRec's default."""
    return _DEVICE.get()


@contextmanager
def tables_on(device: torch.device | str) -> Iterator[None]:
    """Makes tables on a device meanwhile; on `meta` they take no memory and draw no random numbers.

    Everything else of a model is made as ever, so that its buffers keep their values.

    Example:
        >>> with tables_on("meta"):
        ...     table_device()
        device(type='meta')
    """
    token = _DEVICE.set(torch.device(device))
    try:
        yield
    finally:
        _DEVICE.reset(token)
