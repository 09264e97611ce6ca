"""Gates that compare: they pass by luck no more often than they say, and see what is there."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from recsys.evaluation.result import TargetTable
from recsys.tracking.gates import paired
from recsys.tracking.gates.gate import GateError
from recsys.tracking.gates.non_inferiority import NonInferiority
from recsys.tracking.gates.paired import Margin
from recsys.tracking.gates.slice_guardrail import SliceGuardrail
from recsys.tracking.gates.superiority import Superiority
from tests.tracking.gates.cases import case, evaluation, of_values, two_seeds


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer resamples, where many promotions are looked at."""
    monkeypatch.setattr(paired, "RESAMPLES", 500)


def at_most(passes: int, runs: int, level: float) -> bool:
    """Whether so many passes are no evidence of a chance above `level`."""
    return stats.binomtest(passes, runs, level, alternative="greater").pvalue > 0.001


@pytest.mark.usefixtures("quick")
def test_the_champion_trained_again_passes_as_superior_no_more_often_than_the_level_says() -> None:
    random, level, runs = np.random.default_rng(0), 0.05, 200
    gate = Superiority(["NDCG@10"], level=level)
    passes = sum(gate.check(of_values(*two_seeds(random, 1500))).passed for _ in range(runs))
    assert at_most(passes, runs, level)
    assert passes > 0  # it would pass by luck: a test that never lets anything through proves nothing


@pytest.mark.usefixtures("quick")
def test_with_many_metrics_and_tasks_the_level_is_that_of_all_together() -> None:
    random, level, runs = np.random.default_rng(1), 0.1, 200
    names = ["a", "b", "c"]

    def promotion() -> Any:
        both = [{}, {}]
        for task in ("recommendation", "search"):
            pairs = {name: two_seeds(random, 400) for name in names}
            for place, found in enumerate(both):
                found[task] = evaluation({name: pair[place] for name, pair in pairs.items()})
        return case(*both)

    passes = sum(Superiority(names, level=level).check(promotion()).passed for _ in range(runs))
    assert at_most(passes, runs, level) and passes > 0


@pytest.mark.usefixtures("quick")
def test_the_luck_of_a_seed_passes_unless_its_spread_is_named() -> None:
    """Each training is worth a little more or less in truth, as trainings are; users are many enough to show it."""
    random, level, runs, sd, users = np.random.default_rng(2), 0.05, 200, 0.006, 3000

    def promotion() -> Any:
        first, second = two_seeds(random, users)
        worth = random.normal(0, sd, 2)
        return of_values(first + worth[0], second + worth[1])

    cases = [promotion() for _ in range(runs)]
    blind, seeing = Superiority(level=level), Superiority(level=level, seed_sd={"NDCG@10": sd})
    assert not at_most(sum(blind.check(found).passed for found in cases), runs, level)
    passes = sum(seeing.check(found).passed for found in cases)
    assert at_most(passes, runs, level) and passes > 0


def test_a_real_difference_is_found_and_told() -> None:
    random = np.random.default_rng(3)
    champion, challenger = two_seeds(random, 4000)
    verdict = Superiority().check(of_values(champion, challenger * 1.3))
    assert verdict.passed and verdict.numbers["NDCG@10 p"] < 0.001
    assert verdict.numbers["NDCG@10 champion"] == pytest.approx(champion.mean())
    assert verdict.numbers["NDCG@10 low"] > 0
    assert not Superiority(absolute=0.1).check(of_values(champion, challenger * 1.3)).passed
    assert not Superiority(relative=0.4).check(of_values(champion, challenger * 1.3)).passed
    assert not Superiority().check(of_values(challenger * 1.3, champion)).passed


def test_p_values_against_a_relative_bar_are_those_of_the_t_test() -> None:
    random = np.random.default_rng(4)
    champion = random.gamma(2.0, 0.1, 500)
    challenger = champion * 0.99 + random.normal(0, 0.05, 500)
    verdict = NonInferiority(["NDCG@10"], relative=0.02).check(of_values(champion, challenger))
    expected = stats.ttest_rel(challenger, champion * 0.98, alternative="greater").pvalue
    error = 4 * math.sqrt(expected * (1 - expected) / 10_000)
    assert verdict.numbers["NDCG@10 p"] == pytest.approx(expected, abs=error + 2e-3)
    absolute = NonInferiority(["NDCG@10"], absolute=0.004).check(of_values(champion, challenger))
    expected = stats.ttest_rel(challenger, champion - 0.004, alternative="greater").pvalue
    assert absolute.numbers["NDCG@10 p"] == pytest.approx(expected, abs=0.02)


def test_non_inferiority_is_to_be_shown_for_every_metric() -> None:
    random = np.random.default_rng(5)
    champion, challenger = two_seeds(random, 5000)
    same = of_values(champion, champion)
    assert NonInferiority(["NDCG@10"], relative=0.02).check(same).passed
    few = of_values(champion[:30], challenger[:30])
    assert not NonInferiority(["NDCG@10"], relative=0.02).check(few).passed  # few users show nothing
    both = case(evaluation({"a": champion, "b": champion}), evaluation({"a": champion, "b": champion * 0.9}))
    verdict = NonInferiority(["a", "b"], relative=0.02).check(both)
    assert not verdict.passed and "b 0." in verdict.sentence and "a 0." not in verdict.sentence


def test_rows_of_a_user_go_together() -> None:
    random = np.random.default_rng(6)
    of_user = random.normal(0.1, 1, 40)
    users = np.repeat(np.arange(40), 25)
    rows = np.repeat(of_user, 25)
    zeros = np.zeros(1000)
    wrong, right = of_values(zeros, rows), of_values(zeros, rows, users=users)
    assert Superiority(level=0.001).check(wrong).passed
    assert not Superiority(level=0.001).check(right).passed


def slices(loss_of_cold_users: float = 0.0, loss_of_tail: float = 0.0, users: int = 600, seed: int = 7) -> Any:
    """A challenger that gains everywhere but in what is lost; one target a user, half of them tail items."""
    random = np.random.default_rng(seed)
    history = random.integers(0, 40, users)
    ranks = random.integers(1, 21, users)
    decile = random.choice([1, 9], users).astype(np.int8)

    def found(rank: Any) -> Any:
        targets = TargetTable(np.arange(users), np.ones(users, np.int32), rank.astype(np.int32), decile)
        return targets, np.where((rank > 0) & (rank <= 10), 1 / np.log2(np.maximum(rank, 1) + 1), 0.0)

    targets, values = found(ranks)
    lost = (random.random(users) < loss_of_tail) & (decile == 9)
    other_targets, other = found(np.where(lost, 0, np.maximum(ranks - 1, 1)))
    other = np.where((history < 5) & (random.random(users) < loss_of_cold_users), 0.0, other)
    return case(
        evaluation({"NDCG@10": values}, history=history, targets=targets),
        evaluation({"NDCG@10": other}, history=history, targets=other_targets),
    )


def test_a_slice_that_pays_for_the_mean_is_found() -> None:
    gate = SliceGuardrail()
    assert gate.check(slices()).passed
    cold = gate.check(slices(loss_of_cold_users=0.9))
    assert not cold.passed and cold.sentence.startswith("worse: NDCG@10, history 0-4 ")
    tail = gate.check(slices(loss_of_tail=0.6))
    assert not tail.passed and "Recall@10, tail items" in tail.sentence
    assert Superiority().check(slices(loss_of_cold_users=0.9)).passed  # the mean does not show it


@pytest.mark.usefixtures("quick")
def test_a_guardrail_refuses_by_bad_luck_no_more_often_than_it_says() -> None:
    random, level, runs = np.random.default_rng(8), 0.1, 200
    gate = SliceGuardrail(level=level, relative=0.0, groups=())

    def promotion() -> Any:
        return of_values(*two_seeds(random, 600), history=random.integers(0, 40, 600))

    refusals = sum(not gate.check(promotion()).passed for _ in range(runs))
    assert at_most(refusals, runs, level) and refusals > 0


def test_slices_of_few_users_are_not_judged_and_told() -> None:
    verdict = SliceGuardrail(least_users=590).check(slices(loss_of_cold_users=1.0))
    assert verdict.passed and not verdict.ran
    assert verdict.outcome == "not run" and "of fewer than 590 users not judged" in verdict.sentence
    assert 0 < verdict.numbers["NDCG@10, history 0-4 users"] < 590


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Superiority(level=0.6), "between 0 and 0.5"),
        (lambda: NonInferiority(), "needs a margin"),
        (lambda: NonInferiority(relative=1.5), "a margin is relative"),
        (lambda: Margin(absolute=-1), "a margin is relative"),
        (lambda: SliceGuardrail(groups=["warm"]), "no group warm"),
        (lambda: Superiority(["HR@3"]).check(of_values([0.0, 1.0], [1.0, 1.0])), "no metric `HR@3`"),
        (lambda: Superiority([]).check(of_values([0.0, 1.0], [1.0, 1.0])), "name one metric"),
        (lambda: Superiority(tasks=["search"]).check(of_values([0.0, 1.0], [1.0, 1.0])), "no task search"),
    ],
)
def test_what_makes_no_sense_is_refused(make: Any, said: str) -> None:
    with pytest.raises(GateError, match=said):
        make()


def test_other_requests_cannot_be_paired() -> None:
    other = case(evaluation({"NDCG@10": [0.0, 1.0]}), evaluation({"NDCG@10": [0.0, 1.0]}, users=[0, 2]))
    with pytest.raises(GateError, match="different users"):
        Superiority().check(other)
