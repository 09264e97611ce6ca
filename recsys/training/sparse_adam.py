"""Adam that touches only the rows a step looked up."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from recsys.training.row_optimizer import RowOptimizer, distinct_rows


class SparseAdam(RowOptimizer):
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
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps})

    def update(self, table: Tensor, group: dict[str, Any]) -> None:
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
