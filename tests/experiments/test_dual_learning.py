"""Cells, tables and the page of the study of dual learning, at a size that takes no time."""

from __future__ import annotations

import json
import math
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import dual_learning
import numpy as np
import pytest
from _dla_cells import METHODS, Cell, Size, cells, positions, run, world
from _dla_pictures import draw_switch
from _dla_switch import AFTER, Switched, run_switch, switch_cells, switch_table
from _dla_tables import table
from _report_dla import dual_learning_part

from recsys.unbiased.click_models import PositionBased
from recsys.unbiased.sessions import Sessions

pytestmark = pytest.mark.filterwarnings("ignore")
TINY = Size(train=20, test=15, documents=12, steps=3, batch_size=16, shuffled=1000, counted=1000)
ONE = Cell("position", 2.0, "medium", None, "dual", 0)


@pytest.fixture(scope="module")
def finished() -> dict[str, dict[str, Any]]:
    made = [replace(ONE, method=method) for method in METHODS]
    made += [replace(ONE, seed=1), replace(ONE, sessions=200, method="dual", users="browsing")]
    return {cell.name: run(cell, TINY) for cell in made}


def test_cells_have_names_of_their_own_and_tables_share_some() -> None:
    tables = cells(seeds=2)
    every = {cell for made in tables.values() for cell in made}
    assert len({cell.name for cell in every}) == len(every)
    assert set(tables["severity"]) & set(tables["ranker"])
    assert {cell.eta for cell in tables["severity"] if cell.method == "labels"} == {0.0}


def test_every_method_is_trained_and_judged(finished: dict[str, dict[str, Any]]) -> None:
    for content in finished.values():
        json.dumps(content, allow_nan=False)
        assert len(content["metrics"]["NDCG@10"]) == TINY.test
        assert 0.3 < np.nanmean(np.array(content["metrics"]["NDCG@10"], dtype=float)) < 1
    learned = finished[ONE.name]["propensities"]
    assert learned[0] == 1 and learned[1:] != [1.0] * 9
    assert finished[replace(ONE, method="naive").name]["propensities"] is None


def test_a_cell_is_a_function_of_its_seed(finished: dict[str, dict[str, Any]]) -> None:
    again = run(ONE, TINY)
    assert again["metrics"] == finished[ONE.name]["metrics"] != finished[replace(ONE, seed=1).name]["metrics"]


def test_true_propensities_are_those_of_the_users() -> None:
    chances = PositionBased(eta=2.0).chances(10)
    assert positions("position", 2.0, "medium", TINY)["examined"].tolist() == pytest.approx(
        (chances / chances[0]).tolist()
    )
    measured = positions("cascade", 1.0, "medium", TINY)
    assert measured["examined"].diff().max() < 0 and measured["clicks"].sum() == pytest.approx(1.0)


def test_rankers_of_all_strengths_meet_the_same_queries() -> None:
    assert world("weak", TINY).test.features.equal(world("strong", TINY).test.features)
    strength = [world(name, TINY).shown.label.double().mean().item() for name in ("weak", "strong")]
    assert strength[0] < strength[1]


def test_rows_are_means_over_seeds_with_paired_comparisons(finished: dict[str, dict[str, Any]]) -> None:
    wanted = [replace(ONE, method=method, seed=seed) for method in METHODS for seed in (0, 1)]
    rows = {row["method"]: row for row in table(wanted, finished)}
    dual, naive = rows["dual"], rows["naive"]
    assert dual["seeds"] == [0, 1] and naive["seeds"] == [0]
    each = [
        np.nanmean(np.array(finished[replace(ONE, seed=s).name]["metrics"]["NDCG@10"], dtype=float)) for s in (0, 1)
    ]
    assert dual["metrics"]["NDCG@10"]["mean"] == pytest.approx(np.mean(each))
    assert dual["metrics"]["NDCG@10"]["sd"] == pytest.approx(np.std(each, ddof=1))
    compared = dual["comparisons"]["naive"]
    assert compared["seeds"] == [0]
    difference = each[0] - naive["metrics"]["NDCG@10"]["mean"]
    assert compared["NDCG@10"]["difference"]["mean"] == pytest.approx(difference)
    one = finished[ONE.name]
    logs = [abs(math.log(found / true)) for found, true in zip(one["propensities"], one["examined"], strict=True)]
    weighted = sum(log * share for log, share in zip(logs, one["clicks"], strict=True))
    assert dual["log_error"]["values"][0] == pytest.approx(weighted)


def test_the_study_goes_on_where_it_was_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(dual_learning, "Size", lambda: TINY)
    arguments = ["dual_learning.py", "--cells", str(tmp_path / "cells"), "--results", str(tmp_path / "dual_learning")]
    arguments += ["--seeds", "1", "--table", "users", "--cell", "browsing-*"]
    monkeypatch.setattr(sys, "argv", arguments)

    def stopped(cell: Cell, size: Size) -> dict[str, Any]:
        if cell.method == "dual":
            raise KeyboardInterrupt
        return run(cell, size)

    monkeypatch.setattr(dual_learning, "run", stopped)
    with pytest.raises(KeyboardInterrupt):
        dual_learning.main()
    assert len(list((tmp_path / "cells").glob("*.json"))) == 3
    monkeypatch.setattr(dual_learning, "run", run)
    dual_learning.main()
    assert "4 cells, 1 to do" in capsys.readouterr().out
    monkeypatch.setattr(dual_learning, "Size", lambda: replace(TINY, steps=4))
    monkeypatch.setattr(sys, "argv", [*arguments, "--list"])
    dual_learning.main()
    assert "4 cells, 4 to do" in capsys.readouterr().out  # of another size

    content = json.loads((tmp_path / "dual_learning" / "users.json").read_text())
    page = "\n".join(dual_learning_part(tmp_path))
    (row,) = [row for row in content["rows"] if row["method"] == "dual"]
    metric = f"{row['metrics']['NDCG@10']['mean']:.4f}"
    (line,) = [line for line in page.splitlines() if line.startswith("| browsing | 1 |") and metric in line]
    assert "| dual |" in line
    assert "![browsing-1-medium](dual_learning/browsing-1-medium.png)" in page
    assert (tmp_path / "dual_learning" / "browsing-1-medium.png").read_bytes().startswith(b"\x89PNG")
    assert f"| truth | {row['examined'][1]:.3f} |" in page


def test_propensities_are_followed_across_a_switch(tmp_path: Path) -> None:
    made = [replace(switch_cells(2)[0], seed=seed) for seed in (0, 1)]
    size = replace(TINY, steps=16)
    finished = {cell.name: run_switch(cell, size) for cell in made}
    (row,) = switch_table(made, finished)
    assert [look["step"] for look in row["followed"]] == list(range(1, 17))
    before, after = (PositionBased(eta=eta).chances(10) for eta in (1.0, AFTER))
    for look in row["followed"]:
        chances = before if look["step"] <= 8 else after
        assert look["truth"] == pytest.approx((chances / chances[0]).tolist())
    look, contents = row["followed"][3], [finished[cell.name] for cell in made]
    curves = np.array([content["followed"][3]["propensities"] for content in contents])
    errors = np.abs(np.log(curves / look["truth"])) * contents[0]["clicks_before"]
    assert look["log_error"] == pytest.approx(errors.sum(1).mean(), rel=1e-4)
    assert contents[0]["propensities"] == contents[0]["followed"][-1]["propensities"]
    draw_switch([row], tmp_path)
    assert (tmp_path / "switch-adagrad.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "dual_learning").mkdir()
    machine = {"cpu": "a", "cores": 1}
    content = {"rows": [row], "machine": machine, "command": "c"}
    (tmp_path / "dual_learning" / "switch.json").write_text(json.dumps(content))
    page = "\n".join(dual_learning_part(tmp_path))
    assert f"| adagrad | 4 | {look['propensities'][1]:.3f} |" in page


def test_the_bias_of_users_changes_in_the_middle() -> None:
    shown, test = world("medium", TINY).shown, world("medium", TINY).test
    first, then = (Sessions(shown, PositionBased(eta=eta), 400, False) for eta in (0.0, 20.0))
    clicks = [lists.click[:, 1:].sum().item() for lists in islice(Switched(first, then, 3), 5)]
    assert min(clicks[:3]) > 50 and max(clicks[3:]) <= 2 and test.features.shape[0] == TINY.test


def test_nothing_is_said_without_results(tmp_path: Path) -> None:
    assert dual_learning_part(tmp_path) == []
