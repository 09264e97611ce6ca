from __future__ import annotations

from itertools import islice

import pytest
import torch

from recsys.unbiased.click_models import PositionBased, perceived_relevance
from recsys.unbiased.sessions import Sessions
from recsys.unbiased.synthetic_lists import JudgedLists, SyntheticQueries


def shown(queries: int = 40) -> JudgedLists:
    world = SyntheticQueries(seed=1)
    made = world.draw(queries, documents=15)
    return made.in_order(world.production_scores(made), 10)


def test_lists_are_ordered_by_the_production_ranker() -> None:
    """The grades follow it on the whole; the best documents are shown, and each once."""
    world = SyntheticQueries(seed=1)
    made = world.draw(300, documents=15)
    scores = world.production_scores(made)
    ordered = made.in_order(scores, 10)
    for row in range(5):
        order = scores[row].argsort(descending=True)[:10]
        assert torch.equal(ordered.features[row], made.features[row, order])
        assert torch.equal(ordered.label[row], made.label[row, order])
    by_position = ordered.label.double().mean(0)
    assert by_position[:3].mean() > by_position[-3:].mean() + 0.2
    assert set(made.label.unique().tolist()) == {0, 1, 2, 3, 4}


def test_batches_are_full_and_have_a_click_each() -> None:
    for lists in islice(Sessions(shown(), PositionBased(eta=2.0), batch_size=64), 5):
        assert lists.features.shape == (64, 10, 20) and bool(lists.click.any(1).all())
    with_silent = next(iter(Sessions(shown(), PositionBased(eta=2.0), batch_size=64, clicked_only=False)))
    assert len(with_silent.click) == 64 and not bool(with_silent.click.any(1).all())


def test_leaving_silent_lists_out_keeps_the_shares_of_traffic() -> None:
    """Clicks per query are proportional to those of all sessions; drawing again until a click is made would not be."""
    made = shown(3)
    sessions = Sessions(made, PositionBased(eta=2.0), batch_size=20_000)
    lists = next(iter(sessions))
    of_query = torch.stack([(lists.features[:, 0] == made.features[q, 0]).all(1) for q in range(3)])
    clicks = torch.stack([lists.click[which].sum(0) for which in of_query])
    chances = perceived_relevance(made.label) * PositionBased(eta=2.0).chances(10)
    expected = chances * clicks.sum() / chances.sum()
    assert ((clicks - expected).abs() < 4 * expected.sqrt()).all()


def test_logs_are_sessions_that_can_be_read_again() -> None:
    made = shown()
    log = Sessions(made, PositionBased(), seed=5).log(500)
    query, click = Sessions(made, PositionBased(), seed=5).draw(500)
    lists = log.lists(torch.arange(500))
    assert torch.equal(lists.features, made.features[query]) and torch.equal(lists.click, click)


@pytest.mark.parametrize("clicked_only", [True, False])
def test_draws_continue_where_they_were_saved(clicked_only: bool) -> None:
    first = Sessions(shown(), PositionBased(), 32, clicked_only, seed=2)
    list(islice(first, 3))
    state = first.state_dict()
    expected = next(iter(first))
    second = Sessions(shown(), PositionBased(), 32, clicked_only, seed=9)
    second.load_state_dict(state)
    assert torch.equal(next(iter(second)).click, expected.click)


def test_lists_that_nobody_would_click_are_refused_and_not_drawn_for_ever() -> None:
    silent = shown()._replace(label=torch.zeros_like(shown().label))
    with pytest.raises(ValueError, match="no batch would ever be full"):
        Sessions(silent, PositionBased(), noise=0.0)
    lists = next(iter(Sessions(silent, PositionBased(), 4, clicked_only=False, noise=0.0)))
    assert not lists.click.any()
