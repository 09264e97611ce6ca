from __future__ import annotations

import json
from dataclasses import replace

import _ranking
import numpy as np
import pytest
from _ranking import is_done, rank, rank_saved, wanted, with_some_users

from recsys.evaluation.result import Evaluation
from tests.evaluation.conftest import Personal


def test_some_users_are_drawn_of_those_who_have_a_request(search_split, monkeypatch):
    query = search_split.log.columns["query"][search_split.test.targets()]
    searching = set(search_split.test.users[query > 0].tolist())
    everyone = with_some_users(search_split, "search")
    assert set(everyone.test.users.tolist()) == searching
    monkeypatch.setattr(_ranking, "USERS", 20)
    some, again = (with_some_users(search_split, "search") for _ in range(2))
    users = set(some.test.users.tolist())
    assert len(users) == 20 and users < searching
    assert users == set(again.test.users.tolist())
    assert users != set(sorted(searching)[:20])
    assert some.hash == search_split.hash
    others = with_some_users(search_split, "recommendation").test.users.tolist()
    assert len(others) == 20 and not searching & set(others)


@pytest.fixture
def folder(tmp_path):
    """A run that was judged in one task, with and without ranking."""
    for name in ("Net.search", "Net-ranked.search", "Popularity.search"):
        (tmp_path / "evaluation" / name).mkdir(parents=True)
    (tmp_path / "run.json").write_text(json.dumps({"model": "Net"}))
    return tmp_path


def test_the_tasks_are_those_that_the_run_was_judged_in(folder):
    assert list(wanted(folder, "Net")) == [("search", 99), ("search", 999)]
    assert {place.name for place in wanted(folder, "Net").values()} == {
        "Net.search.candidates_99",
        "Net.search.candidates_999",
    }
    (folder / "evaluation" / "Net.recommendation").mkdir()
    assert {task for task, _ in wanted(folder, "Net")} == {"search", "recommendation"}
    assert {task for task, _ in wanted(folder, "Net", ["recommendation"])} == {"recommendation"}


def test_what_is_there_is_left_alone_and_the_rest_is_made(folder, search_split, monkeypatch):
    monkeypatch.setattr(_ranking, "USERS", 15)
    places = wanted(folder, "Net")
    model = Personal(search_split.log)
    rank(model, search_split, {("search", 99): places["search", 99]}, "Net")
    assert not is_done(folder)
    before = (places["search", 99] / "evaluation.json").stat().st_mtime_ns
    asked = len(model.asked)
    rank(model, search_split, places, "Net", max_length=3)
    assert is_done(folder) and is_done(folder, ["search"])
    assert (places["search", 99] / "evaluation.json").stat().st_mtime_ns == before
    found = Evaluation.load(places["search", 999])
    assert found.model == "Net"
    assert (found.facts["negatives"], found.facts["task"], len(found.users)) == (999, "search", 15)
    assert all(batch.lengths.max() <= 3 for batch in model.asked[asked:])
    assert np.array_equal(found.users, Evaluation.load(places["search", 99]).users)
    rank(model, replace(search_split, test=None), places, "Net")  # nothing is left to do


def test_a_saved_run_is_judged_by_its_own_model_and_split(tmp_path, monkeypatch):
    """Of a network that reads four events: the same numbers as the parts give."""
    from recsys.evaluation.candidates import rank_candidates
    from recsys.tracking.bundle import Bundle
    from tests.cli.conftest import make_search_run

    monkeypatch.setattr(_ranking, "NEGATIVES", (9,))
    run = make_search_run(tmp_path)
    rank_saved(run.path, ["search"])
    name = run.record.model
    assert is_done(run.path, ["search"]) and not is_done(run.path)
    bundle, split = Bundle.load(run.model), run.split(run.log())
    expected = rank_candidates(bundle.model, split, task="search", negatives=9, max_length=bundle.max_length)
    found = Evaluation.load(run.path / "candidates" / f"{name}.search.candidates_9")
    np.testing.assert_array_equal(found.metrics["Sampled AUC"], expected.metrics["Sampled AUC"])
    assert run.evaluations()[0].model == name, "the evaluations of lists are not mixed with those of candidates"
    assert all("negatives" not in evaluation.facts for evaluation in run.evaluations())
