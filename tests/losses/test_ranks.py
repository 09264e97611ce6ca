"""Means within `across_ranks`: averaged over the ranks they are the mean of one process over the whole batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsys.losses import ranks as module
from recsys.losses.base import SampledScores, weighted_mean
from recsys.losses.full_softmax import FullSoftmax
from recsys.losses.info_nce import InfoNCE
from recsys.losses.ranks import across_ranks, ranks, total


class Together:
    """Plays the ranks one after the other: first to hear what each would add, then with the sums."""

    def __init__(self, world: int):
        self.world, self.added, self.rank, self.call, self.sums = world, [[] for _ in range(world)], 0, 0, False

    def is_initialized(self) -> bool:
        return True

    def get_world_size(self) -> int:
        return self.world

    def all_reduce(self, tensor: Tensor) -> None:
        if self.sums:
            tensor.copy_(torch.stack([added[self.call] for added in self.added]).sum(0))
            self.call += 1
        else:
            self.added[self.rank].append(tensor.clone())

    def run(self, one: Callable[[int], Tensor]) -> list[Tensor]:
        for sums in (False, True):
            self.sums, found = sums, []
            for rank in range(self.world):
                self.rank, self.call = rank, 0
                with across_ranks():
                    found.append(one(rank))
        return found


@contextmanager
def played(world: int) -> Iterator[Together]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "dist", Together(world))
        yield module.dist


SHARES = st.lists(st.integers(0, 4), min_size=2, max_size=4).filter(any)
"""Rows of each rank."""


@settings(deadline=None)
@given(SHARES, st.booleans(), st.integers(0, 99))
def test_means_and_gradients_are_those_of_the_whole_batch(shares: list[int], weighted: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(sum(shares), generator=generator, dtype=torch.float64, requires_grad=True)
    weight = torch.rand(len(rows), generator=generator, dtype=torch.float64) if weighted else None
    expected = weighted_mean(rows, weight)
    (gradient,) = torch.autograd.grad(expected, rows)

    def one(rank: int) -> Tensor:
        part = slice(sum(shares[:rank]), sum(shares[: rank + 1]))
        return weighted_mean(rows[part], None if weight is None else weight[part])

    with played(len(shares)) as together:
        mean = torch.stack(together.run(one)).mean()
    torch.testing.assert_close(mean, expected, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(torch.autograd.grad(mean, rows)[0], gradient, rtol=1e-12, atol=0.0)


def test_a_step_without_a_row_is_zero_on_every_rank() -> None:
    with played(2) as together:
        found = together.run(lambda rank: weighted_mean(torch.ones(2, requires_grad=True), torch.zeros(2)))
    assert [part.item() for part in found] == [0.0, 0.0]


@settings(deadline=None, max_examples=20)
@given(SHARES, st.integers(0, 99))
def test_losses_over_the_catalogue_and_over_negatives(shares: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    rows = sum(shares)
    queries = torch.randn(rows, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    items = torch.randn(7, 4, generator=generator, dtype=torch.float64, requires_grad=True)
    target = torch.randint(0, 7, (rows,), generator=generator)  # 0 carries no loss
    softmax, sampled = FullSoftmax(), InfoNCE()
    sampled.setup(6)

    def of(part: slice) -> list[Tensor]:
        scores = queries[part] @ items[1:].T
        weight = (target[part] > 0).double()
        return [
            softmax(queries[part], items, target[part]).loss,
            sampled(SampledScores(scores[:, 0], scores[:, 1:], weight=weight)).loss,
        ]

    for which, expected in enumerate(of(slice(None))):
        want = torch.autograd.grad(expected, (queries, items), retain_graph=True)

        def one(rank: int, which: int = which) -> Tensor:
            return of(slice(sum(shares[:rank]), sum(shares[: rank + 1])))[which]

        with played(len(shares)) as together:
            mean = torch.stack(together.run(one)).mean()
            found = torch.autograd.grad(mean, (queries, items))
        torch.testing.assert_close(mean, expected, rtol=1e-10, atol=1e-12)
        for a, b in zip(found, want, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_outside_nothing_is_counted() -> None:
    count = torch.tensor(3.0)
    with played(2):
        assert ranks() == 1 and total(count) is count
        with across_ranks():
            assert ranks() == 2
            with across_ranks(False):
                assert ranks() == 1 and total(count) is count
            assert ranks() == 2
        with pytest.raises(KeyError), across_ranks():
            raise KeyError
        assert ranks() == 1
    with played(1), across_ranks():
        assert ranks() == 1 and total(count) is count
    with across_ranks():  # no process group at all
        assert ranks() == 1 and total(count) is count


def test_a_total_has_no_gradient_and_leaves_its_argument() -> None:
    count = torch.tensor([2.0, 3.0], requires_grad=True)
    with played(3) as together:
        found = together.run(lambda rank: total(count * (rank + 1)))
    assert all(sums.tolist() == [12.0, 18.0] and not sums.requires_grad for sums in found)
    assert count.tolist() == [2.0, 3.0]
