"""Adam that touches only the rows a step looked up."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer


class SparseAdam(Optimizer):
    """Lazy Adam for embedding tables with sparse gradients; equal to `torch.optim.SparseAdam`.

    The cost of a step depends on the rows looked up, not on the rows of the table, and gradients whose ids are
    already distinct, as `SequenceNetwork` makes them, are not merged again.

    Args:
        params: tables whose gradients are sparse.
        lr: step size.
        betas: decay of the first and second moment.
        eps: added to the root of the second moment.
    """

    def __init__(
        self, params: Iterable[Any], lr: float = 1e-3, betas: tuple[float, float] = (0.9, 0.98), eps: float = 1e-8
    ):
        if not lr > 0:
            raise ValueError(f"lr must be above 0, not {lr}")
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

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
                    self._update(table, group)
        return loss

    def _update(self, table: Tensor, group: dict[str, Any]) -> None:
        assert table.grad is not None
        if not table.grad.is_sparse:
            raise ValueError("SparseAdam takes tables with sparse gradients; give dense weights to a dense optimizer")
        rows, grad = distinct_rows(table.grad)
        state = self.state[table]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.int64)
            state["first"] = torch.zeros_like(table)
            state["second"] = torch.zeros_like(table)
        state["step"] += 1
        step, (beta1, beta2) = int(state["step"]), group["betas"]
        first = state["first"].index_select(0, rows).lerp_(grad, 1 - beta1)
        second = state["second"].index_select(0, rows).mul_(beta2).addcmul_(grad, grad, value=1 - beta2)
        state["first"].index_copy_(0, rows, first)
        state["second"].index_copy_(0, rows, second)
        correction = (1 - beta2**step) ** 0.5
        # torch's SparseAdam adds eps to the uncorrected root; so does this.
        update = first.div_(second.sqrt_().add_(group["eps"]))
        table.index_add_(0, rows, update, alpha=-group["lr"] * correction / (1 - beta1**step))


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
