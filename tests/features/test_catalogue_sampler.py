"""Items of the whole catalogue: uniform, none twice in a batch, continued where they were left."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from scipy import stats

from recsys.features.catalogue_sampler import CatalogueSampler


def sampler(n: int, n_items: int, seed: int = 3) -> CatalogueSampler:
    made = CatalogueSampler(n)
    made.setup(n_items, seed)
    return made


@pytest.mark.parametrize(("n", "n_items"), [(1, 1), (1, 5), (5, 5), (3, 10), (7, 10), (64, 1000)])
def test_no_item_comes_twice_in_a_batch_or_a_pass(n: int, n_items: int) -> None:
    drawing = sampler(n, n_items)
    for _ in range(3):
        drawn = torch.cat([drawing.draw() for _ in range(n_items // n)])
        assert drawn.dtype == torch.int64 and drawn.min() >= 1 and drawn.max() <= n_items
        assert len(drawn.unique()) == len(drawn) == n_items // n * n


def test_each_place_of_a_batch_is_uniform_over_items() -> None:
    drawing = sampler(20, 20)
    drawn = torch.stack([drawing.draw() for _ in range(5000)])  # 1e5 draws
    for place in (0, 7, 19):
        assert stats.chisquare(torch.bincount(drawn[:, place], minlength=21)[1:]).pvalue > 1e-3


def test_batches_are_uniform_samples_without_replacement() -> None:
    n, n_items, batches = 60, 100, 1700  # one batch a pass, 1e5 draws
    drawing = sampler(n, n_items)
    counts = sum(torch.bincount(drawing.draw(), minlength=n_items + 1)[1:] for _ in range(batches))
    assert isinstance(counts, torch.Tensor)
    share = n / n_items
    variance = batches * share * (1 - share) * n_items / (n_items - 1)  # of sampling without replacement
    statistic = float(((counts - batches * share) ** 2).sum() / variance)
    assert 1e-3 < stats.chi2(n_items - 1).cdf(statistic) < 1 - 1e-3


def test_pairs_of_items_meet_as_often_as_any_other() -> None:
    n, n_items, batches = 3, 7, 14_000
    drawing = sampler(n, n_items)
    met = torch.zeros(n_items, n_items)
    for _ in range(batches):
        items = drawing.draw() - 1
        met[items.unsqueeze(1), items] += 1
    expected = batches * n * (n - 1) / (n_items * (n_items - 1))
    apart = ~torch.eye(n_items, dtype=torch.bool)
    assert (met[apart] - expected).abs().max() < 5 * expected**0.5


def test_a_batch_is_at_most_the_catalogue() -> None:
    drawing = sampler(1024, 9)
    for _ in range(4):
        assert sorted(drawing.draw().tolist()) == list(range(1, 10))


@pytest.mark.parametrize("before", [0, 1, 2, 3, 8])
def test_resumed_draws_are_those_of_one_that_never_stopped(before: int, tmp_path: Path) -> None:
    drawing = sampler(4, 11)
    for _ in range(before):
        drawing.draw()
    torch.save(drawing.state_dict(), tmp_path / "state.pt")
    resumed = sampler(4, 11, seed=99)
    resumed.draw()
    resumed.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(9):
        assert torch.equal(drawing.draw(), resumed.draw())


def test_a_seed_gives_the_same_items_and_leaves_the_global_generator_alone() -> None:
    state = torch.get_rng_state()
    one, same, other = sampler(16, 500), sampler(16, 500), sampler(16, 500, seed=4)
    drawn = [one.draw() for _ in range(40)]
    assert all(torch.equal(batch, same.draw()) for batch in drawn)
    assert not all(torch.equal(batch, other.draw()) for batch in drawn)
    assert torch.equal(torch.get_rng_state(), state)


def test_its_memory_is_an_int32_for_each_item() -> None:
    drawing = sampler(4, 1000)
    held = [value for value in vars(drawing).values() if isinstance(value, torch.Tensor) and len(value) == 1000]
    assert [value.dtype for value in held] == [torch.int32]


def test_what_cannot_be_drawn_is_refused() -> None:
    with pytest.raises(ValueError, match="n must be positive, not 0"):
        CatalogueSampler(0)
    with pytest.raises(ValueError, match="at least one item, not 0"):
        CatalogueSampler(1).setup(0)
    with pytest.raises(RuntimeError, match="setup"):
        CatalogueSampler(1).draw()
