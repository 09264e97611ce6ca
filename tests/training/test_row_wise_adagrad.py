"""RowWiseAdagrad against a loop, and optimizers of tables against the fused kernels that stand for them."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from functools import partial
from typing import Any

import pytest
import torch
from fbgemm_gpu.split_table_batched_embeddings_ops_common import EmbeddingLocation, PoolingMode
from fbgemm_gpu.split_table_batched_embeddings_ops_training import ComputeDevice, SplitTableBatchedEmbeddingBagsCodegen
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torchrec.distributed.utils import optimizer_type_to_emb_opt_type

from recsys.training.row_wise_adagrad import RowWiseAdagrad
from recsys.training.table_optimizers import FUSED

ROWS, DIM, STEPS = 7, 4, 6


def looked_up(step: int) -> Tensor:
    """Ids of a step, some of them twice."""
    return torch.randint(0, ROWS, (5,), generator=torch.Generator().manual_seed(step))


def gradient(step: int, ids: Tensor) -> Tensor:
    """`[n, DIM]`, of each lookup; of very different sizes."""
    generator = torch.Generator().manual_seed(100 + step)
    return torch.randn(len(ids), DIM, generator=generator) * 10.0 ** torch.randint(-3, 3, (1,), generator=generator)


def initial() -> Tensor:
    return torch.randn(ROWS, DIM, generator=torch.Generator().manual_seed(42))


def trained(factory: Any, sparse: bool, rates: Iterable[float] | None = None) -> Tensor:
    """The table after some steps of an optimizer of PyTorch."""
    table = nn.Embedding(ROWS, DIM, sparse=sparse, _weight=initial())
    optimizer = factory(table.parameters())
    for step, rate in enumerate(rates if rates is not None else [None] * STEPS):
        for group in optimizer.param_groups:
            group["lr"] = group["lr"] if rate is None else rate
        ids = looked_up(step)
        optimizer.zero_grad()
        (table(ids) * gradient(step, ids)).sum().backward()
        optimizer.step()
    return table.weight.detach()


def by_loop(lr: float, eps: float) -> Tensor:
    """Row by row, as the definition says."""
    table, sums = initial().double(), [0.0] * ROWS
    for step in range(STEPS):
        of_rows: dict[int, Tensor] = {}
        ids = looked_up(step)
        for row, part in zip(ids.tolist(), gradient(step, ids).double(), strict=True):
            of_rows[row] = of_rows.get(row, torch.zeros(DIM, dtype=torch.float64)) + part
        for row, total in of_rows.items():
            sums[row] += float((total**2).sum()) / DIM
            table[row] -= lr * total / (sums[row] ** 0.5 + eps)
    return table


@settings(deadline=None, max_examples=20)
@given(st.floats(1e-3, 1.0), st.sampled_from([1e-8, 1e-3, 0.1]), st.booleans())
def test_is_what_a_loop_computes(lr: float, eps: float, sparse: bool) -> None:
    found = trained(partial(RowWiseAdagrad, lr=lr, eps=eps), sparse)
    torch.testing.assert_close(found.double(), by_loop(lr, eps), rtol=1e-5, atol=1e-6)


def test_dense_and_sparse_gradients_give_the_same_table() -> None:
    dense, sparse = (trained(partial(RowWiseAdagrad, lr=0.3), sparse) for sparse in (False, True))
    torch.testing.assert_close(dense, sparse, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("sparse", [False, True])
def test_a_row_that_is_not_looked_up_stays(sparse: bool) -> None:
    never = set(range(ROWS)) - {int(row) for step in range(2) for row in looked_up(step)}
    assert never
    found = trained(partial(RowWiseAdagrad, lr=0.3), sparse, rates=[0.3, 0.3])
    for row in range(ROWS):
        assert torch.equal(found[row], initial()[row]) == (row in never)


def test_it_goes_on_from_its_state() -> None:
    tables = [nn.Embedding(ROWS, DIM, _weight=initial()) for _ in range(2)]
    optimizers = [RowWiseAdagrad(table.parameters(), lr=0.3) for table in tables]
    for step in range(4):
        for table, optimizer in zip(tables, optimizers, strict=True):
            ids = looked_up(step)
            optimizer.zero_grad()
            (table(ids) * gradient(step, ids)).sum().backward()
            optimizer.step()
        if step == 1:
            optimizers[1] = RowWiseAdagrad(tables[1].parameters(), lr=0.3)
            optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    assert torch.equal(tables[0].weight, tables[1].weight)


def test_a_closure_is_run() -> None:
    table = nn.Embedding(ROWS, DIM, _weight=initial())

    def closure() -> Tensor:
        loss = table(torch.tensor([1])).sum()
        loss.backward()
        return loss

    expected = float(initial()[1].sum())
    loss: Any = RowWiseAdagrad(table.parameters(), lr=0.3).step(closure)
    assert loss.item() == pytest.approx(expected)
    assert not torch.equal(table.weight[1], initial()[1])


@pytest.mark.parametrize("lr", [0.0, -1.0])
def test_a_learning_rate_is_above_zero(lr: float) -> None:
    with pytest.raises(ValueError, match="lr must be above 0"):
        RowWiseAdagrad([nn.Parameter(torch.zeros(1, 1))], lr=lr)


FACTORIES = {
    "sgd": partial(torch.optim.SGD, lr=0.1),
    "adagrad": partial(torch.optim.Adagrad, lr=0.3, eps=1e-3),
    "row-wise adagrad": partial(RowWiseAdagrad, lr=0.3, eps=1e-3),
}


@pytest.mark.parametrize("rates", [None, [0.3, 0.3, 0.1, 0.1, 0.01, 0.5]], ids=["constant", "scheduled"])
@pytest.mark.parametrize("name", FACTORIES)
def test_the_fused_kernel_on_a_cpu_does_the_same(name: str, rates: list[float] | None) -> None:
    """With the kernel and the arguments that sharded tables get for an optimizer of PyTorch."""
    made = FACTORIES[name]([nn.Parameter(torch.zeros(1, 1))])
    kernel, arguments = FUSED[type(made)]
    given = arguments(made.param_groups[0])
    fused = SplitTableBatchedEmbeddingBagsCodegen(
        [(ROWS, DIM, EmbeddingLocation.HOST, ComputeDevice.CPU)],
        optimizer=optimizer_type_to_emb_opt_type(kernel),
        learning_rate=given.pop("lr"),
        pooling_mode=PoolingMode.NONE,
        **given,
    )
    (weight,) = fused.split_embedding_weights()
    weight.copy_(initial())
    for step in range(STEPS):
        if rates is not None:
            fused.set_learning_rate(rates[step])
        ids = looked_up(step)
        (fused(ids, torch.arange(len(ids) + 1)) * gradient(step, ids)).sum().backward()
    torch.testing.assert_close(weight, trained(FACTORIES[name], sparse=False, rates=rates), rtol=1e-5, atol=1e-6)
