from __future__ import annotations

from collections.abc import Iterator

import pytest

from recsys.features.epochs import Epochs, ResumeError


class Counting(Epochs):
    """Batches that are their own numbers."""

    def __init__(self, n: int, seed: int = 0) -> None:
        self.n, self.seed = n, seed

    def __len__(self) -> int:
        return self.n

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        for place in self.places():
            yield epoch, place


def test_epochs_follow_each_other_though_nobody_asks_for_the_end() -> None:
    batches = Counting(3)
    found = [next(iter(batches)) for _ in range(7)]
    assert found == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2), (2, 0)]


@pytest.mark.parametrize("taken", range(8))
def test_a_position_goes_on_where_it_was_taken(taken: int) -> None:
    first, second = Counting(3, seed=5), Counting(3)
    for _ in range(taken):
        next(iter(first))
    second.load_state_dict(first.state_dict())
    assert second.seed == 5
    assert [next(iter(second)) for _ in range(5)] == [next(iter(first)) for _ in range(5)]


def test_a_position_amid_an_epoch_of_another_length_is_refused() -> None:
    """It would otherwise be an epoch without batches, and so would all that follow."""
    batches = Counting(5)
    for _ in range(4):
        next(iter(batches))
    state = batches.state_dict()
    with pytest.raises(ResumeError, match="before batch 5 of an epoch of 5, and there are 3 now: resume with"):
        Counting(3).load_state_dict(state)
    del state["batches"]  # as older checkpoints lack it
    with pytest.raises(ResumeError, match="there are 3 now"):
        Counting(3).load_state_dict(state)
    next(iter(batches))
    shorter = Counting(3)
    shorter.load_state_dict(batches.state_dict())  # between two epochs any length will do
    assert list(shorter) == [(1, 0), (1, 1), (1, 2)]
