from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.special import expit
from sklearn.linear_model import LogisticRegression

from recsys.evaluation import plots
from recsys.evaluation.calibration import (
    Platt,
    WeightedLogits,
    expected_calibration_error,
    fit_platt,
    reliability_table,
    sampled_logits,
    sampling_shift,
)
from recsys.evaluation.relevance import relevance
from recsys.evaluation.tasks import Task, requests
from recsys.features.event_log import EventLog
from recsys.features.splits import GlobalTime
from recsys.models.popularity import Popularity
from tests.evaluation.conftest import Personal

entries = st.lists(
    st.tuples(st.sampled_from([0.0, 0.1, 0.1, 0.25, 0.5, 0.9, 1.0]), st.booleans(), st.integers(1, 5)),
    min_size=1,
    max_size=25,
)


def error_by_hand(case: list[tuple[float, bool, int]], bins: int) -> float:
    """Bin after bin and entry after entry: a probability lies in the bin of the middle of its weight."""
    whole = sum(weight for _, _, weight in case)
    bin_of: dict[float, int] = {}
    below = 0
    for value in sorted({p for p, _, _ in case}):
        own = sum(weight for p, _, weight in case if p == value)
        bin_of[value] = min(bins * (2 * below + own) // (2 * whole), bins - 1)
        below += own
    error = 0.0
    for place in range(bins):
        inside = [entry for entry in case if bin_of[entry[0]] == place]
        mass = sum(weight for _, _, weight in inside)
        if mass:
            predicted = sum(p * weight for p, _, weight in inside) / mass
            observed = sum(weight for _, label, weight in inside if label) / mass
            error += mass / whole * abs(predicted - observed)
    return error


@given(entries, st.integers(1, 8))
@settings(max_examples=200, deadline=None)
def test_error_equals_a_loop_over_bins(case: list[tuple[float, bool, int]], bins: int) -> None:
    p, label, weight = (np.array(column) for column in zip(*case, strict=True))
    assert expected_calibration_error(p, label, weight, bins) == pytest.approx(error_by_hand(case, bins))
    twice = [(a, b, c) for a, b, c in case for _ in range(c)]
    ones = [np.array(column) for column in zip(*[(a, b, 1) for a, b, _ in twice], strict=True)]
    assert expected_calibration_error(*ones, bins) == pytest.approx(expected_calibration_error(p, label, weight, bins))


def test_bins_hold_equal_weight_and_say_what_came_true() -> None:
    random = np.random.default_rng(0)
    p, weight = random.random(6000), random.integers(1, 4, 6000).astype(float)
    label = random.random(6000) < p
    table = reliability_table(p, label, weight, bins=10)
    assert table["weight"].to_numpy() == pytest.approx(np.full(10, weight.sum() / 10), abs=6)
    assert (table["weight"] * table["predicted"]).sum() == pytest.approx(weight @ p)
    assert table["positives"].sum() == weight[label].sum()
    assert table["predicted"].is_monotonic_increasing
    wilson = stats.binomtest(round(table["positives"][3]), round(table["weight"][3])).proportion_ci(method="wilson")
    assert (table["low"][3], table["high"][3]) == pytest.approx((wilson.low, wilson.high))
    assert expected_calibration_error(p, label, weight, bins=10) < 0.02
    assert expected_calibration_error(np.full(6000, 0.5), label, weight) == pytest.approx(
        abs(0.5 - np.average(label, weights=weight))
    )


def world(scale: float, offset: float, size: int = 4000) -> WeightedLogits:
    """Every logit once as a positive and once as a negative, weighted as often as either comes: no chance is left."""
    x = np.random.default_rng(1).normal(-1.0, 2.0, size)
    p = expit(scale * x + offset)
    label = np.repeat([True, False], size)
    return WeightedLogits(np.tile(x, 2), label, np.concatenate([p, 1 - p]))


@pytest.mark.parametrize("scale", [1.0, 0.3, 2.5, -0.7])
@pytest.mark.parametrize("offset", [0.0, 3.0, -9.0])
def test_platt_finds_the_scale_and_the_offset_of_the_world(scale: float, offset: float) -> None:
    found = fit_platt(world(scale, offset))
    assert (found.scale, found.offset) == pytest.approx((scale, offset), abs=1e-4)
    assert found([0.0, 1.0]) == pytest.approx(expit([found.offset, found.scale + found.offset]))


def test_platt_agrees_with_the_logistic_regression_of_scikit_learn() -> None:
    random = np.random.default_rng(2)
    x = random.normal(3.0, 5.0, 900)
    y, w = random.random(900) < expit(0.2 * x - 2), random.integers(1, 50, 900).astype(float)
    ours = fit_platt(WeightedLogits(x, y, w))
    theirs = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(x[:, None], y, sample_weight=w)
    assert (ours.scale, ours.offset) == pytest.approx((theirs.coef_[0, 0], theirs.intercept_[0]), rel=1e-4)


@pytest.mark.parametrize("negatives", [1, 8, 200])
def test_training_on_drawn_negatives_shifts_logits_by_what_the_formula_says(negatives: int) -> None:
    """Keep a share K / (V - 1) of the negatives: the best fit to what is left is the true logit plus the shift."""
    n_items = 10_001
    whole = world(1.0, -6.0)
    drawn = np.where(whole.label, whole.weight, whole.weight * negatives / (n_items - 1))
    learned = fit_platt(WeightedLogits(whole.logit, whole.label, drawn))
    shift = sampling_shift(n_items, negatives)
    assert (learned.scale, learned.offset) == pytest.approx((1.0, -6.0 + shift), abs=1e-3)
    corrected = expit(np.log(learned(whole.logit) / (1 - learned(whole.logit))) - shift)
    assert np.average(corrected, weights=whole.weight) == pytest.approx(whole.base_rate, rel=1e-3)


def drawn_world(random: np.random.Generator, requests: int, kept: float) -> WeightedLogits:
    """True logits around -7, and outcomes; of the negatives a share is kept and weighted."""
    x = random.normal(-8.0, 1.5, requests)
    y = random.random(requests) < expit(x)
    keep = y | (random.random(requests) < kept)
    return WeightedLogits(x[keep], y[keep], np.where(y, 1.0, 1 / kept)[keep])


def test_the_error_falls_when_logits_are_calibrated_on_other_requests() -> None:
    random = np.random.default_rng(3)
    fitted, judged = (drawn_world(random, 2_000_000, 0.02) for _ in range(2))
    assert judged.base_rate == pytest.approx(expit(random.normal(-8.0, 1.5, 10**6)).mean(), rel=0.05)
    shift = sampling_shift(10_001, 20)

    def told(x: np.ndarray) -> np.ndarray:
        return 0.6 * (x + shift)  # trained on 20 negatives, and too timid

    platt = fit_platt(WeightedLogits(told(fitted.logit), fitted.label, fitted.weight))
    assert (platt.scale, platt.offset) == pytest.approx((1 / 0.6, -shift), rel=0.03)
    raw, shifted, scaled = (
        expected_calibration_error(p(told(judged.logit)), judged.label, judged.weight)
        for p in (Platt(1.0, 0.0), Platt(1.0, -shift), platt)
    )
    assert raw > 100 * shifted > 100 * scaled
    assert scaled < 0.1 * judged.base_rate


@pytest.mark.parametrize("task", ["search", "recommendation", None])
def test_weighted_candidates_stand_for_the_whole_catalogue(search_log: EventLog, task: Task | None) -> None:
    split = GlobalTime(0.4, 0.2)(search_log)
    model = Personal(search_log)
    asked = requests(split, "test", task)
    judged = relevance(split, "test", task, asked, True, None).judged
    whole = positives = mass = 0.0
    for row in range(len(asked)):
        counts = set(judged.values[judged.offsets[row] : judged.offsets[row + 1]].tolist())
        targets = search_log.item_id[asked.targets.row(row)].tolist()
        first = next((item for item in targets if item in counts), None)
        if first is None:
            continue
        seen = set(search_log.item_id[asked.history_start[row] : asked.history_end[row]].tolist())
        query = 0 if asked.query is None else int(asked.query[row])
        scores = model.table[1, query, int(asked.users[row])].numpy()
        free = [item for item in range(1, search_log.n_items + 1) if item not in seen and item not in targets]
        whole += float(scores[free].sum() + scores[first])
        positives += float(scores[first])
        mass += 1 + len(free)
    samples = [sampled_logits(model, split, which="test", task=task, negatives=5, seed=seed) for seed in range(40)]
    assert all(sample.weight.sum() == pytest.approx(mass) for sample in samples)
    assert all(
        sample.weight[sample.label] @ sample.logit[sample.label] == pytest.approx(positives) for sample in samples
    )
    sums = np.array([sample.weight @ sample.logit for sample in samples])
    assert sums.mean() == pytest.approx(whole, abs=4 * sums.std() / math.sqrt(len(sums)))
    assert sums.std() < 0.05 * whole


def test_a_model_is_calibrated_on_validation_and_judged_on_test(log: EventLog) -> None:
    split = GlobalTime(0.2, 0.3)(log)
    model = Popularity()
    model.fit(split)
    platt = fit_platt(sampled_logits(model, split, negatives=9))
    test = sampled_logits(model, split, which="test", negatives=9)
    raw, scaled = (
        expected_calibration_error(p(test.logit), test.label, test.weight, bins=5) for p in (Platt(1.0, 0.0), platt)
    )
    assert platt.scale > 0 and scaled < 0.2 * raw


def test_the_picture_is_logarithmic_and_points_to_bins_in_which_nothing_came_true() -> None:
    p = np.repeat([1e-5, 1e-4, 1e-2], 4)
    label = np.array([0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 1, 1])
    weight = np.where(label == 1, 1.0, 5000.0)
    table = reliability_table(p, label, weight, bins=3)
    assert table["positives"].tolist() == [0, 1, 2]
    axes = plots.reliability({"mine": table}).axes[0]
    assert (axes.get_xscale(), axes.get_yscale()) == ("log", "log")
    points, arrows = axes.containers
    assert points[0].get_xydata() == pytest.approx(table[["predicted", "observed"]].to_numpy()[1:])
    assert arrows[0].get_xydata() == pytest.approx(table[["predicted", "high"]].to_numpy()[:1])
    assert all(low <= table["predicted"].min() and high <= 1.0 for low, high in (axes.get_xlim(), axes.get_ylim()))


def test_what_cannot_be_fitted_or_judged_is_refused() -> None:
    x = np.array([0.0, 1.0, 1.0, 2.0])
    for label in ([0, 0, 1, 1], [1, 1, 0, 0], [0, 0, 0, 0], [1, 1, 1, 1]):
        with pytest.raises(ValueError, match="do not overlap"):
            fit_platt(WeightedLogits(x, np.array(label, dtype=bool), np.ones(4)))
    with pytest.raises(ValueError, match="do not overlap"):
        fit_platt(WeightedLogits(np.zeros(4), np.array([True, False, True, False]), np.ones(4)))
    for p, y, w in (([1.5], [1], [1]), ([0.5], [2], [1]), ([0.5], [1], [0]), ([math.nan], [1], [1])):
        with pytest.raises(ValueError, match="lie in"):
            expected_calibration_error(p, y, w)
    with pytest.raises(ValueError, match="one bin"):
        reliability_table([0.5], [1], [1], bins=0)
    with pytest.raises(ValueError, match="per entry are needed"):
        reliability_table([0.5, 0.5], [1], [1])
    with pytest.raises(ValueError, match="two items and one negative"):
        sampling_shift(1, 1)
