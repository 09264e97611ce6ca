"""The choice of a weight of L2 in the study of noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import _denoising
import _denoising_l2
import _denoising_page
import _denoising_runs
import denoising
import denoising_l2
import numpy as np
import pytest
from _denoising import Row

ML = "movielens_100k"


@pytest.fixture
def choices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Chosen weights of L2 are read from a folder that has none yet."""
    for module in (denoising, denoising_l2, _denoising_l2):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(denoising, "present", lambda rows: rows)
    _denoising_l2.choice.cache_clear()
    yield
    _denoising_l2.choice.cache_clear()


@pytest.mark.usefixtures("choices")
def test_each_method_is_trained_with_the_l2_that_validates_best_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    best = {"plain": 0.01, "pld": 0.001}
    seen = []

    def train(row: Row, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
        seen.append((row.method, settings["l2"], seed))
        value = 0.5 - abs(settings["l2"] - best[row.method])
        metrics = dict.fromkeys(_denoising_page.COLUMNS, value + seed % 10)
        return {"metrics": metrics, "curves": {"validation Recall@20": [0.1, value, 0.2]}, "best_epoch": 2}

    monkeypatch.setattr(_denoising_runs, "train", train)
    words = ["--noise", "0.3", "--method", "plain", "pld", "--l2", "0.01", "0.001", "0.1", "--seeds", "2024"]
    assert not denoising.selected(ML, "*", "*", "*", "chosen")
    assert denoising_l2.main(words) == 0 and denoising_l2.main(words) == 0
    swept = [(method, l2, 2024) for method in best for l2 in (0.01, 0.1, 0.001)]
    assert seen == swept  # the second time all was done
    assert "pld: the best weight, 0.001, is at the edge of the grid" in capsys.readouterr().out
    assert denoising_l2.main([*words[:3], "plain", *words[5:]]) == 0  # keeps what was chosen for others
    paths = {method: tmp_path / _denoising_l2.path_of(ML, "0.3", "mf", method) for method in best}
    contents = {method: json.loads(path.read_text(encoding="utf-8")) for method, path in paths.items()}
    assert {method: content["chosen"] for method, content in contents.items()} == best
    assert contents["plain"]["validation"]["0.01"] == 0.5 and "l2" not in contents["plain"]["settings"]

    _denoising_l2.choice.cache_clear()
    rows = denoising.selected(ML, "*", "*", "*", "chosen")  # of the noise that they were chosen with, and no other
    assert [(row.noise, row.backbone, row.method) for row in rows] == [("0.3", "mf", "plain"), ("0.3", "mf", "pld")]
    assert {row.method: _denoising.settings_of(row)["l2"] for row in rows} == best
    assert _denoising.settings_of(Row(ML, "0.3", "mf", "pld"))["l2"] == _denoising_l2.PUBLISHED_L2
    words = ["--dataset", ML, "--noise", "0.3", "--method", "pld", "--l2", "*", "--backbone", "mf", "--seeds"]
    assert denoising.main([*words, "2024", "2025"]) == 0
    published = _denoising_l2.PUBLISHED_L2
    new = [("pld", published, 2024), ("pld", published, 2025), ("pld", 0.001, 2025)]
    assert sorted(seen[len(swept) :]) == sorted(new)  # the first seed of the chosen weight was trained for the choice
    results = tmp_path / denoising.RESULTS / ML
    assert {path.parent.name for path in results.glob("noise*/*.json")} == {"noise_0.3", "noise_0.3_l2"}
    page = (tmp_path / denoising.RESULTS / "DENOISING.md").read_text(encoding="utf-8")
    assert "mf, published L2" in page and "mf, chosen L2" in page
    assert "| pld | 0.0001 |" in page and "| pld | 0.001 (1) |" in page


@pytest.mark.usefixtures("choices")
def test_what_is_best_in_the_mean_over_seeds_is_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = {(0.01, 2024): 0.5, (0.001, 2024): 0.4, (0.01, 2025): 0.2, (0.001, 2025): 0.4}

    def train(row: Row, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
        return {"curves": {"validation Recall@20": [0.1, values[settings["l2"], seed]]}, "best_epoch": 1}

    monkeypatch.setattr(_denoising_runs, "train", train)
    assert denoising_l2.main(["--method", "pld", "--l2", "0.01", "0.001", "--seeds", "2024", "2025"]) == 0
    path = tmp_path / _denoising_l2.path_of(ML, "0.3", "mf", "pld")
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["chosen"] == 0.001 and content["seeds"] == [2024, 2025]
    assert content["validation"] == pytest.approx({"0.001": 0.4, "0.01": 0.35})


@pytest.mark.parametrize("peak", [0.1, 0.2, 0.5, 1, 2, 5, 10])
@pytest.mark.parametrize("first", [0.1, 0.5, 1, 10])
def test_the_best_l2_is_found_from_any_first_weight_with_a_worse_one_on_both_sides(peak: float, first: float) -> None:
    grid = [0.1, 0.2, 0.5, 1, 2, 5, 10]
    tried = []

    def value_of(l2: float) -> float:
        tried.append(l2)
        return -abs(np.log(l2 / peak))

    values = denoising_l2.climb(value_of, [first, *grid])  # a weight named twice is one
    assert max(values, key=values.__getitem__) == peak
    around = grid[max(grid.index(peak) - 1, 0) : grid.index(peak) + 2]
    between = [l2 for l2 in grid if min(first, peak) <= l2 <= max(first, peak)]
    assert {*around, *between} <= set(tried) and len(tried) == len(set(tried)) <= len({*around, *between}) + 1
    assert list(values) == sorted(tried)


def test_l2_is_not_chosen_for_noise_that_a_data_set_has_not(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        denoising_l2.main(["--dataset", "gowalla", "--noise", "natural"])
    assert "gowalla has no natural noise; choose one of 0.0, 0.1" in capsys.readouterr().err


def test_the_published_rows_have_the_l2_that_was_chosen_for_them() -> None:
    results = denoising.ROOT / denoising.RESULTS
    rows = [row for row in _denoising_page.read(results) if row["protocol"].endswith("_l2")]
    assert len(rows) > 60
    for row in rows:
        noise = row["protocol"].removeprefix("noise_").removesuffix("_l2")
        choice = _denoising_l2.choice(row["dataset"], noise, *row["model"].split("_", 1))
        assert choice is not None
        settings = row["settings"]
        assert (settings["arguments"]["l2"], settings["l2_seeds"]) == (choice["chosen"], choice["seeds"]), row["model"]
