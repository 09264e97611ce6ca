from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
import report
from _results import beside_baselines, gather, write
from _rows import REFIT, STRICT, Row
from _runs import Run

from recsys.evaluation.evaluate import evaluate
from recsys.features.event_log import EventLog
from recsys.features.schema import Schema
from recsys.features.splits import LeaveLastOut
from recsys.models.als import ALS
from recsys.models.popularity import Popularity
from recsys.tracking.record import RunRecord
from recsys.tracking.run_folder import RunFolder
from recsys.training.usage import Work


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Finished runs of three seeds of a model and one of a baseline, and their evaluations."""
    root = tmp_path_factory.mktemp("runs")
    random = np.random.default_rng(0)
    frame = pd.DataFrame(
        {"user_id": np.repeat(np.arange(40), 6), "item_id": random.integers(0, 150, 240), "timestamp": np.arange(240)}
    )
    rule = LeaveLastOut()
    with pytest.warns(UserWarning):
        split = rule(EventLog.from_frame(frame, Schema(name="toy")))
    made = {}
    for row, make in (
        (Row("toy", STRICT, "net"), lambda seed: ALS(4, seed=seed)),
        (Row("toy", STRICT, "popularity", seeds=(0,)), lambda seed: Popularity()),
    ):
        runs = [Run(row, seed, root) for seed in row.seeds]
        judged = []
        for run in runs:
            model = make(run.seed)
            model.fit(split)
            judged.append(evaluate(model, split))
            judged[-1].save(RunFolder(run.folder).evaluation(judged[-1].model))
            config = {"init_args": model.config()}
            record = RunRecord.of("toy", judged[-1].model, config, split, rule, root, {"model": run.seed})
            record.measure(Work())
            record.status = "finished"
            record.write(run.folder)
        made[row.model] = gather(row, runs), runs, judged
    return made


def test_a_row_holds_every_seed_and_the_declared_keys(table):
    content, _, judged = table["net"]
    values = [evaluation.means()["HR@50"] for evaluation in judged]
    assert len(set(values)) > 1
    assert content["metrics"]["HR@50"]["values"] == values
    assert content["metrics"]["HR@50"]["mean"] == pytest.approx(np.mean(values))
    assert content["metrics"]["HR@50"]["sd"] == pytest.approx(np.std(values, ddof=1))
    declared = {"dataset", "protocol", "model", "metrics", "seeds", "baselines_run", "wall_s", "peak_rss_mib"}
    assert set(content) == declared | {"versions", "git", "command", "settings"}
    assert content["seeds"] == [0, 1, 2]
    assert content["command"] == (
        "python experiments/study.py --dataset toy --protocol leave_last_out_strict --model net"
    )
    assert table["popularity"][0]["metrics"]["HR@50"]["sd"] is None


def test_the_comparison_is_paired_with_the_strongest_baseline(table):
    content, runs, judged = table["net"]
    baseline, theirs, (its_judgement,) = table["popularity"]
    both = beside_baselines(content, runs, {"popularity": (baseline, theirs)})
    assert both["baselines_run"] == ["popularity"]
    found = both["comparison"]["metrics"]["NDCG@50"]["difference"]
    expected = np.mean([e.means()["NDCG@50"] for e in judged]) - its_judgement.means()["NDCG@50"]
    assert both["comparison"]["with"] == "popularity"
    assert found["mean"] == pytest.approx(expected)
    assert found["low"] <= found["mean"] <= found["high"]


def test_the_page_shows_every_number_once_and_keeps_strict_and_refit_apart(table, tmp_path):
    content, runs, _ = table["net"]
    strict = beside_baselines(content, runs, {"popularity": table["popularity"][:2]}) | {"dataset": "amazon_beauty"}
    refit = content | {"dataset": "amazon_beauty", "protocol": REFIT, "model": "net_refit"}
    ablation = content | {"dataset": "amazon_beauty", "model": "rotary_none"}
    for each in (strict, refit, ablation, table["popularity"][0] | {"dataset": "amazon_beauty"}):
        write(each, tmp_path)
    ratio = {"value": 4.2, "ours": 42.0, "theirs": 10.0, "unit": "sequences/s"}
    benchmark = {
        "ratios": {"toy/peer": ratio},
        "machine": content["settings"]["machine"],
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
    (line,) = [line for line in strict_part.splitlines() if line.startswith("| net |")]
    cells = [cell.strip().replace("*", "") for cell in line.split("|")[2:]]
    for cell, name in zip(cells, report.COLUMNS, strict=False):
        metric = content["metrics"][name]
        assert cell == f"{metric['mean']:.4f} ± {metric['sd']:.4f}"
    assert "| toy/peer | **4.20** | 42 | 10 | sequences/s |" in page
