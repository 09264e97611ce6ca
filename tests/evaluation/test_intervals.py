from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from recsys.evaluation import intervals
from recsys.evaluation.intervals import bootstrap, compare, over_seeds, p_greater, wilson


def ndcg_like(random: np.random.Generator, users: int, hit_rate: float) -> np.ndarray:
    hit = random.random(users) < hit_rate
    return np.where(hit, 1 / np.log2(random.integers(2, 12, users)), 0.0)


def test_interval_agrees_with_scipy() -> None:
    random = np.random.default_rng(0)
    values = ndcg_like(random, 800, 0.1)
    ours = bootstrap({"NDCG@10": values}, resamples=20_000)["NDCG@10"]
    theirs = stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", batch=500, random_state=1
    ).confidence_interval
    assert ours.mean == pytest.approx(values.mean())
    # A quantile of 20,000 draws has a standard error near 0.02 of the standard error of the mean.
    tolerance = 0.1 * values.std() / math.sqrt(len(values))
    assert ours.low == pytest.approx(theirs.low, abs=tolerance)
    assert ours.high == pytest.approx(theirs.high, abs=tolerance)


def test_intervals_cover_the_truth_as_often_as_they_say() -> None:
    random = np.random.default_rng(1)
    truth, runs, level = 0.2, 600, 0.9
    covered = 0
    for run in range(runs):
        interval = bootstrap({"HR": random.random(400) < truth}, resamples=400, level=level, seed=run)["HR"]
        covered += interval.low <= truth <= interval.high
    assert abs(covered / runs - level) < 4 * math.sqrt(level * (1 - level) / runs)


def test_p_values_are_uniform_without_a_difference() -> None:
    random = np.random.default_rng(2)
    p_values = []
    for run in range(400):
        common = ndcg_like(random, 300, 0.3)
        first, second = (np.where(random.random(300) < 0.5, common, ndcg_like(random, 300, 0.3)) for _ in range(2))
        p_values.append(compare({"m": first}, {"m": second}, resamples=400, seed=run)["m"].p_value)
    for level in (0.05, 0.2, 0.5):
        assert abs(np.mean(np.array(p_values) <= level) - level) < 4 * math.sqrt(level * (1 - level) / 400)


def test_comparison_finds_a_difference_and_uses_the_pairing() -> None:
    random = np.random.default_rng(3)
    first = ndcg_like(random, 2000, 0.4)
    second = first + random.normal(0.005, 0.05, 2000)
    found = compare({"m": first}, {"m": second})["m"]
    t_test = stats.ttest_rel(second, first)
    assert found.p_value == pytest.approx(t_test.pvalue, abs=4 * math.sqrt(t_test.pvalue / 10_000) + 2e-4)
    low, high = t_test.confidence_interval(0.95)
    assert found.difference.low == pytest.approx(low, abs=2e-4)
    assert found.difference.high == pytest.approx(high, abs=2e-4)
    unpaired = bootstrap({"m": second}, resamples=500)["m"]
    assert found.difference.high - found.difference.low < 0.5 * (unpaired.high - unpaired.low)
    assert found.second - found.first == pytest.approx(found.difference.mean)


def of_users(random: np.random.Generator, users: int) -> tuple[np.ndarray, np.ndarray]:
    """Values of one to nine rows of each user, alike within a user, and the user of each row, in mixed order."""
    rows = random.integers(1, 10, users)
    owner = np.repeat(np.arange(users), rows)
    values = 0.4 + 0.2 * random.standard_normal(users)[owner] + 0.05 * random.standard_normal(len(owner))
    mixed = random.permutation(len(owner))
    return values[mixed], owner[mixed]


def test_one_sided_p_values_agree_with_the_t_test_and_with_seeds_with_the_normal_law() -> None:
    random = np.random.default_rng(9)
    first = ndcg_like(random, 3000, 0.4)
    second = first + random.normal(0.002, 0.08, 3000)
    runs = {"m": first}, {"m": second}
    t_test = stats.ttest_rel(second, first)
    error = 4 * math.sqrt(0.25 / 20_000)
    assert p_greater(*runs, resamples=20_000)["m"] == pytest.approx(t_test.pvalue / 2, abs=error)
    assert p_greater(*runs[::-1], resamples=20_000)["m"] == pytest.approx(1 - t_test.pvalue / 2, abs=error)
    difference = second - first
    for sd in (0.001, 0.01):
        total = math.sqrt(difference.var() / 3000 + 2 * sd**2)
        expected = stats.norm.sf(difference.mean() / total)
        assert p_greater(*runs, seed_sd={"m": sd}, resamples=20_000)["m"] == pytest.approx(expected, abs=error)


def test_one_sided_p_values_are_uniform_without_a_difference() -> None:
    random = np.random.default_rng(10)
    p_values = []
    for run in range(400):
        common = ndcg_like(random, 300, 0.3)
        first, second = (np.where(random.random(300) < 0.5, common, ndcg_like(random, 300, 0.3)) for _ in range(2))
        p_values.append(p_greater({"m": first}, {"m": second}, resamples=400, seed=run)["m"])
    for level in (0.05, 0.2, 0.8):
        assert abs(np.mean(np.array(p_values) <= level) - level) < 4 * math.sqrt(level * (1 - level) / 400)


def test_one_sided_p_values_take_all_rows_of_a_user_along() -> None:
    random = np.random.default_rng(11)
    of_user = random.normal(0.1, 1, 200)
    rows = {"m": np.repeat(of_user, 5)}
    nothing = {"m": np.zeros(1000)}
    clustered = p_greater(nothing, rows, users=np.repeat(np.arange(200), 5))["m"]
    expected = stats.ttest_1samp(of_user, 0).pvalue / 2
    assert clustered == pytest.approx(expected, abs=0.02)
    assert p_greater(nothing, rows)["m"] < clustered / 2


@pytest.mark.parametrize("wrong", [{}, {"other": 0.1}, {"m": -0.1}, {"m": math.nan}])
def test_spread_over_seeds_that_is_none_is_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="seed_sd needs a number from 0 on for each of m"):
        p_greater({"m": [0.0, 1.0]}, {"m": [1.0, 1.0]}, seed_sd=wrong)


def test_intervals_cover_the_truth_where_users_repeat() -> None:
    random = np.random.default_rng(6)
    runs, level, by_user, by_row = 500, 0.9, 0, 0
    for run in range(runs):
        values, owner = of_users(random, 80)
        wide = bootstrap({"m": values}, users=owner, resamples=400, level=level, seed=run)["m"]
        narrow = bootstrap({"m": values}, resamples=400, level=level, seed=run)["m"]
        by_user += wide.low <= 0.4 <= wide.high
        by_row += narrow.low <= 0.4 <= narrow.high
        assert (wide.users, narrow.users) == (80, len(values)) and wide.mean == narrow.mean
    # A percentile interval of 80 clusters is a little short itself.
    assert level - 0.05 < by_user / runs < level + 0.04
    assert by_row / runs < 0.7, "rows of a user are no independent draws"


def test_resampled_users_take_all_their_rows_along() -> None:
    random = np.random.default_rng(7)
    values, owner = of_users(random, 60)
    other = values + 0.02 * random.standard_normal(60)[owner] + 0.01
    ours = bootstrap({"m": values}, users=owner, resamples=8000)["m"]
    rows = [np.flatnonzero(owner == user) for user in range(60)]
    by_hand, differences = [], []
    for _ in range(8000):
        drawn = np.concatenate([rows[user] for user in random.integers(0, 60, 60)])
        by_hand.append(values[drawn].mean())
        differences.append((other - values)[drawn].mean())
    tolerance = 0.1 * np.std(by_hand)
    assert (ours.low, ours.high) == pytest.approx(np.quantile(by_hand, [0.025, 0.975]), abs=tolerance)
    found = compare({"m": values}, {"m": other}, users=owner, resamples=8000)["m"]
    observed = (other - values).mean()
    assert found.difference.mean == pytest.approx(observed)
    p = np.mean(np.abs(np.array(differences) - observed) >= abs(observed))
    assert 0 < p < 1 and found.p_value == pytest.approx(p, abs=5 * math.sqrt(2 * p * (1 - p) / 8000) + 1e-3)


def test_names_of_users_do_not_matter_where_each_has_one_row() -> None:
    random = np.random.default_rng(8)
    values = {"a": random.random(50), "b": random.integers(0, 3, 50)}
    assert bootstrap(values, users=random.permutation(900)[:50], resamples=90) == bootstrap(values, resamples=90)


def test_comparison_with_itself_finds_nothing() -> None:
    values = {"m": np.random.default_rng(4).random(50)}
    found = compare(values, values, resamples=100)["m"]
    assert (found.p_value, found.difference.low, found.difference.high) == (1.0, 0.0, 0.0)


def test_seeds_decide_and_blocks_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    random = np.random.default_rng(5)
    metrics = {"a": random.random(300), "b": random.integers(0, 2, 300)}
    whole = bootstrap(metrics, resamples=300, seed=1)
    assert bootstrap(metrics, resamples=300, seed=1) == whole
    assert bootstrap(metrics, resamples=300, seed=2) != whole
    monkeypatch.setattr(intervals, "BUDGET_BYTES", 16 * 300 * 7)
    blocked = bootstrap(metrics, resamples=300, seed=1)
    for name in metrics:
        assert blocked[name].low == pytest.approx(whole[name].low, rel=1e-12)


def test_users_without_a_value_are_left_out() -> None:
    found = bootstrap({"a": [1.0, math.nan, 0.0], "b": [0.5, math.nan, 0.5]}, resamples=50)
    assert (found["a"].users, found["a"].mean, found["b"].low) == (2, 0.5, 0.5)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="no row has a value"):
        bootstrap({"a": [math.nan]})
    with pytest.raises(ValueError, match="one value per row"):
        bootstrap({"a": [1.0], "b": [1.0, 2.0]})
    with pytest.raises(ValueError, match="1 users for 2 rows"):
        bootstrap({"a": [1.0, 0.0]}, users=[7])
    with pytest.raises(ValueError, match="within"):
        bootstrap({"a": [1.0]}, level=95)
    with pytest.raises(ValueError, match="different metrics: \\['b'\\]"):
        compare({"a": [1.0]}, {"a": [1.0], "b": [1.0]})
    with pytest.raises(ValueError, match="different users"):
        compare({"a": [1.0, math.nan]}, {"a": [math.nan, 1.0]})


def test_wilson_agrees_with_scipy() -> None:
    found, n = np.array([0, 3, 17, 50, 1]), np.array([10, 9, 40, 50, 20_000])
    low, high = wilson(found, n, 0.9)
    for place, (successes, trials) in enumerate(zip(found.tolist(), n.tolist(), strict=True)):
        theirs = stats.binomtest(successes, trials).proportion_ci(0.9, method="wilson")
        assert (low[place], high[place]) == pytest.approx((theirs.low, theirs.high), abs=1e-12)


def test_spread_over_seeds() -> None:
    assert over_seeds([3.0]).mean == 3.0
    assert math.isnan(over_seeds([3.0]).sd)
    assert over_seeds([1.0, 3.0]).sd == pytest.approx(math.sqrt(2))
    with pytest.raises(ValueError, match="no value"):
        over_seeds([])
