"""The mask matrix against a loop over its rules."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.models.tokens import Slots, attention_mask, context_cutoffs


@given(context=st.integers(1, 6), asked=st.lists(st.integers(0, 6), max_size=4))
@settings(max_examples=60, deadline=None)
def test_mask_follows_the_rules(context, asked):
    asked = [min(event, context) for event in asked]
    cutoffs = torch.cat([context_cutoffs(1, context), torch.tensor([asked], dtype=torch.int64)], dim=1)
    mask = attention_mask(cutoffs, context)[0]
    for row in range(context + len(asked)):
        for column in range(context + len(asked)):
            if row < context:
                expected = column <= row
            else:
                expected = column == row or (column < context and column < asked[row - context])
            assert mask[row, column] == expected


def test_context_alone_is_causal():
    mask = attention_mask(context_cutoffs(2, 5), 5)
    assert torch.equal(mask, torch.ones(2, 5, 5, dtype=torch.bool).tril())


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 5)), max_size=8))
@settings(max_examples=60, deadline=None)
def test_places_keep_slots_apart_and_show_each_its_cutoff(slots):
    row, cutoff = (torch.tensor([slot[i] for slot in slots], dtype=torch.int64) for i in range(2))
    empty = torch.zeros_like(row)
    places = Slots(row, cutoff, empty, empty).places(4, 5)
    assert len(set(places.at.tolist())) == len(slots)
    for at, (user, seen) in zip(places.at.tolist(), slots, strict=True):
        assert at // max(places.shape[1], 1) == user
        assert places.visible.flatten(0, 1)[at].tolist() == [column < seen for column in range(5)]
