"""The studies of feedback that is missing not at random, at toy size."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import coat
import numpy as np
import pandas as pd
import pytest
import semi_synthetic
import torch
from _coat_methods import BASELINES, METHODS, describe
from _report_random_test import random_test_part

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.fixture(scope="module")
def coats(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of data with 16 people who rate coats of their own parity high, and choose these more often."""
    folder, random = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    user, item = (values.ravel() for values in np.mgrid[:16, :24])
    own = user % 2 == item % 2
    rating = np.where(random.random(len(user)) < np.where(own, 0.9, 0.1), 5, 1)
    frame = pd.DataFrame({"user_id": user, "item_id": item, "rating": rating, "propensity": np.where(own, 0.6, 0.2)})
    chosen, shown = random.random(len(user)) < frame["propensity"], random.random(len(user)) < 0.4
    parts = [frame[chosen].assign(split="train_mnar"), frame[shown].assign(split="test_random")]
    (folder / "coat").mkdir()
    pd.concat(parts).to_parquet(folder / "coat" / "interactions.parquet")
    return folder


@pytest.fixture
def small(coats: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("RECSYS_DATA", str(coats))
    monkeypatch.chdir(tmp_path)
    for name, value in {"ROOT": tmp_path, "RUNS": tmp_path / "runs", "RESULTS": tmp_path / "results"}.items():
        monkeypatch.setattr(coat, name, value)
    for name, value in {"WIDTH": 4, "BATCH": 64, "EPOCHS": 2}.items():
        monkeypatch.setattr(coat, name, value)
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


def test_every_method_trains_is_judged_and_compared(
    small: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--seeds", "0"]
    assert coat.main(words) == 0
    found = {path.stem: json.loads(path.read_text()) for path in (small / "results/coat/random_test").glob("*.json")}
    assert found.keys() == {*BASELINES, *METHODS}
    splits = {content["settings"]["split"] for content in found.values()}
    assert len(splits) == 1
    for name, content in found.items():
        assert content["settings"]["note"] == describe(name) and content["seeds"] == [0]
        assert all(0 <= content["metrics"][metric]["mean"] <= 1 for metric in ("NDCG@1", "NDCG@5", "MAP@3"))
        assert ("comparison" in content) == (name != coat.AGAINST)
        assert content.get("comparisons", {}).keys() == {*(METHODS[name].against if name in METHODS else ())}
        assert ("validation" in content) == (name in METHODS)
    page = "\n".join(random_test_part([*found.values()]))
    difference = found["mf_balanced"]["comparisons"]["mf_du"]["NDCG@5"]["difference"]["mean"]
    (line,) = [line for line in page.splitlines() if line.startswith("| mf_balanced | mf_du |")]
    assert f"{difference:+.4f}" in line
    assert found["random"]["metrics"]["NDCG@5"] != found["popularity"]["metrics"]["NDCG@5"]
    monkeypatch.setattr(coat, "run", lambda *_: pytest.fail("it was done"))
    assert coat.main(words) == 0
    monkeypatch.setattr(coat, "run", lambda name, *_: pytest.fail(name))
    monkeypatch.setattr(coat, "PATIENCE", coat.PATIENCE + 1)  # other settings
    with pytest.raises(pytest.fail.Exception, match="mrdr_mf"):
        coat.main([*words, "--model", "mrdr*"])
    capsys.readouterr()


def test_settings_tell_the_methods_apart() -> None:
    assert len({coat.fingerprint(name, 1) for name in (*BASELINES, *METHODS)}) == len(BASELINES) + len(METHODS)


def test_a_run_is_a_function_of_its_seed(small: Path) -> None:
    first, again, other = (coat.run("rel_mf", seed, 1) for seed in (0, 0, 1))
    assert first["metrics"] == again["metrics"] != other["metrics"]
    with pytest.raises(ValueError, match="different splits"):
        coat.comparisons([first], [other | {"split": "another"}])


@pytest.fixture
def films(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> semi_synthetic.World:
    """A world made of ratings of 40 people, in place of the data set."""
    random = np.random.default_rng(0)
    user, item = np.nonzero(random.random((40, 50)) < np.linspace(0.7, 0.2, 50))
    rating = np.clip(3.5 + (user % 2 == item % 2) + random.normal(size=len(user)), 1, 5)
    events = pd.DataFrame({"user_id": user, "item_id": item, "rating": rating})
    monkeypatch.setattr(semi_synthetic, "load_dataset", lambda name: SimpleNamespace(events=events))
    settings: dict[str, Any] = {"USERS": 30, "ITEMS": 40, "RANK": 3, "SHOWN": 8, "ROOT": tmp_path}
    for name, value in settings.items():
        monkeypatch.setattr(semi_synthetic, name, value)
    return semi_synthetic.world()


def test_the_world_has_chances_and_draws_by_them(films: semi_synthetic.World) -> None:
    assert films.relevance.shape == films.exposure.shape == films.score.shape == (30, 40)
    assert 0 < films.relevance.min() < films.relevance.max() < 1
    assert semi_synthetic.LEAST_EXPOSURE <= films.exposure.min() < films.exposure.max() <= 1
    random = torch.Generator().manual_seed(0)
    seen = torch.stack([films.draw(random)[1] for _ in range(500)])
    chance = films.relevance * films.exposure
    error = (seen.mean(0) - chance) / (chance * (1 - chance) / 500).sqrt()
    assert error.square().mean().item() == pytest.approx(1, abs=0.2)
    assert torch.equal(films.power(2.0).exposure, films.exposure**2)
    assert torch.equal(semi_synthetic.misspecified(films.exposure, 0.0), films.exposure)


def test_true_propensities_are_unbiased_and_the_bias_of_the_naive_loss_grows(films: semi_synthetic.World) -> None:
    draws = 60
    lines = semi_synthetic.estimator_table(films, draws)
    bias = {(line["loss"], line["p"]): line["bias"] / (line["sd"] / draws**0.5) for line in lines}
    size = {(line["loss"], line["p"]): abs(line["bias"]) for line in lines}
    low, *_, high = semi_synthetic.POWERS
    # One of five powers may be off by two standard errors, none by three.
    true = sorted(abs(bias["rel_mf/true", p]) for p in semi_synthetic.POWERS)
    assert true[-2] < 2 and true[-1] < 3
    assert abs(bias["naive", low]) > 3 and size["naive", high] > size["naive", 2.0] > size["naive", low]
    for line in lines:
        assert line["rmse"] ** 2 == pytest.approx(line["bias"] ** 2 + line["sd"] ** 2 * (draws - 1) / draws)


def test_trainings_are_judged_at_random_and_done_once(
    films: semi_synthetic.World, monkeypatch: pytest.MonkeyPatch
) -> None:
    for method in semi_synthetic.OBJECTIVES:
        found = semi_synthetic.kept(films.power(2.0), 2.0, method, 0, 1)
        assert 0 < found["NDCG@5"] < 1
    monkeypatch.setattr(semi_synthetic, "trained", lambda *_: {"NDCG@5": -1.0})
    assert semi_synthetic.kept(films.power(2.0), 2.0, method, 0, 1) == found
    assert semi_synthetic.kept(films.power(2.0), 2.0, method, 0, 2) == {"NDCG@5": -1.0}  # other settings
