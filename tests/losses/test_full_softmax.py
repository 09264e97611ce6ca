"""The chunked softmax against `F.cross_entropy`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsys.losses import FullSoftmax
from recsys.losses import full_softmax as module


def reference(queries: Tensor, items: Tensor, target: Tensor, weight: Tensor | None, temperature: float) -> Tensor:
    kept = target > 0
    logits = (queries @ items.T / temperature)[kept][:, 1:]
    rows = F.cross_entropy(logits, target[kept] - 1, reduction="none")
    weight = torch.ones_like(rows) if weight is None else weight[kept]
    return (rows * weight).sum() / weight.sum()


def problem(rows: int, n_items: int, dim: int, dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    queries = torch.randn(rows, dim, generator=generator, dtype=dtype).requires_grad_()
    items = torch.randn(n_items + 1, dim, generator=generator, dtype=dtype).requires_grad_()
    return queries, items, torch.randint(1, n_items + 1, (rows,), generator=generator)


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 9),
    n_items=st.integers(1, 30),
    rows_of_budget=st.integers(0, 10),
    width=st.integers(1, 40),
    temperature=st.sampled_from([0.05, 1.0, 3.0]),
    weighted=st.booleans(),
)
def test_equals_cross_entropy_for_every_chunk_and_block(
    rows: int, n_items: int, rows_of_budget: int, width: int, temperature: float, weighted: bool
) -> None:
    queries, items, target = problem(rows, n_items, 4, torch.float64)
    weight = torch.linspace(0.5, 2, rows, dtype=torch.float64) if weighted else None
    budget = max(rows_of_budget * (n_items + 1) * 8, 1) / 2**20
    block, module.BLOCK_BYTES = module.BLOCK_BYTES, width * 8
    try:
        loss = FullSoftmax(temperature, memory_mib=budget)(queries, items, target, weight).loss
    finally:
        module.BLOCK_BYTES = block
    expected = reference(queries, items, target, weight, temperature)
    torch.testing.assert_close(loss, expected, rtol=1e-10, atol=1e-12)
    ours = torch.autograd.grad(loss, (queries, items))
    theirs = torch.autograd.grad(expected, (queries, items))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-12)


def test_equals_cross_entropy_in_float32_at_the_usual_size() -> None:
    queries, items, target = problem(300, 5000, 32, torch.float32)
    loss = FullSoftmax(2.0)(queries, items, target).loss
    expected = reference(queries, items, target, None, 2.0)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)
    ours = torch.autograd.grad(loss, (queries, items))
    theirs = torch.autograd.grad(expected, (queries, items))
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6 * b.abs().max().item())


def test_padding_is_no_candidate_and_carries_no_loss() -> None:
    queries, items, target = problem(6, 9, 3, torch.float64)
    target[[1, 4]] = 0
    loss = FullSoftmax()(queries, items, target).loss
    torch.testing.assert_close(loss, reference(queries, items, target, None, 1.0))
    by_query, by_item = torch.autograd.grad(loss, (queries, items))
    assert by_query[[1, 4]].abs().max() == 0 and by_item[0].abs().max() == 0
    with torch.no_grad():
        items[0] += 100
    torch.testing.assert_close(FullSoftmax()(queries, items, target).loss, loss)


def test_only_padding_gives_zero() -> None:
    queries, items, _ = problem(3, 4, 3, torch.float32)
    loss = FullSoftmax()(queries, items, torch.zeros(3, dtype=torch.long)).loss
    loss.backward()
    assert loss == 0 and items.grad is not None and items.grad.abs().max() == 0


def test_bfloat16_products_stay_close() -> None:
    queries, items, target = problem(200, 3000, 32, torch.float32)
    loss = FullSoftmax(4.0, bf16=True)(queries, items, target).loss
    expected = reference(queries, items, target, None, 4.0)
    torch.testing.assert_close(loss, expected, rtol=2e-3, atol=0)
    ours = torch.autograd.grad(loss, (queries, items))
    theirs = torch.autograd.grad(expected, (queries, items))
    for a, b in zip(ours, theirs, strict=True):
        assert a.dtype == torch.float32
        assert (a - b).norm() < 0.01 * b.norm()


def test_one_side_may_be_constant_and_a_backward_pass_may_be_repeated() -> None:
    queries, items, target = problem(4, 6, 3, torch.float64)
    only = FullSoftmax()(queries, items.detach(), target).loss
    first = torch.autograd.grad(3 * only, queries, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(3 * only, queries)[0], first)
    both = torch.autograd.grad(FullSoftmax()(queries, items, target).loss, queries)[0]
    torch.testing.assert_close(first, 3 * both)
    assert not FullSoftmax()(queries.detach(), items.detach(), target).loss.requires_grad
    with torch.no_grad():
        torch.testing.assert_close(FullSoftmax()(queries, items, target).loss, only.detach())


def test_bad_budget_is_refused() -> None:
    with pytest.raises(ValueError, match="memory_mib"):
        FullSoftmax(memory_mib=0)
