"""Samplers draw what they declare, resume, and find the negatives that are the positive."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from recsys.features.drawn_negatives import Negatives
from recsys.features.negatives import InBatch, Mixed, NegativeSampler, Popularity, Uniform
from recsys.features.streaming_frequency import StreamingFrequency

N_ITEMS = 12
COUNTS = torch.tensor([7, 1, 40, 5, 9, 22, 3, 3, 17, 2, 60, 11, 30])  # row 0 must be ignored
TRUE = (COUNTS[1:] / COUNTS[1:].sum()).double()

SAMPLERS: dict[str, Callable[[], NegativeSampler]] = {
    "uniform": lambda: Uniform(16, corrected=True),
    "uniform per position": lambda: Uniform(5, per_position=True, corrected=True),
    "popularity": lambda: Popularity(16, alpha=0.75),
    "popularity per position": lambda: Popularity(5, alpha=1.5, per_position=True),
    "in batch": lambda: InBatch(),
    "some of the batch": lambda: InBatch(6),
    "learned frequencies": lambda: InBatch(6, frequencies=StreamingFrequency(buckets=5)),
    "mixed": lambda: Mixed([Uniform(7), Popularity(3, alpha=1.0), InBatch(4)]),
}


def make(name: str, seed: int = 3) -> NegativeSampler:
    sampler = SAMPLERS[name]()
    sampler.setup(N_ITEMS, COUNTS, seed)
    return sampler


def targets(rows: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.multinomial(TRUE, rows, replacement=True, generator=generator) + 1


@pytest.mark.parametrize("name", ["uniform", "popularity", "uniform per position", "popularity per position"])
def test_frequencies_are_the_declared_ones(name: str) -> None:
    sampler, target = make(name), targets(100)
    drawn = torch.cat([sampler.draw(target).flatten() for _ in range(1000)])
    declared = sampler.expected_count(torch.arange(1, N_ITEMS + 1), 100).expand(N_ITEMS).double()
    declared /= declared.sum()
    assert drawn.min() >= 1
    observed = torch.bincount(drawn, minlength=N_ITEMS + 1)[1:].double()
    assert stats.chisquare(observed, declared * drawn.numel()).pvalue > 1e-3


def test_popularity_is_count_to_the_power_alpha() -> None:
    sampler = Popularity(10, alpha=0.5)
    sampler.setup(N_ITEMS, COUNTS)
    declared = sampler.expected_count(torch.arange(1, N_ITEMS + 1), 1)
    expected = 10 * COUNTS[1:].double().sqrt() / COUNTS[1:].double().sqrt().sum()
    torch.testing.assert_close(declared.double(), expected, rtol=1e-6, atol=0)


def test_popularity_never_draws_an_item_without_counts() -> None:
    counts = torch.zeros(1001)
    counts[[3, 500, 998]] = torch.tensor([1.0, 1e6, 1.0])
    sampler = Popularity(200_000, alpha=0.3)
    sampler.setup(1000, counts)
    assert set(sampler.draw(targets(1)).tolist()) == {3, 500, 998}


STATIC = [name for name in SAMPLERS if name != "learned frequencies"]  # whose shares are the true ones from the start


@pytest.mark.parametrize("name", STATIC)
def test_expected_counts_add_up_to_the_negatives_of_a_row(name: str) -> None:
    sampler, target = make(name), targets(9)
    ids = torch.arange(1, N_ITEMS + 1)
    total = sampler.expected_count(ids, 9).expand(N_ITEMS).sum().item()
    drawn = sampler.draw(target).shape[-1]
    own = {"in batch": 1, "some of the batch": 6 / 9, "mixed": 4 / 9}.get(name, 0)  # a row's own column is a hit
    assert total == pytest.approx(drawn - own, rel=1e-6)


@pytest.mark.parametrize("name", STATIC)
def test_expected_counts_of_a_row_are_those_observed(name: str) -> None:
    """Row 0 counts its negatives over many batches; its own target's column is left out."""
    sampler, rows, repeats = make(name), 9, 3000
    counts = torch.zeros(repeats, N_ITEMS + 1)
    batches = targets(rows * repeats, seed=5).view(repeats, rows)
    batches[:, 0] = 1  # whatever its own target is, the others are independent of it
    for line, target in zip(counts, batches, strict=True):
        ids = sampler.draw(target)
        line += torch.bincount(ids[0] if ids.dim() == 2 else ids, minlength=N_ITEMS + 1)
    own = {"in batch": 1, "some of the batch": 6 / 9, "mixed": 4 / 9}.get(name, 0)
    observed, error = counts.mean(0), counts.std(0) / repeats**0.5
    observed[1] -= own
    declared = sampler.expected_count(torch.arange(1, N_ITEMS + 1), rows).expand(N_ITEMS)
    assert counts[:, 0].sum() == 0
    assert ((observed[1:] - declared).abs() / error[1:]).max() < 4.5


@pytest.mark.parametrize("name", SAMPLERS)
def test_log_q_is_the_log_of_the_expected_count_of_each_negative(name: str) -> None:
    sampler, target = make(name), targets(9)
    negatives = sampler.sample(target)
    assert negatives.log_q is not None and negatives.log_q_positive is None
    everything = sampler.expected_count(torch.arange(N_ITEMS + 1), 9).expand(N_ITEMS + 1)
    expected = everything[negatives.ids].log()
    torch.testing.assert_close(negatives.log_q.expand(expected.shape), expected)


def test_uniform_is_not_corrected_by_default() -> None:
    sampler = Uniform(4)
    sampler.setup(10)
    assert sampler.sample(targets(3)).log_q is None


def test_in_batch_leaves_out_rows_without_target_and_corrects_the_positive_on_demand() -> None:
    sampler = InBatch(correct_positive=True)
    sampler.setup(N_ITEMS, COUNTS)
    target = torch.tensor([0, 3, 10, 0, 3])
    negatives = sampler.sample(target)
    assert negatives.ids.tolist() == [3, 10, 3]
    assert negatives.log_q is not None and negatives.log_q_positive is not None
    torch.testing.assert_close(negatives.log_q.double(), (2 * TRUE[negatives.ids - 1]).log(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(negatives.log_q_positive[target > 0], negatives.log_q)


@pytest.mark.parametrize("correct_positive", [False, True])
@pytest.mark.parametrize("correction", [0.0, 0.3, 1.0])
def test_in_batch_corrects_by_a_share(correction: float, correct_positive: bool) -> None:
    """At 1 as if nothing had been said, at 0 not at all, and to the power between."""
    full, part = (InBatch(6, correct_positive=correct_positive, correction=share) for share in (1.0, correction))
    plain = InBatch(6, correct_positive=correct_positive)
    target = torch.tensor([0, 3, 10, 0, 3, 8, 8, 2, 1, 1])
    drawn = []
    for sampler in (full, part, plain):
        sampler.setup(N_ITEMS, COUNTS, seed=1)
        drawn.append(sampler.sample(target))
    assert torch.equal(drawn[0].ids, drawn[1].ids)
    for whole, some, unsaid in zip(drawn[0][1:], drawn[1][1:], drawn[2][1:], strict=True):
        assert (whole is None and unsaid is None) or torch.equal(whole, unsaid)
        if whole is None or correction == 0:
            assert some is None
        else:
            torch.testing.assert_close(some.exp(), whole.exp() ** correction)
            assert correction < 1 or torch.equal(some, whole)


def test_in_batch_learns_frequencies_from_what_it_draws() -> None:
    """Every batch is noticed once, rows without target are not, and the counts are not asked."""
    told, sampler = StreamingFrequency(), InBatch(4, correct_positive=True, frequencies=StreamingFrequency())
    told.setup(N_ITEMS)
    sampler.setup(N_ITEMS)
    for seed in range(5):
        target = torch.cat([targets(9, seed), torch.zeros(3, dtype=torch.int64)])
        negatives = sampler.sample(target)
        told.update(target[:9])
        assert negatives.log_q is not None and negatives.log_q_positive is not None
        expected = told.share(negatives.ids) * 4 * 8 / 9
        torch.testing.assert_close(negatives.log_q.double(), expected.log(), rtol=1e-5, atol=1e-6)
        expected = told.share(target[:9]) * 4 * 8 / 9
        torch.testing.assert_close(negatives.log_q_positive[:9].double(), expected.log(), rtol=1e-5, atol=1e-6)
    assert sampler.expected_count(torch.arange(1, N_ITEMS + 1), 9).isfinite().all()


def test_a_mixture_learns_frequencies_too() -> None:
    in_batch = InBatch(frequencies=StreamingFrequency())
    sampler = Mixed([Uniform(4), in_batch])
    sampler.setup(N_ITEMS, COUNTS)
    batches = [targets(50, seed) for seed in range(200)]
    for target in batches:
        sampler.sample(target)
    log_q = sampler.sample(batches[0]).log_q
    assert log_q is not None and log_q.isfinite().all()
    assert in_batch.frequencies is not None
    learned = in_batch.frequencies.share(torch.arange(1, N_ITEMS + 1))
    torch.testing.assert_close(learned, TRUE, rtol=0.5, atol=0)


def test_in_batch_gives_a_finite_log_q_to_an_item_without_counts() -> None:
    counts = COUNTS.clone()
    counts[4] = 0
    sampler = InBatch()
    sampler.setup(N_ITEMS, counts)
    log_q = sampler.sample(torch.tensor([4, 10])).log_q
    assert log_q is not None and log_q.isfinite().all()


@pytest.mark.parametrize("name", SAMPLERS)
def test_draws_depend_on_the_seed_and_on_nothing_else(name: str) -> None:
    target = targets(9)
    torch.manual_seed(0)
    first = [make(name).draw(target) for _ in range(2)]
    before = torch.get_rng_state()
    sampler = make(name)
    again = sampler.draw(target)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first[0], first[1]) and torch.equal(first[0], again)
    if name != "in batch":
        others = [make(name, seed).draw(target) for seed in range(10, 16)]
        assert any(not torch.equal(first[0], other) for other in others)


@pytest.mark.parametrize("name", SAMPLERS)
def test_resumes_from_its_state(name: str, tmp_path: Path) -> None:
    target, sampler = targets(9), make(name)
    sampler.draw(target)
    torch.save(sampler.state_dict(), tmp_path / "state.pt")
    expected = [sampler.draw(target) for _ in range(3)]
    resumed = make(name, seed=99)
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert all(torch.equal(resumed.draw(target), draw) for draw in expected)
    ids = torch.arange(1, N_ITEMS + 1)
    assert torch.equal(resumed.expected_count(ids, 9), sampler.expected_count(ids, 9))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 6), min_size=1, max_size=12),
    st.lists(st.integers(1, 6), min_size=1, max_size=12),
    st.booleans(),
)
def test_hits_are_those_of_a_comparison(ids: list[int], target: list[int], per_position: bool) -> None:
    wanted = torch.tensor(target)
    negatives = torch.tensor(ids)
    if per_position:
        negatives = torch.stack([negatives.roll(row) for row in range(len(target))])
    brute = {
        (row, column)
        for row, item in enumerate(target)
        for column, negative in enumerate(negatives[row].tolist() if per_position else ids)
        if item == negative
    }
    hits = Negatives(negatives).hits(wanted)
    found = set() if hits is None else set(map(tuple, hits.T.tolist()))
    assert found == brute
    assert hits is None or hits.shape[1] == len(brute) > 0


@pytest.mark.parametrize("counts", [None, torch.ones(N_ITEMS), torch.zeros(N_ITEMS + 1), -torch.ones(N_ITEMS + 1)])
@pytest.mark.parametrize("sampler", [Popularity(3), InBatch(), Mixed()])
def test_bad_counts_are_refused(sampler: NegativeSampler, counts: Tensor | None) -> None:
    with pytest.raises(ValueError, match="counts"):
        sampler.setup(N_ITEMS, counts)


def test_misuse_is_refused() -> None:
    with pytest.raises(RuntimeError, match="setup"):
        Uniform(3).sample(targets(2))
    with pytest.raises(ValueError, match="at least one item"):
        Uniform(3).setup(0)
    with pytest.raises(ValueError, match="per_position"):
        Mixed([Uniform(3, per_position=True)])
    with pytest.raises(ValueError, match="correction must lie between 0 and 1"):
        InBatch(correction=1.5)
    with pytest.raises(ValueError, match="leave `correction` out of its samplers"):
        Mixed([Uniform(3), InBatch(correction=0.5)])
