"""Rules against the enumeration of all lists, and against what is drawn."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from recsys.simulation.world.rules import EpsilonGreedy, Greedy, PlackettLuce, Rule

PLACKETT_LUCE: list[Rule] = [PlackettLuce(temperature) for temperature in (1.0, 0.4, math.inf)]
RULES: list[Rule] = [Greedy(), EpsilonGreedy(0.3), EpsilonGreedy(1.0), *PLACKETT_LUCE]
SCORES = [2.0, 1.5, 0.0, -1.0]
DRAWS = 100_000


def oracle(rule: Rule, ranking: tuple[int, ...]) -> list[float]:
    """The chance of each item of a list, by a loop over the items left."""
    left, chances = list(range(len(SCORES))), []
    for item in ranking:
        if isinstance(rule, PlackettLuce):
            weight = {other: math.exp(SCORES[other] / rule.temperature) for other in left}
            chances.append(weight[item] / sum(weight.values()))
        else:
            assert isinstance(rule, EpsilonGreedy)
            chances.append((1 - rule.epsilon) * (item == left[0]) + rule.epsilon / len(left))
        left.remove(item)
    return chances


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_propensities_of_all_lists_are_right_and_their_products_sum_to_one(rule: Rule) -> None:
    lists = list(itertools.permutations(range(4), 3))
    scores = torch.tensor([SCORES]).expand(len(lists), -1)
    found = rule.propensity(scores, torch.tensor(lists))
    expected = torch.tensor([oracle(rule, ranking) for ranking in lists], dtype=torch.float64)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-12)
    assert found.prod(1).sum().item() == pytest.approx(1.0)


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_lists_are_drawn_as_often_as_their_propensities_say(rule: Rule) -> None:
    scores = torch.tensor([SCORES]).expand(DRAWS, -1)
    columns, propensity = rule.draw(scores, 3, torch.Generator().manual_seed(0))
    code = (columns * torch.tensor([16, 4, 1])).sum(1)
    for ranking in itertools.permutations(range(4), 3):
        chance = math.prod(oracle(rule, ranking))
        mine = code == ranking[0] * 16 + ranking[1] * 4 + ranking[2]
        # 24 lists and 6 rules: 4.5 errors leave all of them together less risk than 3 leave one.
        assert abs(mine.double().mean().item() - chance) <= 4.5 * math.sqrt(chance * (1 - chance) / DRAWS) + 1e-9
        if mine.any():
            torch.testing.assert_close(propensity[mine].prod(1), torch.full((int(mine.sum()),), chance).double())


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_the_first_position_is_the_marginal_chance(rule: Rule) -> None:
    scores = torch.tensor([[*SCORES, -torch.inf], [1.0, *[-torch.inf] * 4]])
    first = rule.first(scores)
    alone = torch.stack([rule.propensity(scores, torch.full((2, 1), column))[:, 0] for column in range(5)], dim=1)
    torch.testing.assert_close(first, alone * torch.isfinite(scores), rtol=1e-6, atol=1e-12)
    torch.testing.assert_close(first.sum(1), torch.ones(2, dtype=torch.float64))


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: type(rule).__name__)
def test_no_candidate_is_chosen_twice_and_none_is_invented(rule: Rule) -> None:
    scores = torch.tensor([[2.0, 1.0, -torch.inf, -torch.inf]]).expand(500, -1)
    columns, propensity = rule.draw(scores, 4, torch.Generator().manual_seed(1))
    assert (columns[:, :2].sort(1).values == torch.tensor([0, 1])).all()
    assert (columns[:, 2:] >= 2).all() and (propensity[:, 2:] == 1).all()
    unknown = rule.propensity(scores[:1], torch.tensor([[-1, 0, 1]]))
    assert unknown[0, 0] == 0
    torch.testing.assert_close(unknown[:, 1:], rule.propensity(scores[:1], torch.tensor([[0, 1]])))


def test_scores_far_apart_do_not_cancel() -> None:
    scores = torch.tensor([[1e6, 1.0, 0.0]])
    found = PlackettLuce().propensity(scores, torch.tensor([[0, 1]]))
    torch.testing.assert_close(found, torch.tensor([[1.0, 1 / (1 + math.exp(-1))]], dtype=torch.float64))


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ValueError, match=r"between 0 and 1, not 1\.1"):
        EpsilonGreedy(1.1)
    with pytest.raises(ValueError, match=r"must be positive, not 0\.0"):
        PlackettLuce(0.0)
