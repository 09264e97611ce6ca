"""The study of noise at toy size."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import _denoising
import denoising
import noise_separability
import numpy as np
import pandas as pd
import pytest
from _denoising import BACKBONES, MAIN, METHODS, RATIOS, Row, described

from recsys.denoising.user_pools import UserPools
from recsys.features.schema import Schema

pytestmark = pytest.mark.filterwarnings("ignore")
SETTINGS: dict[str, Any] = {"epochs": 2, "every": 1, "patience": 9, "batch_size": 256, "lr": 0.01, "width": 8}


@pytest.fixture(scope="module", autouse=True)
def toys() -> Any:
    """Ratings of films that a user likes by parity, in place of the data set."""
    random = np.random.default_rng(0)
    user = np.repeat(np.arange(40), 25)
    item = 2 * random.integers(0, 30, len(user)) + user % 2
    events = pd.DataFrame({"user_id": user, "item_id": item, "rating": random.integers(3, 6, len(user))})
    events = events.drop_duplicates(["user_id", "item_id"]).assign(timestamp=1)
    source = SimpleNamespace(schema=Schema(name="toy"), events=events, items=None, users=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_denoising, "load_dataset", lambda name: source)
        _denoising.positives.cache_clear()
        yield
    _denoising.positives.cache_clear()


@pytest.mark.parametrize("row", [Row("mf", m, 0.3) for m in METHODS] + [Row("lightgcn", "pld", 0.3)], ids=str)
def test_every_method_trains_and_is_judged(row: Row) -> None:
    found = _denoising.train(row, 2024, SETTINGS)
    metrics = found["metrics"]
    assert all(0 <= metrics[name] <= 1 for name in denoising.COLUMNS if name in metrics)
    assert metrics["recall_ceiling"] == 1 and metrics["NDCG-all@20"] <= metrics["NDCG@20"] + 1e-6
    assert len(found["curves"]["loss"]) == 2 and found["best_epoch"] in (1, 2)
    shares = found["curves"]["injected_pool_share"]
    assert max(shares) == 0 if METHODS[row.method].clean else min(shares) > 0.1


def test_only_high_ratings_of_users_with_enough_of_them_are_kept() -> None:
    log = _denoising.positives(1)
    counts = np.diff(log.offsets)[1:]
    assert counts.min() >= _denoising.LEAST and log.n_users < 41
    again, other = _denoising.positives(1), _denoising.positives(2)
    assert again is log and sorted(other.to_frame()["item_id"]) == sorted(log.to_frame()["item_id"])
    assert other.item_id.tolist() != log.item_id.tolist()


def test_all_methods_of_a_seed_have_the_same_parts_and_noise() -> None:
    one, other, third, clean = (
        _denoising.Positives(ratio, seed, 64, UserPools(size)).split
        for ratio, seed, size in ((0.3, 1, 1), (0.3, 1, 5), (0.3, 2, 5), (0.0, 1, 1))
    )
    assert one.hash == other.hash != third.hash
    assert np.array_equal(one.log.item_id[one.test.targets()], clean.log.item_id[clean.test.targets()])
    assert one.facts["injected_events"] > 0 == clean.facts["injected_events"]


def test_rows_are_selected_by_globs_the_main_table_first() -> None:
    rows = denoising.selected("*", "*", RATIOS)
    assert len(rows) == len(BACKBONES) * len(METHODS) * len(RATIOS) == len(set(rows))
    assert {row.method for row in rows[: len(BACKBONES) * len(MAIN) * len(RATIOS)]} == set(MAIN)
    assert {row.method for row in denoising.selected("mf", "bce*", [0.1])} == {"bce", "bce_r_ce", "bce_t_ce", "bce_pld"}


def test_a_study_writes_rows_and_a_table_and_skips_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(denoising, "ROOT", tmp_path)
    monkeypatch.setattr(denoising, "SETTINGS", SETTINGS)
    words = ["--backbone", "mf", "--method", "pld", "--ratio", "0.3", "--seeds", "2024", "2025"]
    assert denoising.main(words) == 0
    path = tmp_path / denoising.RESULTS / "movielens_100k" / "noise_0.3" / "mf_pld.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["seeds"] == [2024, 2025] and len(content["metrics"]["Recall@20"]["values"]) == 2
    assert content["metrics"]["Recall@20"]["mean"] == pytest.approx(np.mean(content["metrics"]["Recall@20"]["values"]))
    assert "| pld |" in (tmp_path / denoising.RESULTS / "DENOISING.md").read_text(encoding="utf-8")
    monkeypatch.setattr(denoising, "train", lambda *_: pytest.fail("it was done"))
    assert denoising.main(words) == 0
    capsys.readouterr()
    assert denoising.main([*words, "--list"]) == 0
    assert capsys.readouterr().out.split() == ["done", "noise_0.3/mf_pld/2024", "done", "noise_0.3/mf_pld/2025"]
    monkeypatch.setattr(denoising, "SETTINGS", SETTINGS | {"lr": 0.02})
    assert denoising.main([*words, "--list"]) == 0
    assert capsys.readouterr().out.split()[0] == "new"  # other settings


def test_separability_is_measured_while_training_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(noise_separability, "ROOT", tmp_path)
    words = ["--seeds", "1", "--epochs", "1", "6", "--ratio", "0.3", "--out", "separability.json"]
    assert noise_separability.main(words) == 0
    content = json.loads((tmp_path / "separability.json").read_text(encoding="utf-8"))
    assert content["command"] == f"python experiments/noise_separability.py {' '.join(words)}"
    areas = content["areas"]
    assert areas.keys() == {"bpr", "bce"} and areas["bpr"].keys() == {"1", "6"}
    assert all(0 < areas[name][epoch]["personal"]["mean"] < 1 for name in areas for epoch in areas[name])


def test_a_run_of_other_settings_of_its_method_is_not_done(tmp_path: Path) -> None:
    path = tmp_path / "1.json"
    path.write_text(json.dumps({"settings": SETTINGS | {"method": described("pld")}}), encoding="utf-8")
    assert denoising.is_done(path, SETTINGS | {"method": described("pld")})
    for other in ("pld_floor", "pld_n4", "pld_std", "bce", "uniform_k"):
        assert not denoising.is_done(path, SETTINGS | {"method": described(other)})
    assert len({json.dumps(described(name), allow_nan=False) for name in METHODS}) == len(METHODS)
