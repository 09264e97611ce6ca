"""The spread-out regularisers against loops over pairs."""

from __future__ import annotations

import math

import pytest
import torch

from recsys.training.spread_out import SpreadOut, squared_cosines
from tests.training.test_feature_masking import CPU, N_ITEMS, Watch, catalogue, network


def spread(temperature: float | None, **arguments: int) -> SpreadOut:
    made = SpreadOut(temperature=temperature, **{"n": 24} | arguments)
    made.setup(catalogue(), 5, CPU)
    return made


@pytest.mark.parametrize("maskable", [True, False])
@pytest.mark.parametrize("temperature", [None, 0.3])
def test_is_the_sum_over_pairs(temperature: float | None, maskable: bool) -> None:
    """Of the plain vectors of the items that were drawn."""
    of = catalogue()
    made, term = network(of, maskable=maskable), spread(temperature)
    watch = Watch(made)
    loss, parts = term(made)
    assert torch.equal(parts["loss"], loss.detach()) and len(watch.ids[0].unique()) == 24
    vectors = [vector.tolist() for vector in made.items(watch.ids[0])]
    cosine = [
        [sum(a * b for a, b in zip(x, y, strict=True)) / math.hypot(*x) / math.hypot(*y) for y in vectors]
        for x in vectors
    ]
    total = 0.0
    for i, row in enumerate(cosine):
        others = [value for j, value in enumerate(row) if j != i]
        if temperature is None:
            total += sum(value**2 for value in others)
        else:
            own = math.exp(1 / temperature)
            total -= math.log(own / (own + sum(math.exp(value / temperature) for value in others)))
    assert loss.item() == pytest.approx(total / 24, rel=1e-4)


@pytest.mark.parametrize("temperature", [None, 0.3])
def test_spreads_items_out_and_trains_nothing_else(temperature: float | None) -> None:
    made = network(catalogue(), maskable=False)
    term = spread(temperature, n=N_ITEMS)
    optimizer = torch.optim.SGD(made.parameters(), lr=0.002)
    losses = []
    for _ in range(20):
        optimizer.zero_grad()
        loss = term(made).loss
        loss.backward()
        assert all(name.startswith("items.") for name, w in made.named_parameters() if w.grad is not None)
        losses.append(loss.item())
        optimizer.step()
    assert losses == sorted(losses, reverse=True) and losses[-1] < losses[0] - 0.05


def test_few_dimensions_hold_so_many_apart() -> None:
    """A tight frame is the optimum (Welch): the sum over pairs is N / d - 1 for each of N vectors in d dimensions."""
    angles = torch.arange(6) * math.pi / 6
    frame = torch.stack([angles.cos(), angles.sin()], dim=1)
    torch.testing.assert_close(squared_cosines(5 * frame), torch.tensor(6 / 2 - 1.0))
    assert squared_cosines(torch.randn(6, 2, generator=torch.Generator().manual_seed(0))) > 2
    assert squared_cosines(torch.eye(4)).item() == 0.0


def test_draws_are_continued() -> None:
    made, term = network(catalogue()), spread(None)
    term(made)
    state = term.random_state()
    rest = [term(made).loss.item() for _ in range(5)]
    again = SpreadOut(n=24)
    again.setup(catalogue(), 8, CPU)
    again.load_random_state(state)
    assert [again(made).loss.item() for _ in range(5)] == rest and len(set(rest)) == 5
