"""Frequencies of a stream against a loop over its batches, against the truth, and after it has changed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from recsys.features.streaming_frequency import StreamingFrequency

N_ITEMS = 30
TRUE = torch.linspace(1, 12, N_ITEMS, dtype=torch.float64) ** 2 / (torch.linspace(1, 12, N_ITEMS) ** 2).sum()
EVERY = torch.arange(1, N_ITEMS + 1)


def made(alpha: float = 0.01, buckets: int | None = None) -> StreamingFrequency:
    frequency = StreamingFrequency(buckets, alpha)
    frequency.setup(N_ITEMS)
    return frequency


def stream(batches: int, rows: int, seed: int = 0, share: Tensor = TRUE) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(share, batches * rows, replacement=True, generator=generator).view(batches, rows) + 1


class Loop:
    """The same, bucket by bucket."""

    def __init__(self, buckets: int, alpha: float):
        self.buckets, self.alpha, self.seen = buckets, alpha, 0
        self.last: dict[int, int] = {}
        self.times: dict[int, int] = {}
        self.gap: dict[int, float] = {}
        self.count: dict[int, float] = {}

    def update(self, items: list[int]) -> None:
        self.seen += len(items)
        in_buckets = [item % self.buckets for item in items]
        for bucket in set(in_buckets):
            gap, count = self.seen - self.last.get(bucket, 0), in_buckets.count(bucket)
            self.last[bucket] = self.seen
            self.times[bucket] = self.times.get(bucket, 0) + 1
            rate = max(self.alpha, 1 / self.times[bucket])
            self.gap[bucket] = (1 - rate) * self.gap.get(bucket, 0.0) + rate * gap
            self.count[bucket] = (1 - rate) * self.count.get(bucket, 0.0) + rate * count

    def share(self, item: int) -> float:
        bucket = item % self.buckets
        return self.count[bucket] / self.gap[bucket] if bucket in self.gap else 1 / (self.seen + 1)


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.integers(1, N_ITEMS), max_size=9), max_size=12),
    st.sampled_from([None, 1, 4, 100]),
    st.sampled_from([0.01, 0.3, 0.9]),
)
def test_it_is_the_loop(batches: list[list[int]], buckets: int | None, alpha: float) -> None:
    frequency, loop = made(alpha, buckets), Loop(buckets or N_ITEMS + 1, alpha)
    for batch in batches:
        frequency.update(torch.tensor(batch, dtype=torch.int64))
        loop.update(batch)
        expected = torch.tensor([loop.share(item) for item in EVERY.tolist()], dtype=torch.float64)
        torch.testing.assert_close(frequency.share(EVERY), expected)


def test_with_single_items_in_equal_batches_it_is_the_algorithm_of_the_source() -> None:
    """One over the average gap in steps, over the size of a batch, once what an average began with is forgotten."""
    alpha, rows = 0.1, 5
    frequency = made(alpha)
    generator = torch.Generator().manual_seed(0)
    last, average = [0] * (N_ITEMS + 1), [3.0] * (N_ITEMS + 1)
    for step in range(1, 2001):
        items = torch.randperm(N_ITEMS, generator=generator)[:rows] + 1
        frequency.update(items)
        for item in items.tolist():
            average[item] = (1 - alpha) * average[item] + alpha * (step - last[item])
            last[item] = step
    expected = 1 / torch.tensor(average[1:], dtype=torch.float64) / rows
    torch.testing.assert_close(frequency.share(EVERY), expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize("rows", [4, 40, 400])
def test_it_converges_to_the_share_whatever_the_batches(rows: int) -> None:
    """Also of items that stand several times in every batch."""
    frequency = made()
    for batch in stream(80_000 // rows, rows):
        frequency.update(batch)
    torch.testing.assert_close(frequency.share(EVERY), TRUE, rtol=0.35, atol=0)
    assert (frequency.share(EVERY) / TRUE - 1).mean().abs() < 0.05


def test_batches_of_changing_size_do_not_bend_it() -> None:
    frequency, targets = made(), stream(1, 80_000).flatten()
    sizes = torch.randint(1, 300, (400,), generator=torch.Generator().manual_seed(1)).tolist()
    for batch in targets[: sum(sizes)].split(sizes):
        frequency.update(batch)
    assert (frequency.share(EVERY) / TRUE - 1).mean().abs() < 0.05


def test_it_is_right_from_the_beginning() -> None:
    """A moving average that had begun anywhere would still be there after so few batches: 0.99 ** 8 is 0.92."""
    shares = []
    for seed in range(300):
        frequency = made()
        for batch in stream(8, 40, seed):
            frequency.update(batch)
        shares.append(frequency.share(EVERY[-5:]))
    torch.testing.assert_close(torch.stack(shares).mean(0), TRUE[-5:], rtol=0.05, atol=0)


def test_it_follows_a_drift() -> None:
    frequency, other = made(alpha=0.02), TRUE.flip(0)
    for batch in stream(500, 40):
        frequency.update(batch)
    assert (frequency.share(EVERY) - TRUE).abs().sum() < (frequency.share(EVERY) - other).abs().sum() / 5
    for batch in stream(1500, 40, seed=1, share=other):
        frequency.update(batch)
    assert (frequency.share(EVERY) - other).abs().sum() < (frequency.share(EVERY) - TRUE).abs().sum() / 5


def test_items_of_a_bucket_are_counted_together() -> None:
    frequency = made(buckets=10)
    for batch in stream(2000, 40):
        frequency.update(batch)
    together = TRUE.view(3, 10).sum(0).repeat(3)  # items 1, 11, 21 and so on
    torch.testing.assert_close(frequency.share(EVERY), together, rtol=0.3, atol=0)


def test_it_goes_on_from_its_state(tmp_path: Path) -> None:
    first, second = made(), made()
    batches = stream(60, 20)
    for batch in batches[:30]:
        first.update(batch)
    torch.save(first.state_dict(), tmp_path / "state.pt")
    second.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for batch in batches[30:]:
        first.update(batch)
        second.update(batch)
    assert torch.equal(first.share(EVERY), second.share(EVERY))
    with pytest.raises(ValueError, match=r"frequencies of 31 buckets cannot go on with 7: .* same `buckets`"):
        made(buckets=7).load_state_dict(first.state_dict())


def test_a_state_does_not_change_with_what_it_was_taken_of() -> None:
    frequency = made()
    frequency.update(torch.tensor([1, 2, 2]))
    state = frequency.state_dict()
    kept = {name: torch.as_tensor(value).clone() for name, value in state.items()}
    other = made()
    other.load_state_dict(state)
    for one in (frequency, other):
        one.update(torch.tensor([1, 2, 3]))
    assert all(torch.equal(torch.as_tensor(state[name]), value) for name, value in kept.items())


@pytest.mark.parametrize(("arguments", "message"), [({"buckets": 0}, "buckets"), ({"alpha": 1.0}, "alpha")])
def test_misuse_is_refused(arguments: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        StreamingFrequency(**arguments)  # type: ignore[arg-type]
