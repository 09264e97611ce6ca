"""Choices by personal loss against Monte Carlo tables, closed forms and loops."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from torch import Tensor

from recsys.denoising.adaptive_denoising import ReweightedLoss, TruncatedLoss
from recsys.denoising.personal_loss import (
    PersonalLossResampling,
    PersonalLossWeights,
    choice_logits,
    choose,
    effective_size,
)
from recsys.denoising.pool_losses import BCEPoolLoss, BPRPoolLoss
from recsys.denoising.temperature import (
    AnnealedTemperature,
    FixedTemperature,
    StandardizedTemperature,
    Temperature,
    VariationTemperature,
)
from recsys.denoising.weighting import PoolWeighting

CPU = torch.device("cpu")
TEMPERATURES = (0.01, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
SEPARATE, EQUAL_SPREAD, OVERLAP = (0.3, 0.7, 0.2, 0.3), (0.3, 0.7, 0.2, 0.2), (0.5, 0.6, 0.3, 0.3)
TABLE: dict[tuple[tuple[float, ...], int], Sequence[float]] = {
    (SEPARATE, 1): (0.167, 0.166, 0.167, 0.167, 0.167, 0.166, 0.166),
    (SEPARATE, 3): (0.044, 0.046, 0.052, 0.069, 0.107, 0.133, 0.161),
    (SEPARATE, 5): (0.034, 0.036, 0.041, 0.058, 0.100, 0.128, 0.158),
    (SEPARATE, 10): (0.030, 0.031, 0.036, 0.053, 0.095, 0.124, 0.157),
    (EQUAL_SPREAD, 5): (0.008, 0.011, 0.018, 0.042, 0.095, 0.126, 0.159),
    (OVERLAP, 5): (0.118, 0.118, 0.121, 0.130, 0.146, 0.156, 0.164),
}
"""Means and deviations of normal and noisy losses, and the size of a pool -> share of noise trained on, by an
independent Monte Carlo of 200,000 pools, one positive in six noisy."""
USERS = torch.ones(4, dtype=torch.int64)


def ready(weighting: PoolWeighting, seed: int = 0) -> PoolWeighting:
    weighting.setup(50, seed, CPU)
    return weighting


def pools(moments: tuple[float, ...], k: int, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Losses `[n, k]` and which of them are noise."""
    random = torch.Generator().manual_seed(seed)
    noise = torch.rand(n, k, generator=random) < 1 / 6
    z, (m1, m2, s1, s2) = torch.randn(n, k, generator=random), moments
    return torch.where(noise, m2 + s2 * z, m1 + s1 * z), noise


@pytest.mark.parametrize(("moments", "k"), TABLE)
def test_the_share_of_noise_is_that_of_an_independent_simulation(moments: tuple[float, ...], k: int) -> None:
    losses, noise = pools(moments, k, 100_000)
    users = torch.ones(len(losses), dtype=torch.int64)
    for temperature, expected in zip(TEMPERATURES, TABLE[moments, k], strict=True):
        weighting = ready(PersonalLossResampling(temperature, start=0))
        weights, _ = weighting.weights(losses, users, 0)
        assert float((weights * noise).sum(1).mean()) == pytest.approx(expected, abs=0.004)
        soft, _ = ready(PersonalLossWeights(temperature, start=0)).weights(losses, users, 0)
        assert float((soft * noise).sum(1).mean()) == pytest.approx(expected, abs=0.004)


@pytest.mark.parametrize(
    ("moments", "temperature"), [(EQUAL_SPREAD, 0.5), (SEPARATE, 0.3), (SEPARATE, 1.0), ((0.3, 0.4, 0.1, 0.3), 0.5)]
)
def test_odds_of_noise_in_large_pools_have_a_closed_form(moments: tuple[float, ...], temperature: float) -> None:
    losses, noise = pools(moments, 2000, 400)
    weights = choice_logits(losses, torch.tensor(temperature)).softmax(-1)
    share = float((weights * noise).sum() / weights.sum())
    m1, m2, s1, s2 = moments
    odds = 0.2 * math.exp(-(m2 - m1) / temperature + (s2**2 - s1**2) / (2 * temperature**2))
    assert share / (1 - share) == pytest.approx(odds, rel=0.02)


def test_noise_that_is_spread_more_is_rewarded_below_a_temperature() -> None:
    """Denoising takes temperature > (s2^2 - s1^2) / (2 (m2 - m1)), .4 here."""
    losses, noise = pools((0.3, 0.4, 0.1, 0.3), 2000, 200)
    cold, warm = (choice_logits(losses, torch.tensor(t)).softmax(-1)[noise].sum() / 200 for t in (0.3, 0.5))
    assert cold > 1 / 6 > warm


def test_a_finite_pool_cannot_do_better_than_its_least_loss() -> None:
    losses, noise = pools(SEPARATE, 3, 50_000)
    least = noise.gather(1, losses.argmin(1, keepdim=True)).float().mean()
    chosen = choose(choice_logits(losses, torch.tensor(1e-6)), torch.Generator().manual_seed(0))
    assert noise.gather(1, chosen[:, None]).float().mean() == least > (1 / 6) ** 3


@pytest.mark.parametrize("temperature", [1e6, math.inf])
def test_a_high_temperature_chooses_uniformly(temperature: float) -> None:
    losses, _ = pools(SEPARATE, 5, 50_000)
    weights, parts = ready(PersonalLossResampling(temperature, start=0)).weights(losses, USERS, 0)
    counts, mean = weights.sum(0), 10_000
    assert float(((counts - mean) ** 2 / mean).sum()) < 18.5  # chi-square with 4 degrees, p = .001
    assert float(parts["effective_pool_size"]) == pytest.approx(5)


def test_the_limit_is_the_uniform_choice_bit_for_bit() -> None:
    """An infinite temperature, epochs before the start and any losses at all: the same draws of the same generator."""
    losses, _ = pools(SEPARATE, 5, 4000)
    infinite = ready(PersonalLossResampling(math.inf, start=0)).weights(losses, USERS, 3)[0]
    early = ready(PersonalLossResampling(0.01, start=4)).weights(losses, USERS, 3)[0]
    blind = ready(PersonalLossResampling(1.0, start=0)).weights(torch.zeros_like(losses), USERS, 3)[0]
    assert torch.equal(infinite, early) and torch.equal(infinite, blind)
    assert not torch.equal(infinite, ready(PersonalLossResampling(0.1, start=0)).weights(losses, USERS, 3)[0])
    sizes = [w.reads_losses(3) for w in (PersonalLossResampling(math.inf, start=0), PersonalLossResampling(start=4))]
    assert sizes == [False, False] and PersonalLossResampling(start=3).reads_losses(3)


def test_choices_have_the_chances_of_the_softmax_however_far_losses_lie_apart() -> None:
    losses = torch.tensor([[900.0, 900.05, 900.3]]).expand(60_000, 3)
    logits = choice_logits(losses, torch.tensor(0.1))
    counts = torch.bincount(choose(logits, torch.Generator().manual_seed(1)), minlength=3).double()
    weights = np.exp([0.0, -0.5, -3.0])
    np.testing.assert_allclose(counts / 60_000, weights / weights.sum(), atol=4 * 0.5 / 60_000**0.5)
    apart = choice_logits(torch.tensor([[0.0, 500.0]]), torch.tensor(0.01))
    assert int(choose(apart, torch.Generator().manual_seed(0))) == 0 and bool(apart.isfinite().all())


def test_a_floor_starves_nobody() -> None:
    """A user whose one different liking has a high loss: without a floor it is never chosen again."""
    losses = torch.tensor([[0.1, 0.1, 3.0]]).expand(20_000, 3)
    never, _ = ready(PersonalLossResampling(0.1, start=0)).weights(losses, USERS, 0)
    some, _ = ready(PersonalLossResampling(0.1, floor=0.1, start=0)).weights(losses, USERS, 0)
    assert never[:, 2].sum() == 0
    assert float(some[:, 2].mean()) == pytest.approx(0.1 / 3, abs=4 * (0.033 / 20_000) ** 0.5)
    p = torch.tensor([0.0, 0.2, 0.9]).div(-0.3).softmax(0)
    mixed = choice_logits(torch.tensor([[0.0, 0.2, 0.9]]), torch.tensor(0.3), floor=0.1).exp()
    torch.testing.assert_close(mixed[0], 0.9 * p + 0.1 / 3)


def test_one_positive_is_chosen_whatever_its_loss() -> None:
    losses = torch.rand(100, 1, generator=torch.Generator().manual_seed(0))
    for weighting in (PersonalLossResampling(0.01, start=0), PersonalLossWeights(StandardizedTemperature(), start=0)):
        weights, parts = ready(weighting).weights(losses, torch.arange(100) % 50 + 1, 0)
        assert torch.equal(weights, torch.ones(100, 1)) and parts["effective_pool_size"] == 1


def test_effective_sizes_are_exponentials_of_entropies() -> None:
    p = np.array([[0.5, 0.3, 0.2], [1 / 3, 1 / 3, 1 / 3], [0.98, 0.01, 0.01]])
    expected = np.exp(-(p * np.log(p)).sum(1))
    np.testing.assert_allclose(effective_size(torch.tensor(p).log()), expected, rtol=1e-10)


def test_weights_have_no_gradient_and_rows_sum_to_one() -> None:
    losses, _ = pools(SEPARATE, 4, 30)
    for weighting in (PersonalLossResampling(0.1, start=0), PersonalLossWeights(0.1, floor=0.1, start=0)):
        weights, _ = ready(weighting).weights(losses, USERS, 0)
        assert not weights.requires_grad
        torch.testing.assert_close(weights.sum(1), torch.ones(30))


def test_standardized_temperatures_follow_running_deviations_user_by_user() -> None:
    random = np.random.default_rng(0)
    temperature = StandardizedTemperature(0.5, decay=0.9, least=0.02)
    temperature.setup(3, CPU)
    moments: dict[int, list[float]] = {}
    for _ in range(5):
        users = random.integers(1, 4, 6)
        losses = random.exponential(users[:, None] / 10, (6, 4))
        found = temperature.of(torch.tensor(losses), torch.tensor(users), 0)
        for user in set(users.tolist()):
            own = losses[users == user]
            before = moments.get(user, [0.0, 0.0, 0.0])
            now = [1.0, float(own.mean()), float((own**2).mean())]
            moments[user] = [0.9 * a + 0.1 * b for a, b in zip(before, now, strict=True)]
        for row, user in enumerate(users.tolist()):
            weight, mean, square = moments[user]
            deviation = max((square / weight - (mean / weight) ** 2) ** 0.5, 0.02)
            assert float(found[row, 0]) == pytest.approx(0.5 * deviation, rel=1e-9)


def test_a_standardized_choice_does_not_know_the_scale_of_losses() -> None:
    losses, users = pools(SEPARATE, 5, 40)[0].double(), torch.arange(40) + 1
    for kind, factor in ((StandardizedTemperature, 1.0), (FixedTemperature, None)):
        one, scaled = kind(), kind()
        logits = []
        for temperature, given in ((one, losses), (scaled, 3 * losses + 7)):
            temperature.setup(50, CPU)
            logits.append(choice_logits(given, temperature.of(given, users, 0)).softmax(-1))
        same = torch.allclose(*logits, rtol=1e-6)
        assert same is (factor is not None)
    standardized = StandardizedTemperature(0.5)
    standardized.setup(50, CPU)
    score = (losses - losses.mean(1, keepdim=True)) / losses.std(1, keepdim=True, correction=0)
    found = choice_logits(losses, standardized.of(losses, users, 0)).softmax(-1)
    torch.testing.assert_close(found, (-score / 0.5).softmax(-1))


def test_users_with_widely_spread_losses_choose_more_sharply() -> None:
    losses = torch.tensor([[0.4, 0.5, 0.6], [0.1, 0.2, 1.2], [0.5, 0.5, 0.5]], dtype=torch.float64)
    temperature = VariationTemperature(0.1)
    temperature.setup(3, CPU)
    found = temperature.of(losses, torch.tensor([1, 2, 3]), 0).squeeze(1)
    for row, pool in enumerate(losses.numpy()):
        variation = np.clip(max(pool.std(), 0.02) / pool.mean(), 0.25, 4)
        assert float(found[row]) == pytest.approx(0.1 * pool.mean() / variation)
    assert found[1] < found[0]


def test_annealing_is_geometric() -> None:
    temperature = AnnealedTemperature(1.0, 0.1, start=5, end=30)
    found = [float(temperature.of(torch.zeros(1, 1), USERS[:1], epoch)) for epoch in range(40)]
    assert found[:6] == [1.0] * 6 and found[30:] == pytest.approx([0.1] * 10)
    ratios = np.divide(found[6:31], found[5:30])
    np.testing.assert_allclose(ratios, 0.1 ** (1 / 25), rtol=1e-5)


@pytest.mark.parametrize(
    "make", [lambda: PersonalLossResampling(VariationTemperature(), start=0), lambda: PersonalLossWeights(0.2)]
)
def test_states_continue_draws_and_moments(make: type[PersonalLossWeights]) -> None:
    losses, users = pools(SEPARATE, 5, 60)[0], torch.arange(60) % 50 + 1
    first, second = ready(make()), ready(make(), seed=9)
    first.weights(losses, users, 9)
    second.load_state_dict(first.state_dict())
    again = [weighting.weights(losses.flip(0), users, 9)[0] for weighting in (first, second)]
    assert torch.equal(*again)


def test_bpr_and_bce_against_loops() -> None:
    random = np.random.default_rng(0)
    positive, negative = random.normal(size=(4, 3)), random.normal(size=(4, 2))
    bpr = BPRPoolLoss().positives(torch.tensor(positive), torch.tensor(negative))
    bce, other = BCEPoolLoss(), torch.tensor(negative)
    for row in range(4):
        for column in range(3):
            each = [math.log1p(math.exp(s - positive[row, column])) for s in negative[row]]
            assert float(bpr[row, column]) == pytest.approx(sum(each) / 2)
    pointwise = bce.positives(torch.tensor(positive), other)
    np.testing.assert_allclose(pointwise, -np.log(1 / (1 + np.exp(-positive))), rtol=1e-9)
    np.testing.assert_allclose(bce.negatives(other), -np.log(1 - 1 / (1 + np.exp(-negative))), rtol=1e-9)
    assert BPRPoolLoss().negatives(other) is None
    assert BPRPoolLoss().positives(torch.zeros(1, 1, dtype=torch.bfloat16), torch.zeros(1, 1)).dtype == torch.float32


def test_the_shared_negative_orders_nothing_but_sets_how_sharp_the_choice_is() -> None:
    positive = torch.tensor([[0.0, 1.0, 2.0]])
    easy, hard = (BPRPoolLoss().positives(positive, torch.tensor([[s]])) for s in (-4.0, 4.0))
    assert easy.argsort().tolist() == hard.argsort().tolist() == [[2, 1, 0]]
    sizes = [float(effective_size(choice_logits(losses, torch.tensor(0.1)))) for losses in (easy, hard)]
    assert sizes[0] > 2.9 and sizes[1] < 1.01


def test_truncation_drops_a_growing_share_of_the_highest_losses() -> None:
    losses = pools(SEPARATE, 1, 1000)[0]
    weighting = ready(TruncatedLoss(0.2, ramp=10))
    assert not weighting.reads_losses(0) and weighting.reads_losses(1)
    for epoch, dropped in ((0, 0), (5, 100), (10, 200), (50, 200)):
        weights, _ = weighting.weights(losses, USERS, epoch)
        out = weights[:, 0] == 0
        assert int(out.sum()) == dropped and float(weights.mean()) == pytest.approx(1)
        if dropped:
            assert losses[out].min() >= losses[~out].max()
            assert float((weights * losses).mean()) == pytest.approx(float(losses[~out].mean()), rel=1e-5)
    tied, _ = weighting.weights(torch.ones(10, 1), USERS, 10)
    assert int((tied == 0).sum()) == 2
    whole, _ = weighting.weights(losses.view(250, 4), USERS, 10)
    assert int((whole == 0).sum()) == 200 and float(whole.sum()) == pytest.approx(250)


def test_reweighting_is_a_power_of_the_likelihood() -> None:
    score = np.random.default_rng(0).normal(size=(5, 2))
    probability = 1 / (1 + np.exp(-score))
    weighting, loss = ReweightedLoss(0.3), BCEPoolLoss()
    positives, negatives = loss.positives(torch.tensor(score), torch.tensor(score)), loss.negatives(torch.tensor(score))
    np.testing.assert_allclose(weighting.weights(positives, USERS, 0)[0] * 2, probability**0.3, rtol=1e-9)
    np.testing.assert_allclose(weighting.negative_weights(negatives, 0), (1 - probability) ** 0.3, rtol=1e-9)
    assert not ReweightedLoss(0.0).reads_losses(3)


@pytest.mark.parametrize(
    ("message", "make"),
    [
        ("FixedTemperature: must be above 0", lambda: FixedTemperature(0.0)),
        ("FixedTemperature: must be above 0", lambda: PersonalLossResampling(float("nan"))),
        ("AnnealedTemperature: must be above 0", lambda: AnnealedTemperature(0.0)),
        ("end 5 is not after start 5", lambda: AnnealedTemperature(end=5)),
        ("StandardizedTemperature: must be above 0", lambda: StandardizedTemperature(-1.0)),
        ("decay must be in", lambda: VariationTemperature(decay=1.0)),
        ("floor must be in", lambda: PersonalLossResampling(floor=1.0)),
        ("start must be", lambda: PersonalLossWeights(start=-1)),
        ("drop must be in", lambda: TruncatedLoss(1.0)),
        ("beta must be", lambda: ReweightedLoss(-0.1)),
    ],
)
def test_settings_that_mean_nothing_are_refused(message: str, make: type[Temperature]) -> None:
    with pytest.raises(ValueError, match=message):
        make()
