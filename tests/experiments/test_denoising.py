"""The study of noise at toy size."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import _denoising
import _denoising_data
import _denoising_page
import _denoising_picture
import _denoising_runs
import denoising
import noise_separability
import numpy as np
import pandas as pd
import pytest
from _denoising import BACKBONES, MAIN, METHODS, Row, described
from _denoising_data import DISLIKED, NATURAL, NOISES, POSITIVE

from recsys.denoising.user_pools import UserPools
from recsys.features.datasets import DatasetError
from recsys.features.noise import INJECTED
from recsys.features.schema import Schema

pytestmark = pytest.mark.filterwarnings("ignore")
SETTINGS: dict[str, Any] = {
    "epochs": 2, "every": 1, "patience": 9, "batch_size": 256, "lr": 0.01, "width": 8, "l2": 1e-4
}  # fmt: skip


@pytest.fixture(scope="module", autouse=True)
def toys() -> Any:
    """Ratings of films that a user likes by parity, and some of others, in place of the data set."""
    random = np.random.default_rng(0)
    user = np.repeat(np.arange(40), 25)
    item = 2 * random.integers(0, 30, len(user)) + user % 2
    events = pd.DataFrame({"user_id": user, "item_id": item, "rating": random.integers(3, 6, len(user))})
    low = pd.DataFrame({"user_id": np.arange(40), "item_id": random.integers(0, 60, 40), "rating": 1})
    events = pd.concat([events, low]).drop_duplicates(["user_id", "item_id"]).assign(timestamp=1)
    schema = Schema.parse({"name": "toy", "events": {"weight": "rating"}})
    source = SimpleNamespace(schema=schema, events=events, items=None, users=None)
    places = SimpleNamespace(schema=Schema(name="places"), events=events.drop(columns="rating"), items=None, users=None)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_denoising_data, "load_dataset", {"movielens_100k": source, "gowalla": places}.__getitem__)
        _denoising_data.positives.cache_clear()
        yield
    _denoising_data.positives.cache_clear()


ML = "movielens_100k"


def row(backbone: str, method: str, noise: str = "0.3", dataset: str = ML) -> Row:
    return Row(dataset, noise, backbone, method)


ROWS = [
    *(row("mf", method) for method in METHODS),
    row("lightgcn", "pld"),
    row("mf", "pld", NATURAL),
    row("mf", "oracle", NATURAL),
    row("lightgcn", "plain", dataset="gowalla"),
]


@pytest.mark.parametrize("of", ROWS, ids=str)
def test_every_method_trains_and_is_judged(of: Row) -> None:
    found = _denoising.train(of, 2024, SETTINGS)
    metrics = found["metrics"]
    assert all(0 <= metrics[name] <= 1 for name in _denoising_page.COLUMNS if name in metrics)
    assert metrics["recall_ceiling"] == 1 and metrics["NDCG-all@20"] <= metrics["NDCG@20"] + 1e-6
    assert len(found["curves"]["loss"]) == 2 and found["best_epoch"] in (1, 2)
    shares = found["curves"]["injected_pool_share"]
    assert max(shares) == 0 if METHODS[of.method].clean else min(shares) > 0.03


def test_only_high_ratings_of_users_with_enough_of_them_are_kept() -> None:
    log = _denoising_data.positives(ML, 1)
    counts = np.diff(log.offsets)[1:]
    assert counts.min() >= _denoising_data.LEAST and log.n_users < 41 and log.columns["weight"].min() == POSITIVE
    again, other = _denoising_data.positives(ML, 1), _denoising_data.positives(ML, 2)
    assert again is log and sorted(other.to_frame()["item_id"]) == sorted(log.to_frame()["item_id"])
    assert other.item_id.tolist() != log.item_id.tolist()
    assert _denoising_data.positives("gowalla", 1).n_events > log.n_events


def test_all_methods_of_a_seed_have_the_same_parts_and_noise() -> None:
    one, other, third, clean = (
        _denoising_data.Positives(ML, noise, seed, 64, UserPools(size)).split
        for noise, seed, size in (("0.3", 1, 1), ("0.3", 1, 5), ("0.3", 2, 5), ("0.0", 1, 1))
    )
    assert one.hash == other.hash != third.hash
    assert np.array_equal(one.log.item_id[one.test.targets()], clean.log.item_id[clean.test.targets()])
    assert one.facts["injected_events"] > 0 == clean.facts["injected_events"]


def test_natural_noise_trains_and_does_not_validate_nor_test() -> None:
    """The parts of the positives are those without noise; low ratings train, and the lowest are noise."""
    noisy, clean = (_denoising_data.Positives(ML, NATURAL, 1, 64, UserPools(), clean).split for clean in (False, True))
    plain = _denoising_data.Positives(ML, "0.0", 1, 64, UserPools()).split
    frame, rating = noisy.log.to_frame(), np.asarray(noisy.log.columns["weight"])

    def of(split, start, end, keep=lambda rating: rating > 0):  # type: ignore[no-untyped-def]
        """Raw pairs of some events."""
        places = np.concatenate([np.arange(a, b) for a, b in zip(start, end, strict=True)])
        made = split.log.to_frame().iloc[places[keep(np.asarray(split.log.columns["weight"])[places])]]
        return set(zip(made["user_id"], made["item_id"], strict=True))

    for part in ("validation", "test"):
        noisy_part, plain_part = getattr(noisy, part), getattr(plain, part)
        found = of(noisy, noisy_part.target_start, noisy_part.target_end)
        assert found == of(plain, plain_part.target_start, plain_part.target_end) and len(found) > 40
    trained = of(noisy, noisy.train_start, noisy.train_end)
    assert of(noisy, noisy.train_start, noisy.train_end, lambda r: r >= POSITIVE) == of(
        plain, plain.train_start, plain.train_end
    )
    lows = frame[rating < POSITIVE]
    assert trained >= set(zip(lows["user_id"], lows["item_id"], strict=True))
    noise = frame[rating <= DISLIKED]
    assert noisy.facts["noisy_events"] == len(noise) == noisy.log.columns[INJECTED].sum() > 0
    of_clean = of(clean, clean.train_start, clean.train_end)
    assert of_clean == trained - set(zip(noise["user_id"], noise["item_id"], strict=True)) and clean.log is noisy.log


def test_rows_are_selected_by_globs_the_main_table_first() -> None:
    rows, tables = denoising.selected("*", "*", "*", "*", "published"), len(BACKBONES) * sum(map(len, NOISES.values()))
    assert len(rows) == len(METHODS) * tables == len(set(rows))
    assert {row.method for row in rows[: len(MAIN) * tables]} == set(MAIN)
    methods = {row.method for row in denoising.selected(ML, "0.1", "mf", "bce*", "*")}
    assert methods == {"bce", "bce_r_ce", "bce_t_ce", "bce_pld"}
    assert not denoising.selected("gowalla", NATURAL, "*", "*", "*")


def test_a_data_set_that_is_not_there_is_left_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def load(name: str) -> None:
        if name == "gowalla":
            raise DatasetError("gowalla: no folder")

    monkeypatch.setattr("recsys.features.datasets.load_dataset", load)
    rows = [row("mf", "pld"), row("mf", "pld", dataset="gowalla")]
    assert denoising.present(rows) == rows[:1]
    assert "left out: gowalla: no folder" in capsys.readouterr().out


def test_a_study_writes_rows_and_a_table_and_skips_what_is_done(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(denoising, "ROOT", tmp_path)
    monkeypatch.setattr(_denoising, "SETTINGS", {ML: SETTINGS})
    monkeypatch.setattr(denoising, "present", lambda rows: rows)
    words = ["--dataset", ML, "--noise", "0.3", "--backbone", "mf", "--method", "pld"]
    words += ["--l2", "published", "--seeds", "2024", "2025"]
    assert denoising.main(words) == 0
    path = tmp_path / denoising.RESULTS / "movielens_100k" / "noise_0.3" / "mf_pld.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["seeds"] == [2024, 2025] and len(content["metrics"]["Recall@20"]["values"]) == 2
    assert content["metrics"]["Recall@20"]["mean"] == pytest.approx(np.mean(content["metrics"]["Recall@20"]["values"]))
    assert content["command"] == f"python experiments/denoising.py {' '.join(words)}"
    assert "| pld |" in (tmp_path / denoising.RESULTS / "DENOISING.md").read_text(encoding="utf-8")
    monkeypatch.setattr(_denoising_runs, "train", lambda *_: pytest.fail("it was done"))
    assert denoising.main(words) == 0
    capsys.readouterr()
    assert denoising.main([*words, "--list"]) == 0
    assert capsys.readouterr().out.split() == [
        *("done", f"{ML}/noise_0.3/mf_pld/2024"),
        *("done", f"{ML}/noise_0.3/mf_pld/2025"),
    ]
    monkeypatch.setattr(_denoising, "SETTINGS", {ML: SETTINGS | {"lr": 0.02}})
    assert denoising.main([*words, "--list"]) == 0
    assert capsys.readouterr().out.split()[0] == "new"  # other settings


def test_l2_is_a_part_of_the_loss() -> None:
    losses = [
        _denoising.train(row("mf", "plain"), 2024, SETTINGS | {"epochs": 1, "l2": l2})["curves"]["loss"][0]
        for l2 in (0.0, 1.0)
    ]
    assert losses[1] > losses[0] + 0.1


@pytest.mark.parametrize(
    ("noise", "l2", "name"), [("0.3", "published", "0.3_mf"), (NATURAL, "chosen", "natural_mf_l2")]
)
def test_separability_is_measured_while_training_goes_on(
    noise: str, l2: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(noise_separability, "ROOT", tmp_path)
    words = ["--seeds", "1", "--epochs", "1", "6", "--noise", noise, "--l2", l2]
    assert noise_separability.main(words) == 0
    path = tmp_path / noise_separability.RESULTS / ML / f"separability_{name}.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["settings"] == _denoising.settings_of(Row(ML, noise, "mf", "plain", l2)) | {"epochs": [1, 6]}
    assert content["command"] == f"python experiments/noise_separability.py {' '.join(words)}"
    areas = content["areas"]
    assert areas.keys() == {"bpr", "bce"} and areas["bpr"].keys() == {"1", "6"}
    assert all(0 < areas[name][epoch]["personal"]["mean"] < 1 for name in areas for epoch in areas[name])


def test_separability_with_a_weight_that_nobody_chose_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        noise_separability.main(["--dataset", "gowalla", "--noise", "0.1", "--l2", "chosen"])
    assert "no weight was chosen for gowalla/0.1/mf/plain: run `denoising_l2.py" in capsys.readouterr().err


def test_a_run_of_other_settings_of_its_method_is_not_done(tmp_path: Path) -> None:
    path = tmp_path / "1.json"
    path.write_text(json.dumps({"settings": SETTINGS | {"method": described("pld")}}), encoding="utf-8")
    assert _denoising_runs.is_done(path, SETTINGS | {"method": described("pld")})
    for other in ("pld_floor", "pld_n4", "pld_std", "bce", "uniform_k"):
        assert not _denoising_runs.is_done(path, SETTINGS | {"method": described(other)})
    assert len({json.dumps(described(name), allow_nan=False) for name in METHODS}) == len(METHODS)


def test_the_published_tables_are_made_of_the_published_rows() -> None:
    results = denoising.ROOT / denoising.RESULTS
    assert (results / "DENOISING.md").read_text(encoding="utf-8") == _denoising_page.page(_denoising_page.read(results))


def test_differences_from_the_control_are_paired_by_seed() -> None:
    def row(model: str, values: list[float], seeds: list[int]) -> dict[str, Any]:
        return {"model": model, "seeds": seeds, "metrics": {"Recall@20": {"mean": np.mean(values), "values": values}}}

    control, other = row("mf_uniform_k", [0.1, 0.3, 0.2], [1, 2, 3]), row("mf_pld", [0.12, 0.31, 0.24], [1, 2, 3])
    gain = np.array([0.02, 0.01, 0.04])
    half = 4.302653 * gain.std(ddof=1) / 3**0.5  # the quantile of two degrees of freedom
    expected = f"{gain.mean():+.4f} [{gain.mean() - half:+.4f}, {gain.mean() + half:+.4f}]"
    assert _denoising_page.less(other, control) == expected
    assert _denoising_page.less(control, control) == _denoising_page.less(other, None) == ""
    assert _denoising_page.less(other, control | {"seeds": [1, 2, 4]}) == ""


def test_what_noise_takes_away_is_said_of_the_same_seeds() -> None:
    def published(noise: str, method: str, mean: float, seeds: list[int]) -> dict[str, Any]:
        of_row = Row(ML, noise, "mf", method, "chosen")
        metrics = {"Recall@20": {"mean": mean}}
        return {"dataset": ML, "protocol": of_row.protocol, "model": of_row.model, "seeds": seeds, "metrics": metrics}

    rows = [published("0.0", "plain", 0.4, [1, 2]), published("0.2", "plain", 0.3, [1, 2])]
    rows.append(published("0.4", "plain", 0.2, [1]))  # other seeds
    rows.append(published("0.3", "pld", 0.2, [1, 2]))  # no row without noise
    title, table = _denoising_page.drops(ML, rows)
    assert title == "### mf, chosen L2"
    assert "".join(table.splitlines()[2:]).replace(" ", "") == "|plain||25.0%||||"
    assert _denoising_page.drops(ML, rows[2:]) == []


def test_the_picture_shows_methods_whose_control_is_there(tmp_path: Path) -> None:
    def published(noise: str, method: str, values: list[float]) -> dict[str, Any]:
        of_row = Row(ML, noise, "mf", method, "chosen")
        metrics = {"Recall@20": {"mean": np.mean(values), "values": values}}
        return {"dataset": ML, "protocol": of_row.protocol, "model": of_row.model, "seeds": [1, 2], "metrics": metrics}

    rows = [published("0.1", "pld", [0.3, 0.4]), published("0.5", "pld", [0.2, 0.2])]
    picture = tmp_path / "images" / "noise.png"
    assert not _denoising_picture.draw(rows, ML, picture) and not picture.exists()
    rows.append(published("0.1", "uniform_k", [0.25, 0.36]))
    assert _denoising_picture.differences(rows, ML, "mf")["pld"] == [
        (0.1, _denoising_page.difference(rows[0], rows[-1]))
    ]
    assert not any(_denoising_picture.differences(rows, ML, "lightgcn").values())
    assert _denoising_picture.draw(rows, ML, picture) and list(picture.parent.iterdir()) == [picture]
