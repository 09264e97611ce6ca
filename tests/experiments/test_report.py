from __future__ import annotations

import json
import re

import pytest
import report
from _results import write
from _row import REFIT

from tests.experiments.toys import compared


def cells(page: str, *first: str) -> list[str]:
    """The cells that follow in the one line that begins with the given ones."""
    start = f"| {' | '.join(first)} |"
    (line,) = [line for line in page.splitlines() if line.startswith(start)]
    return [cell.strip().replace("*", "") for cell in line.removeprefix(start).split("|")][:-1]


def shown(metric: dict) -> str:
    return f"{metric['mean']:.4f}" + (f" ± {metric['sd']:.4f}" if metric["sd"] is not None else "")


def test_the_published_page_is_made_of_the_published_rows():
    assert (report.RESULTS / "RESULTS.md").read_text(encoding="utf-8") == report.report(report.RESULTS)


def test_the_page_shows_every_number_once_and_keeps_strict_and_refit_apart(plain_table, tmp_path):
    contents = compared(plain_table)
    strict = contents["net"] | {"dataset": "amazon_beauty"}
    refit = strict | {"protocol": REFIT, "model": "net_refit"}
    ablation = strict | {"model": "rotary_none"}
    for each in (strict, refit, ablation, contents["popularity"] | {"dataset": "amazon_beauty"}):
        write(each, tmp_path)
    ratio = {"value": 4.2, "ours": 42.0, "theirs": 10.0, "unit": "sequences/s"}
    benchmark = {
        "ratios": {"toy/peer": ratio},
        "machine": strict["settings"]["machine"],
        "versions": {},
        "command": "x",
    }
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "speed.json").write_text(json.dumps(benchmark))
    page = report.report(tmp_path)
    strict_part, _, rest = page.partition("### amazon_beauty, leave_last_out_refit")
    refit_part = rest.partition("## Benchmarks")[0]
    assert "| net |" in strict_part and "popularity (baseline)" in strict_part and "rotary_none" in strict_part
    assert "net_refit" not in strict_part and "published" not in strict_part.lower().partition("####")[0]
    assert "net_refit" in refit_part and "0.0928 | 0.0523" in refit_part and "| net |" not in refit_part
    expected = [shown(strict["metrics"][name]) for name in report.COLUMNS]
    assert cells(strict_part, "net")[: len(expected)] == expected
    assert "| toy/peer | **4.20** | 42 | 10 | sequences/s |" in page
    assert "synthetic" not in page


@pytest.fixture(scope="module")
def search_page(search_table, tmp_path_factory):
    """The JSONs by model, with a rotary row, and their page."""
    results = tmp_path_factory.mktemp("results")
    contents = compared(search_table)
    contents["rotary_none"] = {k: v for k, v in contents["synergen"].items() if k != "comparisons"}
    contents["rotary_none"] |= {"model": "rotary_none"}
    for content in contents.values():
        write(content, results)
    return contents, report.report(results)


def section(page: str, title: str) -> str:
    return page.partition(f"#### {title}")[2].partition("\n#")[0]


@pytest.mark.parametrize("task", ["search", "recommendation"])
def test_each_task_has_a_table_of_retrieved_and_of_ranked_lists(search_page, task):
    contents, page = search_page
    own = section(page, f"search_beauty: {task}, ")
    assert own.startswith(f"{contents['synergen']['requests'][task]:,} requests")
    for model, stage, label in (
        ("synergen", "retrieval", task),
        ("synergen", "ranked", f"{task}/ranked"),
        ("lexical_bm25 (baseline)", "retrieval", task),
    ):
        metrics = contents[model.partition(" ")[0]]["metrics"]
        expected = [shown(metrics[f"{label}/{name}"]) for name in ("Recall@10", "Recall@50", "NDCG@10", "MRR@50")]
        assert cells(own, model, stage)[:4] == expected
    assert "rotary_none" not in own
    assert ("| query_only |" in own) == (task == "search")
    lists = own.partition("by activity of the user:")[0]
    lines = [line for line in lists.splitlines() if line.startswith("| ") and "---" not in line][1:]
    values = [float(line.split("|")[5].replace("*", "").split()[0]) for line in lines]
    assert values == sorted(values, reverse=True)
    assert lines[0].split("|")[5].strip().startswith("**"), "the best of a column is bold"
    assert not any("**" in line.split("|")[5] for line in lines[1:])


def test_comparisons_are_sentences_with_the_numbers_of_the_json(search_page):
    contents, page = search_page
    found = contents["synergen"]["comparisons"]["query_only"]
    (line,) = [line for line in page.splitlines() if line.startswith("- synergen less query_only: ")]
    for label, metric in (("search", "NDCG@10"), ("search/ranked", "NDCG@10"), ("search/candidates_999", "AUC")):
        numbers = found[label][metric]
        difference = numbers["difference"]
        interval = f"[{difference['low']:+.4f}, {difference['high']:+.4f}]"
        assert f"{metric} {difference['mean']:+.4f} {interval}, p = {numbers['p_value']:.4f}" in line
    assert line in section(page, "search_beauty: search, ")
    best = contents["synergen"]["baseline_comparisons"]["recommendation"]["with"]
    assert f"- synergen less {best} (the strongest baseline): " in section(page, "search_beauty: recommendation, ")


def test_activity_has_a_table_in_each_task(search_page):
    contents, page = search_page
    synergen = contents["synergen"]
    for task in ("search", "recommendation"):
        table = section(page, f"search_beauty: {task}, ").partition("by activity of the user:")[2]
        for found in synergen["activity"][task]:
            assert re.search(rf"^\| {re.escape(found['slice'])} \| {found['requests']} \|", table, re.MULTILINE)
            assert f"{found['mean']:.4f}" in table
        assert ("query_only" in table) == (task == "search") and "popularity" in table


def test_candidates_have_a_table_for_each_task(search_page):
    contents, page = search_page
    own = section(page, "search_beauty: ranking of candidates")
    for task in ("search", "recommendation"):
        table = own.partition(f"Task {task}:")[2].partition("Task")[0]
        metrics = contents["popularity"]["metrics"]
        wanted = [f"{task}/candidates_{n}/{name}" for n in (99, 999) for name in ("AUC", "NDCG@10")]
        assert cells(table, "popularity (baseline)") == [shown(metrics[name]) for name in wanted]
        assert ("query_only" in table) == (task == "search")


def test_the_page_says_that_nobody_typed_the_queries_and_what_the_rows_are(search_page):
    _, page = search_page
    before = page.partition("#### search_beauty: search")[0]
    assert "The queries are synthetic: nobody typed them." in before
    assert "- `query_only`: no person" in before


def test_rotary_embeddings_stand_apart_beside_the_recipe(search_page):
    contents, page = search_page
    own = section(page, "search_beauty: ablation of rotary embeddings").partition("Task recommendation:")[0]
    expected = shown(contents["rotary_none"]["metrics"]["search/NDCG@10"])
    assert cells(own, "rotary_none", "retrieval")[2] == expected == cells(own, "synergen", "retrieval")[2]
