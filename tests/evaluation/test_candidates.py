from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

from recsys.evaluation.candidates import _distinct_draws, draw_candidates, rank_candidates
from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.relevance import relevance
from recsys.evaluation.report import protocol
from recsys.evaluation.result import Evaluation, EvaluationError, compare_evaluations
from recsys.evaluation.slices import recall_by_decile
from recsys.evaluation.tasks import Task, requests
from recsys.features.event_log import EventLog
from recsys.features.splits import GlobalTime, LeaveLastOut, Split
from tests.evaluation.conftest import Personal

pytestmark = pytest.mark.filterwarnings("ignore:leave_last_out trains on events later")


@pytest.fixture(scope="module")
def split(search_log: EventLog) -> Split:
    return GlobalTime(0.4, 0.2)(search_log)


@pytest.mark.parametrize("task", ["search", "recommendation", None])
def test_candidates_are_one_target_and_items_that_are_neither_seen_nor_wanted(split: Split, task: Task | None) -> None:
    asked = requests(split, "test", task)
    judged = relevance(split, "test", task, asked, True, None).judged
    drawn = draw_candidates(split, asked, judged, negatives=8, seed=3)
    items, without = split.log.item_id, 0
    for row in range(len(asked)):
        seen = set(items[asked.history_start[row] : asked.history_end[row]].tolist())
        targets = items[asked.targets.row(row)].tolist()
        counts = set(judged.values[judged.offsets[row] : judged.offsets[row + 1]].tolist())
        first = next((item for item in targets if item in counts), 0)
        assert drawn.positive[row] == first
        if not first:
            assert not drawn.items[row].any()
            without += 1
            continue
        free = set(range(1, split.log.n_items + 1)) - seen - set(targets)
        negatives = [item for item in drawn.items[row].tolist() if item != first]
        assert len(negatives) == len(set(negatives)) == 8 and set(negatives) <= free
        assert drawn.pool[row] == len(free)
    assert 0 < without < len(asked)


@pytest.mark.parametrize("negatives", [5, 20])
def test_items_are_drawn_uniformly_and_stand_anywhere(split: Split, negatives: int) -> None:
    asked = requests(split, "test")
    judged = relevance(split, "test", None, asked, True, None).judged
    row = int(np.flatnonzero(draw_candidates(split, asked, judged, negatives, 0).positive)[0])
    draws = 3000
    chosen = np.zeros(split.log.n_items + 1, dtype=int)
    together, places = 0, np.zeros(1 + negatives, dtype=int)
    first, second = None, None
    for seed in range(draws):
        drawn = draw_candidates(split, asked, judged, negatives, seed)
        own = drawn.items[row]
        chosen[own] += 1
        places[own == drawn.positive[row]] += 1
        if first is None:
            first, second = own[own != drawn.positive[row]][:2]
        together += first in own and second in own
    free = chosen[(chosen > 0) & (np.arange(len(chosen)) != drawn.positive[row])]
    pool = int(drawn.pool[row])
    assert len(free) == pool
    # Drawn without replacement, the counts vary less than multinomial ones, by the factor (pool - n) / (pool - 1).
    expected = draws * negatives / pool
    spread = ((free - expected) ** 2).sum() / expected * (pool - 1) / (pool - negatives)
    assert 1e-4 < stats.chi2(pool - 1).sf(spread) < 1 - 1e-4
    expected = draws * negatives * (negatives - 1) / (pool * (pool - 1))
    assert together == pytest.approx(expected, abs=5 * math.sqrt(expected))
    assert stats.chisquare(places).pvalue > 1e-4


def test_every_set_is_as_likely_as_any_other() -> None:
    below = np.tile([5, 6], 20_000)
    drawn = np.sort(_distinct_draws(np.random.default_rng(0), below, 3), axis=1)
    for bound, sets in ((5, 10), (6, 20)):
        own = drawn[below == bound]
        assert own.min() == 0 and own.max() == bound - 1
        _, counts = np.unique(own, axis=0, return_counts=True)
        assert len(counts) == sets and stats.chisquare(counts).pvalue > 1e-3


def test_candidates_are_the_same_for_every_model_and_others_for_another_seed_or_split(search_log: EventLog) -> None:
    split = LeaveLastOut()(search_log)
    one, two = Personal(search_log), Personal(search_log)
    two.table.neg_()
    first, second, other = (
        rank_candidates(model, split, negatives=12, seed=seed) for model, seed in ((one, 0), (two, 0), (one, 1))
    )
    assert np.array_equal(np.sort(first.ranked), np.sort(second.ranked))
    assert np.array_equal(first.ranked, second.ranked[:, ::-1]), "scores are opposite, and without ties"
    assert not np.array_equal(np.sort(first.ranked), np.sort(other.ranked))
    elsewhere = rank_candidates(one, replace(split, hash="ab" * 32), negatives=12)
    assert not np.array_equal(np.sort(first.ranked), np.sort(elsewhere.ranked))


@pytest.mark.parametrize("levels", [None, 3])
@pytest.mark.parametrize("task", ["search", "recommendation", None])
def test_metrics_equal_the_formulas_by_hand(split: Split, task: Task | None, levels: int | None) -> None:
    model = Personal(split.log, levels)
    found = rank_candidates(model, split, task=task, negatives=9, ks=(3,), max_length=4)
    asked = requests(split, "test", task)
    table = model.table.numpy()[1]
    positive = dict(zip(found.targets.row.tolist(), found.targets.item.tolist(), strict=True))
    ranks = dict(zip(found.targets.row.tolist(), found.targets.rank.tolist(), strict=True))
    ties = 0
    for row, user in enumerate(found.users.tolist()):
        auc, ndcg, hit = (float(found.metrics[f"Sampled {name}"][row]) for name in ("AUC", "NDCG@3", "HR@3"))
        if row not in positive:
            assert math.isnan(auc) and math.isnan(ndcg)
            continue
        query = 0 if asked.query is None else int(asked.query[row])
        own = table[query, user, positive[row]]
        others = [table[query, user, item] for item in found.ranked[row].tolist() if item != positive[row]]
        above, equal = sum(o > own for o in others), sum(o == own for o in others)
        assert len(others) == 9 and auc == pytest.approx((9 - above - equal / 2) / 9)
        assert above < ranks[row] <= above + equal + 1
        assert ndcg == pytest.approx(1 / math.log2(ranks[row] + 1) if ranks[row] <= 3 else 0.0)
        assert hit == (ranks[row] <= 3)
        ties += equal
    assert (ties > 0) == (levels is not None)
    assert found.facts["targets"] == len(positive) == found.facts["judged_requests"]
    assert (
        found.facts["targets"] + found.facts["targets_not_asked"] == evaluate(model, split, task=task).facts["targets"]
    )


def test_ties_are_broken_at_random(search_log: EventLog) -> None:
    """A model that gives everything one score is right by chance: its ranks are uniform."""
    split = LeaveLastOut()(search_log)
    model = Personal(search_log)
    model.table.fill_(1.0)
    ranks = np.concatenate([rank_candidates(model, split, negatives=9, seed=s).targets.rank for s in range(40)])
    assert stats.chisquare(np.bincount(ranks, minlength=11)[1:]).pvalue > 1e-3
    assert np.nanmean(rank_candidates(model, split, negatives=9).metrics["Sampled AUC"]) == 0.5


def test_it_is_an_evaluation_that_says_what_it_is(split: Split, tmp_path: Path) -> None:
    model = Personal(split.log).train()
    found = rank_candidates(model, split, task="search", negatives=9, name="mine")
    assert model.training and not any(model.modes)
    assert all(name.startswith("Sampled ") for name in found.means()) and len(found.means()) == 4
    assert found.summary(resamples=50)["Sampled AUC"].users == found.facts["judged_users"]
    assert "1 item to be found among 9 drawn from 40 (sampled metrics)" in protocol(found)
    found.save(tmp_path / "sampled")
    loaded = Evaluation.load(tmp_path / "sampled")
    assert compare_evaluations(found, loaded, resamples=50)["Sampled NDCG@10"].p_value == 1.0
    for other in ({"negatives": 10}, {"seed": 1}):
        with pytest.raises(EvaluationError, match=r"cannot be compared: (negatives|candidate_seed)"):
            compare_evaluations(found, rank_candidates(model, split, task="search", **({"negatives": 9} | other)))
    with pytest.raises(EvaluationError, match="cannot be compared: negatives is 9 and None"):
        compare_evaluations(found, evaluate(model, split, task="search", top=10, ks=(10,)))
    with pytest.raises(EvaluationError, match="its ranks say nothing of recall"):
        recall_by_decile(found, 5)


def test_too_few_items_to_draw_from_is_refused(split: Split) -> None:
    model = Personal(split.log)
    with pytest.raises(ValueError, match=r"user \d+: \d+ items are neither in the history nor targets, and 39"):
        rank_candidates(model, split, negatives=39)
    with pytest.raises(ValueError, match="negatives must be at least 1"):
        rank_candidates(model, split, negatives=0, ks=(1,))
    with pytest.raises(ValueError, match="cut-off 10 does not fit"):
        rank_candidates(model, split, negatives=5)
    model.table[1] = math.inf
    with pytest.raises(ValueError, match="NaN or infinite"):
        rank_candidates(model, split, negatives=9)
