from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from _comparisons import COMPARED, with_comparisons

from recsys.evaluation.intervals import compare
from tests.experiments.toys import Toy, compared


def difference(ours: Toy, theirs: Toy, label: str, theirs_label: str, metric: str) -> float:
    """Mean over the seeds of one row less that of another, from the evaluations."""
    sampled = "Sampled " if "candidates" in label else ""
    first, second = (
        np.mean([judged[at].means()[f"{sampled}{metric}"] for judged in toy.evaluations])
        for toy, at in ((theirs, theirs_label), (ours, label))
    )
    return second - first


def test_without_tasks_the_comparison_is_that_of_the_library_with_the_strongest_baseline(plain_table):
    content = compared(plain_table)["net"]
    assert content["baselines_run"] == ["popularity"]
    assert content["comparison"]["with"] == "popularity"
    assert not {"comparisons", "baseline_comparisons"} & set(content)
    ours, theirs = (
        {m: np.mean([judged[""].metrics[m] for judged in plain_table[name].evaluations], axis=0) for m in COMPARED[1:]}
        for name in ("net", "popularity")
    )
    for metric, expected in compare(theirs, ours).items():
        found = content["comparison"]["metrics"][metric]
        assert found["p_value"] == expected.p_value
        assert found["difference"]["low"] == expected.difference.low
    expected = difference(plain_table["net"], plain_table["popularity"], "", "", "NDCG@50")
    assert content["comparison"]["metrics"]["NDCG@50"]["difference"]["mean"] == pytest.approx(expected)


def test_the_numbers_of_a_row_without_tasks_do_not_hang_on_the_rows_beside_it(plain_table):
    net = plain_table["net"].finished
    share = np.linspace(0, 1, len(net.judgements[""][0].users))
    changed = [
        replace(j, metrics={name: share * values for name, values in j.metrics.items()}) for j in net.judgements[""]
    ]
    table = {name: toy.finished for name, toy in plain_table.items()}
    other = replace(net, content=net.content | {"model": "other"}, judgements={"": changed})
    again = {content["model"]: content for content in with_comparisons(table | {"other": other})}
    assert again["net"]["comparison"] == compared(plain_table)["net"]["comparison"]
    assert again["other"]["comparison"] != again["net"]["comparison"]


def test_each_label_is_compared_with_the_strongest_baseline_of_its_task(search_table):
    content = compared(search_table)["synergen"]
    assert "comparison" not in content
    assert content["baselines_run"] == ["popularity", "lexical_bm25"]
    assert set(content["baseline_comparisons"]) == set(content["requests"])
    for label, found in content["baseline_comparisons"].items():
        plain = label.removesuffix("/ranked")  # a baseline has one list for both stages
        means = {
            name: search_table[name].content["metrics"][f"{plain}/NDCG@10"]["mean"]
            for name in ("popularity", "lexical_bm25")
        }
        assert found["with"] == max(means, key=means.__getitem__)
        metric = "AUC" if "candidates" in label else "MRR@50"
        expected = difference(search_table["synergen"], search_table[found["with"]], label, plain, metric)
        assert found["metrics"][metric]["difference"]["mean"] == pytest.approx(expected)
        assert set(found["metrics"]) == ({"AUC", "HR@10", "NDCG@10"} if "candidates" in label else set(COMPARED[1:]))


def test_rows_are_compared_with_those_they_name_in_the_labels_that_both_have(search_table):
    content = compared(search_table)
    assert "comparisons" not in content["query_only"]
    assert set(content["synergen"]["comparisons"]) == {"query_only"}
    labels = content["synergen"]["comparisons"]["query_only"]
    assert set(labels) == set(content["query_only"]["requests"])
    for label, metrics in labels.items():
        found = metrics["NDCG@10"]
        expected = difference(search_table["synergen"], search_table["query_only"], label, label, "NDCG@10")
        assert found["difference"]["mean"] == pytest.approx(expected)
        assert found["difference"]["low"] <= expected <= found["difference"]["high"]
        assert found["difference"]["users"] == content["synergen"]["requests"][label]
    assert labels["search/ranked"]["NDCG@10"]["p_value"] < 0.05 < 1


def test_pairs_that_share_their_draws_get_the_intervals_of_each_alone(search_table):
    """Up to the noise of the bootstrap."""
    together = compared(search_table)["synergen"]["comparisons"]["query_only"]["search"]["MRR@50"]["difference"]
    ours, theirs = (
        np.mean([judged["search"].metrics["MRR@50"] for judged in search_table[name].evaluations], axis=0)
        for name in ("synergen", "query_only")
    )
    alone = compare({"MRR@50": theirs}, {"MRR@50": ours})["MRR@50"].difference
    width = alone.high - alone.low
    assert together["low"] == pytest.approx(alone.low, abs=0.1 * width)
    assert together["high"] == pytest.approx(alone.high, abs=0.1 * width)


def test_the_second_stage_is_compared_with_the_first(search_table):
    toy = search_table["synergen"]
    found = compared(search_table)["synergen"]["stage_comparisons"]
    assert set(found) == {label.removesuffix("/ranked") for label in toy.finished.judgements if "ranked" in label}
    for task, metrics in found.items():
        expected = difference(toy, toy, f"{task}/ranked", task, "NDCG@10")
        assert metrics["NDCG@10"]["difference"]["mean"] == pytest.approx(expected)
    ours, theirs = (
        {"MRR@50": np.mean([judged[label].metrics["MRR@50"] for judged in toy.evaluations], axis=0)}
        for label in ("search/ranked", "search")
    )
    expected = compare(theirs, ours)["MRR@50"].p_value
    assert found["search"]["MRR@50"]["p_value"] == pytest.approx(expected, abs=0.02)
    assert "stage_comparisons" not in compared(search_table)["popularity"]


def test_a_table_without_baselines_has_nothing_beside_it(search_table):
    (content,) = with_comparisons({"query_only": search_table["query_only"].finished})
    assert content["baselines_run"] == []
    assert not {"comparison", "comparisons", "baseline_comparisons"} & set(content)


def test_what_was_judged_otherwise_is_not_paired(search_table):
    finished = search_table["query_only"].finished
    other = [replace(j, facts=j.facts | {"filter_seen": False}) for j in finished.judgements["search"]]
    table = {name: toy.finished for name, toy in search_table.items() if name == "synergen"}
    table["query_only"] = replace(finished, judgements={"search": other})
    with pytest.raises(ValueError, match="synergen and query_only, search: judged by other filter_seen"):
        with_comparisons(table)
    table["query_only"] = replace(
        finished, judgements={"search": [replace(j, users=j.users + 1) for j in finished.judgements["search"]]}
    )
    with pytest.raises(ValueError, match="search: judged by other users"):
        with_comparisons(table)
