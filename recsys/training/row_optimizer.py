"""The base of optimizers that touch only the rows of a table that a step looked up."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class RowOptimizer(Optimizer, abc.ABC):
    """Updates each table that has a gradient; a subclass says how.

    Raises:
        ValueError: the step size is not above 0.
    """

    def __init__(self, params: Any, defaults: dict[str, Any]):
        if not defaults["lr"] > 0:
            raise ValueError(f"lr must be above 0, not {defaults['lr']}")
        super().__init__(params, defaults)

    @abc.abstractmethod
    def update(self, table: Tensor, group: dict[str, Any]) -> None:
        """Changes the rows of a table that have a gradient, by the settings of its group."""

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Updates the rows that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for table in group["params"]:
                if table.grad is not None:
                    self.update(table, group)
        return loss


def distinct_rows(grad: Tensor) -> tuple[Tensor, Tensor]:
    """Ids `[n]` and gradients `[n, d]` of a sparse gradient, each id once.

    Strictly ascending ids are known to be distinct and cost one comparison; others are merged.
    """
    rows, values = grad._indices()[0], grad._values()
    if bool((rows[1:] > rows[:-1]).all()):
        return rows, values
    distinct, place = torch.unique(rows, return_inverse=True)
    merged = values.new_zeros(len(distinct), values.shape[1]).index_add_(0, place, values)
    return distinct, merged
