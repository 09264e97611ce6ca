"""Click models against closed forms and against the enumeration of everything that a user can do."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import pytest
import torch

from recsys.unbiased.click_models import (
    AFTER_CLICK,
    EXAMINATION,
    Cascade,
    ClickModel,
    PositionBased,
    TrustBias,
    UserBrowsing,
    perceived_relevance,
)

ALL: list[ClickModel] = [PositionBased(), TrustBias(), UserBrowsing(), Cascade(), Cascade(0.3)]
DRAWS = 200_000


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def rates(model: ClickModel, relevance: Sequence[float], seed: int = 0) -> list[float]:
    """Share of users who click at each position of one list."""
    of_list = torch.tensor(relevance).expand(DRAWS, -1)
    return model.draw(of_list, torch.ones(of_list.shape, dtype=torch.bool), generator(seed)).click.mean(0).tolist()


def check(found: Sequence[float], expected: Sequence[float], errors: float = 3.0) -> None:
    for position, (share, chance) in enumerate(zip(found, expected, strict=True), start=1):
        error = math.sqrt(chance * (1 - chance) / DRAWS)
        assert abs(share - chance) <= errors * error + 1e-9, f"position {position}: {share} for {chance}"


def test_grades_look_relevant_as_published() -> None:
    expected = [0.1, 0.16, 0.28, 0.52, 1.0]
    torch.testing.assert_close(perceived_relevance(torch.arange(5)), torch.tensor(expected), atol=1e-6, rtol=0)
    assert perceived_relevance(torch.tensor([0, 1]), noise=0.0, highest=1).tolist() == [0.0, 1.0]


@pytest.mark.parametrize("eta", [0.0, 1.0, 2.0])
def test_click_rate_is_examination_times_relevance_for_every_position_and_grade(eta: float) -> None:
    for grade, relevance in enumerate(perceived_relevance(torch.arange(5)).tolist()):
        expected = [rho**eta * relevance for rho in EXAMINATION]
        # Fifty cells: 4 errors leave all of them together the risk that 3 leave one.
        check(rates(PositionBased(eta=eta), [relevance] * 10, seed=grade), expected, errors=4.0)


@pytest.mark.parametrize("model", ALL, ids=lambda model: type(model).__name__)
def test_expected_clicks_are_the_rates_of_drawn_ones(model: ClickModel) -> None:
    relevance = torch.tensor([[0.6, 0.2, 0.9, 0.3, 0.5, 0.7, 0.1, 0.4, 0.8, 0.5, 0.6, 0.9]])
    mask = torch.ones(1, 12, dtype=torch.bool)
    check(rates(model, relevance[0].tolist()), model.expected(relevance, mask)[0].tolist(), errors=4.0)
    shorter = model.expected(relevance, torch.arange(12)[None] < 5)
    torch.testing.assert_close(shorter[:, :5], model.expected(relevance, mask)[:, :5])
    assert not shorter[:, 5:].any()


def test_trust_adds_clicks_of_irrelevant_documents_at_the_top() -> None:
    model = TrustBias([0.9, 0.5], relevant=[0.95, 0.9], irrelevant=[0.6, 0.1])
    relevance = [0.7, 0.2, 0.4]
    expected = [0.9 * (0.7 * 0.95 + 0.3 * 0.6), 0.5 * (0.2 * 0.9 + 0.8 * 0.1), 0.5 * (0.4 * 0.9 + 0.6 * 0.1)]
    check(rates(model, relevance), expected)
    assert rates(TrustBias(relevant=[1.0], irrelevant=[0.0]), relevance) == rates(PositionBased(), relevance)


def browsing_rates(relevance: Sequence[float], examination: Callable[[int, int], float]) -> list[float]:
    """Click rates from the chances of all patterns of clicks; `examination(position, last click)`, from 1, 0: none."""
    found = [0.0] * len(relevance)
    for pattern in itertools.product([0, 1], repeat=len(relevance)):
        chance, last = 1.0, 0
        for position, click in enumerate(pattern, start=1):
            of_click = examination(position, last) * relevance[position - 1]
            chance *= of_click if click else 1 - of_click
            last = position if click else last
        for place, click in enumerate(pattern):
            found[place] += click * chance
    return found


@pytest.mark.parametrize("eta", [1.0, 2.0])
def test_browsing_depends_on_the_last_click(eta: float) -> None:
    relevance = [0.5, 0.9, 0.2, 0.8, 0.6, 0.7]

    def examination(position: int, last: int) -> float:
        row = AFTER_CLICK[position - 1]
        return (row[-1] if last == 0 else row[position - last - 1]) ** eta

    check(rates(UserBrowsing(eta=eta), relevance), browsing_rates(relevance, examination))


def test_positions_beyond_the_table_are_like_its_last_row() -> None:
    table = [[0.9], [0.8, 0.7], [0.6, 0.3, 0.5]]
    relevance = [0.5, 0.6, 0.7, 0.8, 0.9]

    def examination(position: int, last: int) -> float:
        row = table[min(position, 3) - 1]
        return row[-1] if last == 0 else row[min(position - last, len(row) - 1) - 1]

    check(rates(UserBrowsing(table), relevance), browsing_rates(relevance, examination))
    assert PositionBased([0.5, 0.2]).chances(4).tolist() == pytest.approx([0.5, 0.2, 0.2, 0.2])


@pytest.mark.parametrize("satisfied", [0.0, 0.4, 1.0])
def test_a_cascade_ends_with_a_satisfying_click(satisfied: float) -> None:
    relevance = [0.5, 0.9, 0.2, 0.8]
    expected = [r * math.prod(1 - above * satisfied for above in relevance[:i]) for i, r in enumerate(relevance)]
    check(rates(Cascade(satisfied), relevance), expected)


def test_an_unsatisfied_or_satisfied_reader_of_a_cascade_clicks_once_or_more() -> None:
    of_list, mask = torch.full((500, 6), 0.8), torch.ones(500, 6, dtype=torch.bool)
    assert Cascade().draw(of_list, mask, generator()).click.sum(1).max() == 1
    assert Cascade(0.1).draw(of_list, mask, generator()).click.sum(1).max() > 2


@pytest.mark.parametrize("model", ALL, ids=lambda model: type(model).__name__)
def test_nothing_happens_where_a_list_is_shorter(model: ClickModel) -> None:
    mask = torch.arange(12) < torch.arange(1, 13)[:, None].repeat(50, 1)
    clicks = model.draw(torch.full(mask.shape, 0.9), mask, generator())
    assert not clicks.click[~mask].any() and not clicks.examined[~mask].any()
    assert clicks.click.any() and bool(clicks.examined[clicks.click > 0].all())


@pytest.mark.parametrize("model", ALL, ids=lambda model: type(model).__name__)
def test_draws_come_from_the_generator_alone(model: ClickModel) -> None:
    of_list, mask = torch.full((50, 10), 0.5), torch.ones(50, 10, dtype=torch.bool)
    before = torch.get_rng_state()
    first = model.draw(of_list, mask, generator(3))
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.click, model.draw(of_list, mask, generator(3)).click)
    assert not torch.equal(first.click, model.draw(of_list, mask, generator(4)).click)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PositionBased([0.5, 0.0]), "above 0"),
        (lambda: PositionBased([1.2]), "not above 1"),
        (lambda: PositionBased([]), "examination"),
        (lambda: PositionBased(eta=-1), "severity"),
        (lambda: UserBrowsing([[1.0], [0.5]]), "row 2"),
        (lambda: Cascade(1.5), "between 0 and 1"),
    ],
)
def test_what_is_no_chance_is_refused(make: Callable[[], ClickModel], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make()
