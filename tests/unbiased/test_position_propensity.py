from __future__ import annotations

import pytest
import torch

from recsys.unbiased.position_propensity import PositionPropensity
from recsys.unbiased.randomisation import shuffled_propensities


def test_logits_are_against_the_first_position() -> None:
    made = PositionPropensity(4)
    made.set_relative(torch.tensor([0.5, 0.25, 0.1, 0.05]))
    torch.testing.assert_close(made.relative(), torch.tensor([[1.0, 0.5, 0.2, 0.1]]))
    torch.testing.assert_close(made(2), torch.tensor([[1.0, 0.5]]).log())
    assert sum(weight.numel() for weight in made.parameters()) == 3


def test_each_context_has_its_curve() -> None:
    made = PositionPropensity(2, contexts=2)
    made.set_relative(torch.tensor([[1.0, 0.5], [1.0, 0.1]]))
    torch.testing.assert_close(made(2, torch.tensor([1, 0])).exp(), torch.tensor([[1.0, 0.1], [1.0, 0.5]]))


def test_unknown_contexts_are_refused() -> None:
    with pytest.raises(ValueError, match="a list of context 2, and propensities for 2 from 0: set `contexts`"):
        PositionPropensity(3, contexts=2)(3, torch.tensor([0, 2, 1]))


@pytest.mark.parametrize("sizes", [(0, 1), (3, 0)])
def test_no_positions_or_contexts_are_refused(sizes: tuple[int, int]) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        PositionPropensity(*sizes)


def test_shuffled_lists_tell_propensities() -> None:
    """Positions of a shuffled list are equally relevant: within 3 standard errors of 200,000 lists."""
    from recsys.unbiased.click_models import PositionBased

    draw, rho, n = torch.Generator().manual_seed(0), [0.8, 0.4, 0.2], 200_000
    relevance = torch.tensor([0.9, 0.5, 0.1])[torch.rand(n, 3, generator=draw).argsort(1)]
    click = PositionBased(rho).draw(relevance, torch.ones(n, 3, dtype=torch.bool), draw).click
    found = shuffled_propensities(click.sum(0), torch.full((3,), n))
    for position in range(3):
        chances = [chance * 0.5 for chance in (rho[position], rho[0])]
        error = found[position] * sum((1 - chance) / (n * chance) for chance in chances) ** 0.5
        assert abs(found[position] - rho[position] / rho[0]) <= 3 * error
    with pytest.raises(ValueError, match=r"position \[2\]"):
        shuffled_propensities(torch.tensor([3, 0, 1]), torch.tensor([5, 5, 5]))
