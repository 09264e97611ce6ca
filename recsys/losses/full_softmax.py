"""Cross-entropy over the whole catalogue, in memory that does not grow with the batch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from recsys.losses.base import CatalogueLoss, LossOutput, full_precision
from recsys.losses.ranks import ranks, total

BLOCK_BYTES = 2**23
"""On a CPU a block of logits stays in the last cache while it is exponentiated and summed; smaller blocks cost more
waiting of threads for each other than they save, the more so on a busy machine."""
MAX_ROWS = 128
"""Rows of a chunk on a CPU, when the budget allows more; the blocks would become too narrow."""


class FullSoftmax(CatalogueLoss):
    """Softmax over every item: the loss that the sampled ones estimate.

    The `[T, V]` logits never exist: rows are taken in chunks whose logits fit a budget, and the gradients are computed
    with them, in the forward pass. Beside the budget the pass holds the gradients of `queries` and `items`, twice for
    a moment of the backward pass. Item 0 is padding: it is no candidate, and a row whose target it is has no weight.

    Args:
        temperature: divides the scores.
        memory_mib: budget of the logits in MiB; at least one row is always computed.
        bf16: multiply matrices and keep the logits' exponentials in bfloat16; sums stay in float32.

    Raises:
        ValueError: if the temperature or the budget is not above 0.

    Inputs:
        | argument | shape | meaning |
        | --- | --- | --- |
        | queries | [T, d] | one vector per row |
        | items | [V, d] | vectors of the catalogue, row 0 is padding |
        | target | [T] int64 | the positive item; 0 carries no loss |
        | weight | [T] or None | row weights; they receive no gradient |

    Recommended sampler:
        None; its time grows with the catalogue, so beyond some 10^5 items prefer `InfoNCE`.

    Related:
        `InfoNCE` with a corrected sampler converges to it.

    Example:
        >>> loss = FullSoftmax()
        >>> out = loss(torch.zeros(2, 4), torch.zeros(11, 4), torch.tensor([3, 7]))
        >>> round(out.loss.item(), 4)  # log(10)
        2.3026
    """

    def __init__(self, temperature: float = 1.0, memory_mib: float = 256.0, bf16: bool = False) -> None:
        super().__init__()
        if not temperature > 0:
            raise ValueError(f"temperature must be above 0, not {temperature}")
        if not memory_mib > 0:
            raise ValueError(f"memory_mib must be above 0, not {memory_mib}")
        self.temperature = temperature
        self.memory_mib = memory_mib
        self.bf16 = bf16

    def forward(self, queries: Tensor, items: Tensor, target: Tensor, weight: Tensor | None = None) -> LossOutput:
        """The weighted mean over rows of `-log softmax(queries @ items.T / temperature)[target]`."""
        dtype = full_precision(queries).dtype
        weight = torch.ones_like(target, dtype=dtype) if weight is None else weight.detach().to(dtype)
        weight = weight * (target > 0)
        weight = ranks() * weight / total(weight.sum()).clamp_min(torch.finfo(dtype).tiny)
        with_grad = torch.is_grad_enabled() and (queries.requires_grad or items.requires_grad)
        budget = int(self.memory_mib * 2**20)
        loss = _CatalogueCrossEntropy.apply(
            queries, items, target, weight, 1 / self.temperature, budget, self.bf16, with_grad
        )
        return LossOutput(loss, {"loss": loss.detach()})


class _CatalogueCrossEntropy(torch.autograd.Function):
    """`sum_t weight_t (logsumexp_v z_tv - z_t,target)` with `z = scale * queries @ items.T`, item 0 left out."""

    @staticmethod
    def forward(
        ctx: Any,
        queries: Tensor,
        items: Tensor,
        target: Tensor,
        weight: Tensor,
        scale: float,
        budget: int,
        bf16: bool,
        with_grad: bool,
    ) -> Tensor:
        matrix = items.to(torch.bfloat16) if bf16 else full_precision(items)
        chunk = max(1, budget // (matrix.shape[0] * matrix.element_size()))
        if matrix.device.type == "cpu":
            chunk = min(chunk, MAX_ROWS)
        kept = matrix.new_empty(min(chunk, queries.shape[0]) * matrix.shape[0])
        loss, by_query, by_item = weight.new_zeros(()), [], weight.new_zeros(items.shape if with_grad else 0)
        for start in range(0, queries.shape[0], chunk):
            rows = slice(start, start + chunk)
            scaled = full_precision(queries[rows]) * scale
            blocks, top, log_sum = _exponentials(scaled, matrix, kept)
            gold = full_precision(items[target[rows]])
            loss += (weight[rows] * (log_sum - (scaled * gold).sum(1))).sum()
            if with_grad:
                by_query.append(_gradients(scaled, gold, matrix, weight[rows], blocks, top - log_sum, by_item))
                by_item.index_add_(0, target[rows], scaled * -weight[rows, None])
        if with_grad:
            grad = torch.cat(by_query) if by_query else torch.zeros_like(queries)
            ctx.save_for_backward(grad.mul_(scale).to(queries.dtype), by_item.to(items.dtype))
        return loss

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        by_query, by_item = ctx.saved_tensors
        needed = ctx.needs_input_grad
        return (by_query * grads[0] if needed[0] else None, by_item * grads[0] if needed[1] else None, *[None] * 6)


def _exponentials(queries: Tensor, items: Tensor, kept: Tensor) -> tuple[list[Tensor], Tensor, Tensor]:
    """Exponentials of the logits, block of items by block, each relative to the block's own largest logit.

    Returns:
        The blocks `[c, b]` (views of `kept`), the largest logits `[blocks, c]` and the log of the sums `[c]`.
    """
    rows, columns = queries.shape[0], items.shape[0]
    width = max(1, BLOCK_BYTES // (rows * queries.element_size())) if items.device.type == "cpu" else columns
    blocks, tops, sums = [], [], []
    short = queries.to(items.dtype)
    for start in range(0, columns, width):
        part = items[start : start + width]
        block = kept[rows * start : rows * (start + part.shape[0])].view(rows, -1)
        torch.mm(short, part.T, out=block)
        logits = full_precision(block)  # `block` itself unless it is in a shorter type
        if start == 0:
            logits[:, 0] = torch.finfo(logits.dtype).min / 2
        top = logits.amax(1)
        sums.append(logits.sub_(top[:, None]).exp_().sum(1))
        tops.append(top)
        if logits is not block:
            block.copy_(logits)
        blocks.append(block)
    top = torch.stack(tops)
    return blocks, top, torch.logsumexp(top + torch.stack(sums).log(), 0)


def _gradients(
    queries: Tensor,
    gold: Tensor,
    items: Tensor,
    weight: Tensor,
    blocks: list[Tensor],
    log_share: Tensor,
    by_item: Tensor,
) -> Tensor:
    """Adds the softmax's part of the gradient to `by_item` and returns the gradient by query `[c, d]`."""
    by_query = gold * -weight[:, None]
    start = 0
    for block, factor in zip(blocks, log_share.exp() * weight, strict=True):
        rows = slice(start, start + block.shape[1])
        # The softmax is `block` times a factor per row, which is cheaper on the [c, d] side of each product.
        by_query += (block @ items[rows]).to(by_query.dtype) * factor[:, None]
        scaled = queries * factor[:, None]
        if block.dtype == by_item.dtype:
            by_item[rows].addmm_(block.T, scaled)
        else:
            by_item[rows] += block.T @ scaled.to(block.dtype)
        start = rows.stop
    return by_query
