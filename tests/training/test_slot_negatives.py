"""Negatives of ranking slots: never what the user wants, hard ones by score, all reproducible."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.training.slot_negatives import SlotNegatives


def made(seed: int = 0, **arguments) -> SlotNegatives:
    negatives = SlotNegatives(**arguments)
    negatives.setup(seed)
    return negatives


def inputs(slots: int = 6, size: int = 40, wanted: int = 3, seed: int = 0):
    """Scores, positive scores, wanted items and a pool without repetitions."""
    generator = torch.Generator().manual_seed(seed)
    pool = torch.randperm(1000, generator=generator)[:size] + 1
    scores = torch.rand(slots, size, generator=generator)
    among = torch.randint(size, (slots, wanted), generator=generator)
    return scores, torch.full((slots,), 0.9), pool[among], pool


@given(st.integers(0, 50), st.integers(1, 6), st.sampled_from([0.0, 0.3, 1.0]), st.integers(8, 40))
@settings(max_examples=60, deadline=None)
def test_no_valid_negative_is_wanted(seed, n, hard, size):
    scores, positive, wanted, pool = inputs(size=size, seed=seed)
    column, valid = made(seed, n=n, hard=hard).choose(scores, positive, wanted, pool)
    assert column.shape == valid.shape == (6, n)
    taken = pool[column]
    for slot in range(6):
        assert not set(taken[slot][valid[slot]].tolist()) & set(wanted[slot].tolist())


@given(st.integers(0, 50))
@settings(max_examples=40, deadline=None)
def test_hard_ones_are_the_highest_that_are_allowed(seed):
    """Against a loop over the pool: the best by score, wanted ones and those too near the positive left out."""
    scores, positive, wanted, pool = inputs(seed=seed)
    column, valid = made(n=4, hard=1.0, tolerance=0.95).choose(scores, positive, wanted, pool)
    assert valid.all()
    for slot in range(6):
        allowed = [
            place
            for place in range(len(pool))
            if scores[slot, place] <= 0.95 * positive[slot] and pool[place] not in wanted[slot]
        ]
        best = sorted(allowed, key=lambda place: -scores[slot, place])[:4]
        assert sorted(column[slot].tolist()) == sorted(best)


def test_half_hard_leaves_the_rest_to_chance():
    scores, positive, wanted, pool = inputs(slots=300, size=200, wanted=1)
    column, valid = made(n=8, hard=0.5, tolerance=float("inf")).choose(scores, positive, wanted + 1000, pool)
    rank = scores.argsort(1, descending=True).argsort(1).gather(1, column)
    assert valid.all()
    assert (rank[:, :4] < 4).all()
    spread = rank[:, 4:].float()
    standard_error = (200**2 / 12 / spread.numel()) ** 0.5
    assert abs(spread.mean().item() - 99.5) < 4 * standard_error


def test_the_filter_leaves_room_for_random_ones():
    """An untrained model: everything scores like the positive, so nothing may count as hard."""
    scores, _, wanted, pool = inputs()
    near = torch.full_like(scores, 0.5)
    column, valid = made(n=4, hard=1.0).choose(near, torch.full((6,), 0.5), wanted, pool)
    assert valid.all()
    assert len(set(column.flatten().tolist())) > 6


def test_a_negative_positive_score_is_kept_at_a_distance():
    scores, _, wanted, pool = inputs()
    scores = scores - 2
    positive = torch.full((6,), -1.2)
    column, _ = made(n=3, hard=1.0).choose(scores, positive, wanted, pool)
    limit = positive - 0.1 * scores.std(1)
    assert (scores.gather(1, column) <= limit.unsqueeze(1)).all()


def test_a_slot_that_wants_everything_has_no_negative():
    pool = torch.tensor([5, 6])
    _, valid = made(n=3).choose(torch.rand(2, 2), torch.ones(2), torch.tensor([[5, 6], [5, 0]]), pool)
    assert not valid[0].any()
    assert valid[1].any()


def test_draws_go_on_from_a_saved_state():
    given_ = inputs()
    first = made(n=4)
    first.choose(*given_)
    state = first.state_dict()
    expected = first.choose(*given_).column
    again = made(seed=9, n=4)
    again.load_state_dict(state)
    assert torch.equal(again.choose(*given_).column, expected)


@pytest.mark.parametrize("arguments", [{"n": 0}, {"hard": -0.1}, {"hard": 1.5}])
def test_settings_that_make_no_sense_are_refused(arguments):
    with pytest.raises(ValueError, match="n must be positive"):
        SlotNegatives(**arguments)
