from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from recsys.evaluation.evaluate import evaluate
from recsys.evaluation.result import Evaluation, EvaluationError, compare_evaluations
from recsys.features.event_log import EventLog
from recsys.features.splits import GlobalTime
from recsys.models.popularity import Popularity, RecentPopularity


@pytest.fixture(scope="module")
def pair(log: EventLog) -> tuple[Evaluation, Evaluation]:
    split = GlobalTime(0.2, 0.2)(log)
    models: list[Any] = [Popularity(), RecentPopularity(days=0.002)]
    for model in models:
        model.fit(split)
    first, second = (evaluate(model, split, ks=(5,), top=12) for model in models)
    return first, second


def same(a: Evaluation, b: Evaluation) -> bool:
    arrays = [(getattr(a, n), getattr(b, n)) for n in ("users", "history_length", "ranked")]
    arrays += [(a.metrics[n], b.metrics[n]) for n in a.metrics]
    arrays += [(getattr(a.targets, n), getattr(b.targets, n)) for n in vars(a.targets)]
    equal = all(x.dtype == y.dtype and np.array_equal(x, y, equal_nan=x.dtype.kind == "f") for x, y in arrays)
    return equal and (a.model, a.facts, a.exposure, list(a.metrics)) == (b.model, b.facts, b.exposure, list(b.metrics))


def test_save_and_load_give_the_same(pair: tuple[Evaluation, Evaluation], tmp_path: Path) -> None:
    first, second = pair
    first.save(tmp_path / "run" / "test")
    assert same(Evaluation.load(tmp_path / "run" / "test"), first)
    second.save(tmp_path / "run" / "test")
    assert same(Evaluation.load(tmp_path / "run" / "test"), second)
    assert sorted(os.listdir(tmp_path / "run")) == ["test"]
    assert sorted(os.listdir(tmp_path / "run" / "test")) == ["evaluation.json", "targets.parquet", "users.parquet"]


def test_a_failed_save_leaves_the_old_one(pair: tuple[Evaluation, Evaluation], tmp_path: Path) -> None:
    first, second = pair
    first.save(tmp_path / "test")
    with pytest.raises(TypeError):
        replace(second, facts={"split": object()}).save(tmp_path / "test")
    assert same(Evaluation.load(tmp_path / "test"), first)
    assert os.listdir(tmp_path) == ["test"]


def test_a_foreign_folder_is_not_replaced(pair: tuple[Evaluation, Evaluation], tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(EvaluationError, match="is no evaluation"):
        pair[0].save(tmp_path)
    assert (tmp_path / "thesis.txt").exists()


def test_damage_is_named(pair: tuple[Evaluation, Evaluation], tmp_path: Path) -> None:
    with pytest.raises(EvaluationError, match=r"nothing here.*no complete evaluation"):
        Evaluation.load(tmp_path / "nothing here")
    pair[0].save(tmp_path / "test")
    (tmp_path / "test" / "users.parquet").write_bytes(b"PAR1")
    with pytest.raises(EvaluationError, match="no complete evaluation"):
        Evaluation.load(tmp_path / "test")
    facts = tmp_path / "test" / "evaluation.json"
    facts.write_text(json.dumps(json.loads(facts.read_text()) | {"format": 99}))
    with pytest.raises(EvaluationError, match="format 99"):
        Evaluation.load(tmp_path / "test")


def test_comparison_of_runs(pair: tuple[Evaluation, Evaluation]) -> None:
    first, second = pair
    found = compare_evaluations(first, second, resamples=200)
    means = first.means(), second.means()
    assert set(found) == set(first.metrics)
    for name, comparison in found.items():
        assert comparison.difference.mean == pytest.approx(means[1][name] - means[0][name], abs=1e-6)


@pytest.mark.parametrize("fact", ["split_hash", "part", "task", "filter_seen", "cold_targets", "top", "negatives"])
def test_runs_under_other_rules_are_not_compared(pair: tuple[Evaluation, Evaluation], fact: str) -> None:
    first, second = pair
    other = replace(second, facts=second.facts | {fact: "other"})
    with pytest.raises(EvaluationError, match=fact):
        compare_evaluations(first, other)


def test_an_evaluation_that_names_no_task_is_one_of_no_task(pair: tuple[Evaluation, Evaluation]) -> None:
    first, second = pair
    older = replace(second, facts={name: value for name, value in second.facts.items() if name != "task"})
    assert compare_evaluations(first, older, resamples=50) == compare_evaluations(first, second, resamples=50)


def test_rows_of_a_user_are_resampled_together(pair: tuple[Evaluation, Evaluation]) -> None:
    twice = [replace(e, users=e.users // 2 * 2) for e in pair]
    users = len(np.unique(twice[0].users[~np.isnan(twice[0].metrics["HR@5"])]))
    assert users < pair[0].facts["judged_users"]
    assert twice[0].summary(resamples=50)["HR@5"].users == users
    assert compare_evaluations(*twice, resamples=50)["HR@5"].difference.users == users


def test_runs_on_other_users_or_metrics_are_not_compared(pair: tuple[Evaluation, Evaluation]) -> None:
    first, second = pair
    with pytest.raises(EvaluationError, match="different users"):
        compare_evaluations(first, replace(second, users=second.users + 1))
    with pytest.raises(EvaluationError, match="no metric in common"):
        compare_evaluations(first, replace(second, metrics={"AUC": second.metrics["HR@5"]}))


def test_summary_has_an_interval_for_each_metric(pair: tuple[Evaluation, Evaluation]) -> None:
    summary = pair[0].summary(resamples=100)
    means = pair[0].means()
    assert all(interval.mean == pytest.approx(means[name]) for name, interval in summary.items())
    assert set(pair[0].exposure) <= set(means)
