"""The row-wise Adam against torch's, and the pair of optimizers seen as one."""

from copy import deepcopy

import pytest
import torch
from torch import nn

from recsys.training.optimizers import CombinedOptimizer, table_parameters
from recsys.training.row_optimizer import distinct_rows
from recsys.training.sparse_adam import SparseAdam


def test_equals_torch_sparse_adam_with_repeated_ids():
    torch.manual_seed(0)
    ours, theirs = nn.Embedding(20, 4, sparse=True), nn.Embedding(20, 4, sparse=True)
    theirs.load_state_dict(ours.state_dict())
    first = SparseAdam(ours.parameters(), lr=0.01)
    second = torch.optim.SparseAdam(list(theirs.parameters()), lr=0.01, betas=(0.9, 0.98))
    for step in range(12):
        ids = torch.randint(20, (7,), generator=torch.Generator().manual_seed(step))
        weight = torch.randn(7, 4, generator=torch.Generator().manual_seed(100 + step))
        for table, optimizer in ((ours, first), (theirs, second)):
            optimizer.zero_grad()
            (table(ids) * weight).sum().backward()
            optimizer.step()
    torch.testing.assert_close(ours.weight, theirs.weight, atol=1e-6, rtol=1e-5)


def test_rows_that_were_not_looked_up_do_not_change():
    table = nn.Embedding(10, 3, sparse=True)
    before = table.weight.detach().clone()
    optimizer = SparseAdam(table.parameters(), lr=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        table(torch.tensor([2, 5])).sum().backward()
        optimizer.step()
    changed = (table.weight != before).any(dim=1).nonzero().flatten().tolist()
    assert changed == [2, 5]


def test_distinct_rows_merges_repeats_only():
    table = nn.Embedding(6, 2, sparse=True)
    table(torch.tensor([4, 1, 4])).sum().backward()
    rows, grad = distinct_rows(table.weight.grad)
    assert rows.tolist() == [1, 4]
    assert grad.tolist() == [[1, 1], [2, 2]]


def test_dense_gradients_are_refused():
    table = nn.Embedding(6, 2)
    table(torch.tensor([4])).sum().backward()
    with pytest.raises(ValueError, match="sparse gradients"):
        SparseAdam(table.parameters()).step()


def make() -> tuple[nn.ModuleDict, CombinedOptimizer]:
    torch.manual_seed(0)
    network = nn.ModuleDict({"table": nn.Embedding(8, 4, sparse=True), "dense": nn.Linear(4, 1)})
    tables = table_parameters(network)
    assert tables == [network["table"].weight]
    parts = {"dense": torch.optim.AdamW(network["dense"].parameters(), lr=0.1), "tables": SparseAdam(tables, lr=0.1)}
    return network, CombinedOptimizer(parts)


def step(network: nn.ModuleDict, optimizer: CombinedOptimizer, seed: int) -> None:
    ids = torch.randint(8, (5,), generator=torch.Generator().manual_seed(seed))
    optimizer.zero_grad()
    network["dense"](network["table"](ids)).square().sum().backward()
    optimizer.step()


def test_combined_state_round_trip_continues_exactly():
    network, optimizer = make()
    for seed in range(4):
        step(network, optimizer, seed)
    copy, second = make()
    copy.load_state_dict(network.state_dict())
    second.load_state_dict(deepcopy(optimizer.state_dict()))
    for seed in range(4, 8):
        step(network, optimizer, seed)
        step(copy, second, seed)
    for name, value in network.state_dict().items():
        assert torch.equal(value, copy.state_dict()[name]), name


def test_a_scheduler_reaches_every_part_also_after_loading():
    network, optimizer = make()
    step(network, optimizer, 0)
    optimizer.load_state_dict(optimizer.state_dict())
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda epoch: 0.5**epoch)
    step(network, optimizer, 1)
    scheduler.step()
    assert [group["lr"] for part in optimizer.optimizers.values() for group in part.param_groups] == [0.05, 0.05]


def test_a_checkpoint_of_other_optimizers_is_refused():
    _, optimizer = make()
    with pytest.raises(ValueError, match="checkpoint has optimizers"):
        optimizer.load_state_dict({"dense": optimizer.state_dict()["dense"]})
