from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from _results import Judgement, gather, over_runs, provenance, write, write_json
from _slices import by_activity, of_cold_items

TASKLESS = {"dataset", "protocol", "model", "metrics", "seeds", "baselines_run", "wall_s", "peak_rss_mib"}
TASKLESS |= {"versions", "git", "command", "settings"}
STAGES = ("", "/candidates_99", "/candidates_999", "/ranked")


def test_a_row_holds_every_seed_and_the_declared_keys(plain_table):
    toy = plain_table["net"]
    content = toy.content
    values = [judged[""].means()["HR@50"] for judged in toy.evaluations]
    assert len(set(values)) > 1
    assert content["metrics"]["HR@50"]["values"] == values
    assert content["metrics"]["HR@50"]["mean"] == pytest.approx(np.mean(values))
    assert content["metrics"]["HR@50"]["sd"] == pytest.approx(np.std(values, ddof=1))
    assert set(content["metrics"]) == set(toy.evaluations[0][""].means())
    assert set(content) == TASKLESS
    assert content["seeds"] == [0, 1, 2]
    assert content["command"] == (
        "python experiments/study.py --dataset toy --protocol leave_last_out_strict --model net"
    )
    assert plain_table["popularity"].content["metrics"]["HR@50"]["sd"] is None


def test_each_task_stage_and_number_of_candidates_has_metrics_of_its_own(search_table):
    toy = search_table["synergen"]
    labels = {f"{task}{stage}" for task in ("search", "recommendation") for stage in STAGES}
    assert set(toy.content) == TASKLESS | {"requests", "activity", "cold"}
    assert set(toy.content["requests"]) == labels == {name.rpartition("/")[0] for name in toy.content["metrics"]}
    for label in labels:
        for name, metric in toy.content["metrics"].items():
            if name.rpartition("/")[0] == label:
                plain = name.rpartition("/")[2]
                saved = f"Sampled {plain}" if "candidates" in label else plain
                assert metric["values"] == [judged[label].means()[saved] for judged in toy.evaluations]
    means = {label: toy.content["metrics"][f"{label}/NDCG@10"]["mean"] for label in labels}
    assert len(set(means.values())) == len(labels)
    assert means["search/ranked"] > means["search"], "the toy is made to rank better than it retrieves"
    assert 0.5 < toy.content["metrics"]["search/candidates_99/AUC"]["mean"] < 1
    requests = toy.content["requests"]
    assert requests["search"] + requests["recommendation"] == len(toy.evaluations[0]["search"].users) + len(
        toy.evaluations[0]["recommendation"].users
    )


def test_activity_is_that_of_the_requests_over_the_seeds(search_table):
    """Against a loop; the toy's histories are alike, and so are made to differ."""
    toy = search_table["synergen"]
    assert set(toy.content["activity"]) == {"search", "recommendation"}
    judgements = toy.finished.judgements["search"]
    lengths = np.arange(len(judgements[0].users)) % 60
    slices = by_activity([replace(judged, history_length=lengths) for judged in judgements])
    assert [found["slice"] for found in slices] == ["0-4", "5-9", "10-19", "20-49", "50+"]
    for found in slices:
        low, _, high = found["slice"].replace("+", "-1000000").partition("-")
        members = [row for row, length in enumerate(lengths) if int(low) <= length <= int(high)]
        of_seeds = [np.mean([judged.metrics["NDCG@10"][row] for row in members]) for judged in judgements]
        assert found["requests"] == len(members)
        assert found["mean"] == pytest.approx(np.mean(of_seeds), rel=1e-5)
        assert found["sd"] == pytest.approx(np.std(of_seeds, ddof=1), rel=1e-3, abs=1e-7)


def test_cold_items_are_those_without_training_events(search_table):
    """From the targets of the saved evaluations, in a loop, with two items made cold."""
    toy = search_table["synergen"]
    judged = toy.evaluations[0]["search"]
    deciles = np.where(np.isin(judged.targets.item, judged.targets.item[:2]), 0, np.maximum(judged.targets.decile, 1))
    changed = replace(judged, targets=replace(judged.targets, decile=deciles))
    found = of_cold_items([Judgement.of(changed)])
    rows = [row for row, decile in zip(judged.targets.row.tolist(), deciles, strict=True) if decile == 0]
    assert found["requests"] == len(rows) > 0
    assert found["HR@50"]["mean"] == pytest.approx(np.mean([judged.metrics["HR@50"][row] for row in rows]))
    assert found["HR@50"]["sd"] is None
    warm = replace(judged, targets=replace(judged.targets, decile=np.ones_like(deciles)))
    assert of_cold_items([Judgement.of(warm)]) is None


def test_a_row_that_is_made_for_one_task_lacks_the_other(search_table):
    assert set(search_table["query_only"].content["requests"]) == {f"search{stage}" for stage in STAGES}


def test_a_baseline_is_judged_by_retrieval_and_candidates(search_table):
    labels = set(search_table["lexical_bm25"].content["requests"])
    assert {label.partition("/")[2] for label in labels} == {"", "candidates_99", "candidates_999"}


def test_runs_that_were_judged_otherwise_are_not_put_together(search_table, plain_table):
    runs = [*search_table["synergen"].runs[:1], plain_table["net"].runs[0]]
    with pytest.raises(ValueError, match=r"toy/leave_last_out_strict/net/0 was judged as .*, and search_beauty"):
        over_runs(runs)


def test_the_numbers_are_those_of_the_lists(search_table):
    """Recall@10 of searches, from the saved lists by hand: every request has one item to be found."""
    toy = search_table["synergen"]
    judged = toy.evaluations[0]["search/ranked"]
    found = [
        judged.targets.item[place] in judged.ranked[row, :10] for place, row in enumerate(judged.targets.row.tolist())
    ]
    assert toy.content["metrics"]["search/ranked/Recall@10"]["values"][0] == pytest.approx(np.mean(found))


def test_the_file_is_where_the_page_looks_for_it(search_table, tmp_path):
    toy = search_table["synergen"]
    row = replace(toy.finished.row, model="ranking_weight_0.3")
    path = write(gather(row, toy.runs, over_runs(toy.runs)), tmp_path)
    assert path == tmp_path / "search_beauty" / "leave_last_out_strict" / "ranking_weight_0.3.json"
    assert [entry.name for entry in path.parent.iterdir()] == [path.name]


def test_a_file_is_complete_or_what_it_was(tmp_path: Path) -> None:
    path = tmp_path / "new" / "p0.5-0.json"
    write_json(path, {"a": 1})
    assert [other.name for other in path.parent.iterdir()] == [path.name]
    with pytest.raises(UnicodeEncodeError):  # in the middle of writing
        write_json(path, {"a": "\ud800"}, ensure_ascii=False)
    assert json.loads(path.read_text()) == {"a": 1}


def test_a_row_tells_what_its_runs_cost_and_who_made_them() -> None:
    runs = [
        {"wall_s": 1.0, "peak_rss_mib": 7, "git": {"revision": "b", "dirty": False}},
        {"wall_s": 2.04, "peak_rss_mib": 5, "git": {"revision": "a", "dirty": True}},
        {"wall_s": 3.0, "peak_rss_mib": 6, "git": None},
    ]
    expected = {"wall_s": 2.0, "peak_rss_mib": 7, "git": {"revisions": ["a", "b"], "dirty": True}}
    assert provenance(runs) == expected
