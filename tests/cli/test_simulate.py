"""`recsys simulate` and `recsys ope`: a report from runs, and a word on what they cannot use."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from recsys.candidates.files import JobError
from recsys.cli import ope, registry, simulate
from recsys.cli.arms import ArmError, read_arms
from recsys.cli.simulated_users import Users
from recsys.simulation.comparison.plan import PlanError
from recsys.simulation.comparison.population import PopulationError
from recsys.simulation.off_policy.log_columns import LogError
from recsys.simulation.off_policy.policies import PolicyError
from recsys.simulation.statistics.effect import ExperimentError
from recsys.simulation.world.fitted import popularity_of
from recsys.simulation.world.world import Novelty
from recsys.tracking.mlflow_store import open_client
from recsys.tracking.record import RunError
from recsys.tracking.run_folder import RunFolder
from recsys.unbiased.click_models import Cascade, PositionBased, TrustBias, UserBrowsing
from tests.cli.conftest import make_run
from tests.tracking.stores import empty_store

SMALL = ("--users_per_day", "120", "--days", "3", "--before", "3", "--length", "3", "--assignments", "50")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return make_run(tmp_path_factory.mktemp("run"))


def numbers(folder: Path) -> dict:
    return json.loads((folder / "report.json").read_text(encoding="utf-8"))


def test_a_run_against_the_most_that_can_be_gained(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    store = empty_store(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", store)
    words = [str(run.path), "oracle", *SMALL, "--users.clicks_per_visit", "0.5", "--folder", str(tmp_path / "a")]
    assert simulate.main([*words, "--track"]) == 0
    said = capsys.readouterr().out
    found = numbers(tmp_path / "a")
    page = (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    result = found["challengers"]["oracle"]
    assert found["control"] == "SynerGen" and result["true_lift"] > 0
    assert f"report: {tmp_path / 'a' / 'report.html'}" in said and "oracle" in said
    assert "oracle against SynerGen" in page and "of the log toy" in page
    assert found["population"]["users"] == pytest.approx(120 / (1 - 1 / 1.3), rel=0.1)
    client = open_client(store)
    (tracked,) = client.search_runs([client.get_experiment_by_name("simulations of toy").experiment_id])
    assert tracked.data.metrics["oracle/clicks_lift"] == pytest.approx(result["metrics"]["clicks"]["lift"]["value"])
    assert {file.path for file in client.list_artifacts(tracked.info.run_id)} == {"report.html", "report.json"}

    capsys.readouterr()
    assert simulate.main([*words[:-1], str(tmp_path / "b"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {**found, "settings": numbers(tmp_path / "b")["settings"]}


def test_arms_are_named_and_the_log_may_be(run: RunFolder, tmp_path: Path) -> None:
    words = [f"old={run.path}", f"new={run.path}", "popularity", *SMALL, "--days", "5", "--folder", str(tmp_path)]
    assert simulate.main([*words, "--log", run.record.data["folder"]]) == 0
    found = numbers(tmp_path)
    assert found["control"] == "old" and list(found["challengers"]) == ["new", "popularity"]
    same = found["challengers"]["new"]
    assert same["true_lift"] == pytest.approx(0.0, abs=0.1) and found["level"] == 0.025


def test_models_of_the_registry_are_arms(run: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_TRACKING_URI", empty_store(tmp_path))
    assert registry.main(["register", str(run.path), "--name", "toy"]) == 0
    log = ["--log", run.record.data["folder"]]
    found = {}
    for name, arm in {"registered": "models:/toy@challenger", "folder": str(run.path)}.items():
        words = ["popularity", f"new={arm}", *SMALL, *log, "--days", "5", "--folder", str(tmp_path / name)]
        assert simulate.main(words) == 0
        found[name] = numbers(tmp_path / name)
    assert found["registered"]["challengers"] == found["folder"]["challengers"]
    told = {"source": "models:/toy@challenger", "is": "SynerGen toy/1, of models:/toy@challenger"}
    assert found["registered"]["arms"]["new"] == told
    with pytest.raises(JobError, match="`toy` has no alias `champion`, but `challenger`"):
        simulate.main(["popularity", "models:/toy@champion", *SMALL, *log])


def test_users_are_made_as_they_are_asked_for(run: RunFolder) -> None:
    log, arms = run.log(), read_arms(["popularity", "oracle"])
    models = {"position": PositionBased, "browsing": UserBrowsing, "cascade": Cascade, "trust": TrustBias}
    for name, model in models.items():
        assert type(Users(0.8, click_model=name).make(log, arms, None, 3, 0).population.world.clicks) is model
    plain = Users(0.8).make(log, arms, None, 3, 0).population.world
    asked = Users(0.8, noise=0.2, drift=0.1, novelty=0.3, planted=1.0).make(log, arms, None, 3, 0).population.world
    assert (plain.noise, plain.preferences.drift, plain.novelty) == (0.0, 0.0, None)
    assert (asked.noise, asked.preferences.drift, asked.novelty) == (0.2, 0.1, Novelty(0.3, 7.0))
    popularity = popularity_of(log)
    assert torch.equal(asked.preferences.popularity, popularity)
    by_popularity = popularity[1:].argsort(descending=True, stable=True) + 1
    bias = asked.preferences.item_bias[by_popularity]
    assert torch.equal(bias, bias.sort(descending=True).values)  # planted at 1: the order of the log
    drift = Users(0.8, drift=0.1).make(log, arms, None, 3, 0).population.world.preferences
    assert drift.drift == 0.1 and torch.equal(drift.items, plain.preferences.items)


PLANTED = "Tastes are planted at random"


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({}, ["the other items: a list of ten alike", "and their tastes stay for 5 days"]),
        ({"click_model": "cascade"}, ["leave it with their first click"]),
        ({"click_model": "browsing"}, ["how far above the last click was"]),
        ({"click_model": "trust"}, ["Users trust the order of a list"]),
        ({"noise": 0.2}, ["20 % of what is examined and irrelevant is clicked"]),
        ({"drift": 0.1}, ["their tastes turn by 0.1 radians a day"]),
        ({"novelty": 0.3}, ["30 % more clicks on the first day"]),
        ({"planted": 0.0}, [PLANTED, "popularity and what everybody likes correlate by 0"]),
    ],
)
def test_what_users_are_taken_to_be_is_simulated_and_said(
    run: RunFolder, tmp_path: Path, settings: dict[str, object], said: list[str]
) -> None:
    words = [word for name, value in settings.items() for word in (f"--users.{name}", str(value))]
    words += ["--users.clicks_per_visit", "0.8", *SMALL, "--days", "5", "--folder", str(tmp_path)]
    assert simulate.main([f"old={run.path}", f"same={run.path}", "oracle", *words]) == 0
    page = " ".join((tmp_path / "report.html").read_text(encoding="utf-8").split())
    for sentence in said:
        assert sentence in page
    assert (PLANTED in page) == ("planted" in settings)
    found = numbers(tmp_path)["challengers"]
    assert found["oracle"]["true_lift"] > 0
    charm = 0.3 * np.mean(2 ** (-np.arange(5) / 7)) if "novelty" in settings else 0.0
    assert found["same"]["true_lift"] == pytest.approx(charm, abs=0.1)


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["{run}"], ArmError, "name two arms at least"),
        (["popularity", "popularity"], ArmError, "two arms are called `popularity`"),
        (["popularity", "oracle"], ArmError, "no arm is the folder of a run.*--log FOLDER"),
        (["popularity", "/no/such/folder"], JobError, "no run and no saved model here"),
        (["popularity", "oracle", "--log", "/no/such"], RunError, "no prepared log here"),
        (["popularity", "{run}", "--days", "0"], PlanError, "--days must be at least 1, not 0"),
        (["popularity", "{run}", "--before", "0"], PlanError, "--before must be at least 1, not 0"),
        (["popularity", "{run}", "--length", "0"], PlanError, "--length must be at least 1, not 0"),
        (["popularity", "{run}", "--users_per_day", "0"], PlanError, "--users_per_day must be at least 1"),
        (["popularity", "{run}", "--goal", "sales"], PlanError, "`sales` is no metric"),
        (["popularity", "{run}", "--guardrails", "{{sales: 0.1}}"], PlanError, "`sales` is no metric"),
        (["popularity", "{run}", "--level", "2"], ValueError, "level is the chance of an error"),
        (["popularity", "{run}", "--users.exposure", "2"], PopulationError, "exposure lies between 0 and 1"),
        (["popularity", "{run}", "--users.noise", "2"], PopulationError, "noise lies between 0 and 1"),
        (["popularity", "{run}", "--users.planted", "2"], PopulationError, "planted is a correlation"),
        (["popularity", "{run}", "--users.drift", "-1"], PopulationError, "drift must not be negative"),
        (["popularity", "{run}", "--users.visits", "0"], PopulationError, "visits must be positive"),
        (["popularity", "{run}", "--users.new_share", "1"], PopulationError, "share of new ones"),
        (
            ["popularity", "{run}", "--users.click_model", "cascade"],
            PopulationError,
            "and 1 clicks a visit, not 1, whi",
        ),
        (["popularity", "{run}", "--users.clicks_per_visit", "50"], PopulationError, "clicks a visit, not 50"),
        (["popularity", "{run}"], ExperimentError, "more users a day, or more days"),
    ],
)
def test_what_cannot_be_simulated(run: RunFolder, words: list[str], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        simulate.main([word.format(run=run.path) for word in words])


def bandit_log(run: RunFolder, path: Path, **columns: object) -> Path:
    """Any of five candidates alike, of users of the log."""
    random = np.random.default_rng(0)
    log = run.log()
    items = [random.choice(log.items.values.to_numpy(), 5, replace=False) for _ in range(1200)]
    frame = pd.DataFrame({"candidates": [each.tolist() for each in items], "propensity": 0.2})
    frame["action"] = [int(each[0]) for each in items]
    frame["reward"] = (random.random(1200) < 0.2 + 0.3 * (frame["action"] % 2)) * 1.0
    frame["history"] = [random.choice(log.items.values.to_numpy(), 3).tolist() for _ in range(1200)]
    frame.assign(**columns).to_parquet(path)
    return path


def odd_or_even(path: Path, odd: float) -> Path:
    items = np.arange(100, 125)
    chance = np.where(items % 2, odd, 1 - odd)
    pd.DataFrame({"action": items, "probability": chance / chance.sum()}).to_parquet(path)
    return path


def test_models_and_tables_are_judged_by_a_log(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = bandit_log(run, tmp_path / "log.parquet")
    assert ope.main([str(log), "--policy", f"model={run.path}", "--k", "2", "--folder", str(tmp_path / "a")]) == 0
    found = numbers(tmp_path / "a")["policies"]["model"]
    assert not found["refusals"] and found["diagnostics"]["mean_weight"] == pytest.approx(1, abs=0.1)
    assert "model" in capsys.readouterr().out

    random = np.random.default_rng(1)
    everything = bandit_log(run, tmp_path / "all.parquet", action=random.integers(100, 125, 1200), propensity=0.04)
    frame = pd.read_parquet(everything).drop(columns="candidates")
    frame["reward"] = (random.random(1200) < 0.2 + 0.3 * (frame["action"] % 2)) * 1.0
    frame.to_parquet(everything)
    tables = [
        f"odd={odd_or_even(tmp_path / 'odd.parquet', 0.9)}",
        f"even={odd_or_even(tmp_path / 'even.parquet', 0.1)}",
    ]
    assert ope.main([str(everything), "--policy", *tables, "--folder", str(tmp_path / "b"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["policies"]
    assert found["odd"]["estimates"]["DR"]["gain_low"] > 0 > found["even"]["estimates"]["DR"]["gain_high"]


def test_a_policy_that_cannot_be_judged_is_refused(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = bandit_log(
        run,
        tmp_path / "log.parquet",
        action=100,
        candidates=[[100, 101]] * 1200,
        history=[[110]] * 1200,
        propensity=1.0,
    )
    assert ope.main([str(log), "--policy", f"model={run.path}", "--folder", str(tmp_path / "a")]) == ope.REFUSED
    said = capsys.readouterr().out
    assert "The log cannot judge model." in said and "never logged" in said
    assert "The log cannot judge model." in (tmp_path / "a" / "report.html").read_text(encoding="utf-8")
    assert numbers(tmp_path / "a")["policies"]["model"]["estimates"] == {}


def test_an_action_that_was_never_logged_is_for_the_diagnostics(
    run: RunFolder, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = bandit_log(run, tmp_path / "log.parquet")
    frame = pd.read_parquet(log).drop(columns="candidates")
    frame["propensity"] = 1 / 25
    frame.to_parquet(log)
    new = pd.DataFrame({"action": [*range(100, 125), 999], "probability": [0.5 / 25] * 25 + [0.5]})
    new.to_parquet(tmp_path / "new.parquet")
    words = [str(log), "--policy", f"new={tmp_path / 'new.parquet'}", "--folder", str(tmp_path / "a")]
    assert ope.main(words) == ope.REFUSED
    assert numbers(tmp_path / "a")["policies"]["new"]["diagnostics"]["unsupported"] == pytest.approx(0.5)
    assert "50.00% of the policy's recommendations are actions that were never logged" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "error", "message"),
    [
        (["{log}"], ArmError, "name a policy at least"),
        (["{log}", "--policy", "{run}"], ArmError, "give the policy a name"),
        (["{log}", "--policy", "a={run}", "a={run}"], ArmError, "two policies are called `a`"),
        (["{log}", "--policy", "a={run}", "--k", "0"], ArmError, "--k must be at least 1"),
        (["{log}", "--policy", "a={run}", "--level", "0"], ArmError, "--level is the chance"),
        (["{log}", "--policy", "a=/no/table.parquet"], ArmError, "no Parquet table of probabilities"),
        (["{log}", "--policy", "a=/no/run"], JobError, "no run and no saved model here"),
        (["{log}", "--policy", "a={run}", "--softmax", "0"], PolicyError, "positive temperature"),
        (["{log}", "--policy", "a={run}", "--context", "[age]"], LogError, "no column `age`"),
        (["/no/log.parquet", "--policy", "a={run}"], LogError, "no Parquet file of logged rounds"),
    ],
)
def test_what_cannot_be_estimated(
    run: RunFolder, tmp_path: Path, words: list[str], error: type[Exception], message: str
) -> None:
    log = bandit_log(run, tmp_path / "log.parquet")
    with pytest.raises(error, match=message):
        ope.main([word.format(run=run.path, log=log) for word in words])
