"""Adagrad with one accumulator for each row of a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from recsys.training.row_optimizer import RowOptimizer, distinct_rows


class RowWiseAdagrad(RowOptimizer):
    """Adagrad whose rows share one step size: the mean of the squared gradient is summed up for each row.

    Its state is 4 bytes a row where Adam has 8 bytes a weight, and TorchRec applies it within the backward pass on
    every device: with sharded tables this class stands for that fused kernel, without it does the same in PyTorch. A
    row without gradient does not change, so that sparse and dense gradients give the same tables.

    Source: the `EXACT_ROWWISE_ADAGRAD` optimizer of FBGEMM; Duchi et al., JMLR 2011.

    Args:
        params: tables.
        lr: step size.
        eps: added to the root of the accumulator.
    """

    def __init__(self, params: Iterable[Any], lr: float = 0.01, eps: float = 1e-8):
        super().__init__(params, {"lr": lr, "eps": eps})

    def update(self, table: Tensor, group: dict[str, Any]) -> None:
        assert table.grad is not None
        lr, eps = group["lr"], group["eps"]
        state = self.state[table]
        if not state:
            state["sum"] = torch.zeros(table.shape[0], dtype=torch.float32, device=table.device)
        if table.grad.is_sparse:
            rows, grad = distinct_rows(table.grad)
            total = state["sum"].index_select(0, rows).add_(grad.float().square().mean(1))
            state["sum"].index_copy_(0, rows, total)
            table.index_add_(0, rows, grad / total.sqrt().add_(eps).unsqueeze(1), alpha=-lr)
        else:
            state["sum"].add_(table.grad.float().square().mean(1))
            table.addcdiv_(table.grad, state["sum"].sqrt().add_(eps).unsqueeze(1), value=-lr)
