"""The mask matrix against a loop over its rules."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from recsys.models.tokens import attention_mask, context_cutoffs, request_cutoffs


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


@given(st.lists(st.integers(0, 9), min_size=1, max_size=6), st.integers(0, 10))
@settings(max_examples=60, deadline=None)
def test_a_request_sees_only_what_was_strictly_before_it(times, request):
    times = sorted(times)
    padded = torch.tensor([[*times, 0, 0]])
    cutoff = request_cutoffs(padded, torch.tensor([len(times)]), torch.tensor([[request]]))
    assert cutoff.item() == sum(time < request for time in times)
