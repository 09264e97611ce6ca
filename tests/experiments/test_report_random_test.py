"""The table of models that are judged on items shown at random."""

from __future__ import annotations

from typing import Any

import numpy as np
import report
from _results import write
from _two_way import two_way_comparison

from recsys.tracking.environment import machine


def row(model: str, values: list[float]) -> dict[str, Any]:
    metrics = {name: {"mean": float(np.mean(values)), "sd": 0.01, "values": values} for name in ("NDCG@5", "MAP@5")}
    facts = {"dataset": "coat", "protocol": "random_test", "model": model, "metrics": metrics, "seeds": [0, 1]}
    return facts | {"wall_s": 1.0, "peak_rss_mib": 1.0, "versions": {}, "git": {"revisions": [], "dirty": False}}


def test_methods_stand_by_quality_with_their_differences(tmp_path) -> None:
    worse, better = row("mf", [0.3, 0.32]), row("mf_du", [0.4, 0.42])
    found = two_way_comparison(np.full((2, 4), 0.31), np.full((2, 4), 0.41))
    better["comparison"] = {"with": "mf", "metrics": {n: found for n in ("NDCG@1", "NDCG@3", "NDCG@5", "MAP@5")}}
    for content in (worse, better):
        write(content | {"command": "x", "settings": {"machine": machine()}, "baselines_run": []}, tmp_path)
    page = report.report(tmp_path)
    part = page[page.index("### coat, random_test") :]
    assert part.index("| mf_du |") < part.index("| mf |")
    assert "0.4100 ± 0.0100" in part and "+0.1000 [+0.1000, +0.1000], p = 0.0005" in part
    assert "shown to them at random" in part
