from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from recsys.candidates.data_contract import (
    REPORT,
    ContractError,
    DataContract,
    Finding,
    Limits,
    level_of,
    write_report,
)
from recsys.candidates.drift import jensen_shannon, population_stability
from recsys.candidates.files import JobError
from recsys.candidates.job import MANIFEST
from recsys.candidates.run import run_job
from recsys.candidates.summary import Summary
from tests.candidates.complete import GOOD, Row, User, complete
from tests.candidates.conftest import Saved, lists_of


def test_every_number_by_hand(tmp_path: Path) -> None:
    found = Summary.of(complete(tmp_path / "night", GOOD))
    assert (found.name, found.k, found.model_versions, found.catalogue) == ("night", 2, ("1",), 10)
    assert (found.users, found.rows, found.expected_users, found.expected_rows) == (3, 5, 3, 5)
    assert (found.short_users, found.unexplained, dict(found.reasons)) == (1, 0, {"caps": 1})
    assert found.items.to_dict() == {"x": 3, "y": 1, "z": 1}
    assert {source: int(counts.sum()) for source, counts in found.scores.items()} == {"model": 4, "popularity": 1}
    assert [found.quantile("model", share) for share in (0, 0.5, 1)] == pytest.approx([-1, 2, 3], rel=2**-8)
    nothing_wrong = ("doubled_users", "mismatched_users", "duplicates", "broken_ranks", "not_finite")
    assert all(getattr(found, name) == 0 for name in nothing_wrong) and not any(found.nulls.values())
    assert not list(tmp_path.glob(".counting-*"))


def broken(change: Callable[[list[User], list[Row]], None]) -> list[tuple[list[User], list[Row]]]:
    """The good lists, with the second part changed."""
    users, rows = list(GOOD[1][0]), list(GOOD[1][1])
    change(users, rows)
    return [GOOD[0], (users, rows)]


def to(place: int, **values: object) -> Callable[[list[User], list[Row]], None]:
    def change(users: list[User], rows: list[Row]) -> None:
        names = ("user", "item", "rank", "score", "source")
        rows[place] = tuple(values.get(name, old) for name, old in zip(names, rows[place], strict=True))

    return change


def also(user: User, *more: Row) -> Callable[[list[User], list[Row]], None]:
    def change(users: list[User], rows: list[Row]) -> None:
        users.append(user)
        rows += more

    return change


@pytest.mark.parametrize(
    ("change", "breaks"),
    [
        (lambda users, rows: rows.pop(), {"mismatched_users": 1}),
        (lambda users, rows: rows.pop(0), {"mismatched_users": 1, "broken_ranks": 1}),
        (lambda users, rows: users.pop(), {"mismatched_users": 1}),
        (also(("a", 0, "cold")), {"doubled_users": 1, "missing": 1}),
        (also(("d", 0, None)), {"unexplained": 1}),
        (also(("d", 1, "caps"), ("d", "x", 2, 1.0, "model")), {"broken_ranks": 1}),
        (to(1, item="z"), {"duplicates": 1}),
        (to(1, rank=3), {"broken_ranks": 1}),
        (to(1, rank=1), {"broken_ranks": 1}),
        (to(1, rank=None), {"broken_ranks": 1, "nulls": 1}),
        (to(1, score=None), {"nulls": 1}),
        (to(1, score=math.nan), {"not_finite": 1}),
        (to(1, score=math.inf), {"not_finite": 1}),
        (to(1, item=None), {"nulls": 1, "duplicates": 1}),
        (to(1, user=None), {"nulls": 1, "mismatched_users": 2, "broken_ranks": 1}),
    ],
)
def test_what_is_wrong_with_files_is_refused(
    change: Callable[[list[User], list[Row]], None], breaks: dict[str, int], tmp_path: Path
) -> None:
    findings = DataContract(short_users=Limits()).check(Summary.of(complete(tmp_path / "night", broken(change))))
    refused = {finding.name: finding.value for finding in findings if finding.level == "refuse"}
    assert refused == breaks and level_of(findings) == "refuse"


@pytest.mark.parametrize("claims", [{"rows": 6}, {"users": 2}])
def test_what_the_manifest_says_must_be_there(claims: dict[str, int], tmp_path: Path) -> None:
    findings = DataContract(short_users=Limits()).check(Summary.of(complete(tmp_path / "night", GOOD, **claims)))
    assert {f.name: f.value for f in findings if f.level != "ok"} == {"missing": 1}


def test_a_folder_that_is_not_complete_or_not_readable(tmp_path: Path) -> None:
    folder = complete(tmp_path / "night", GOOD)
    (folder / "part-00001.parquet").write_bytes(b"rubbish")
    with pytest.raises(JobError, match=r"night: its lists cannot be counted.*part-00001"):
        Summary.of(folder)
    (folder / MANIFEST).unlink()
    with pytest.raises(JobError, match="not complete"):
        Summary.of(folder)


@pytest.fixture
def night(tmp_path: Path) -> Summary:
    return Summary.of(complete(tmp_path / "night", GOOD))


def found(name: str, contract: DataContract, new: Summary, previous: Summary | None = None) -> Finding:
    return next(finding for finding in contract.check(new, previous) if finding.name == name)


def test_shares_and_changes_by_hand(night: Summary) -> None:
    before = replace(night, users=4, items=pd.Series({"x": 1, "y": 1, "w": 2, "v": 4}), name="eve")
    for name, value in (
        ("short_users", 1 / 3),
        ("coverage", 3 / 10),
        ("users_change", 1 / 4),
        ("coverage_fall", 1 / 4),
        ("item_drift", jensen_shannon(before.items, night.items)),
        ("score_drift", 0.0),
    ):
        assert found(name, DataContract(), night, before).value == pytest.approx(value), name


def test_limits_are_levels_and_a_limit_itself_is_allowed(night: Summary) -> None:
    for limits, level, limit in (
        (Limits(), "ok", None),
        (Limits(warn=1 / 3), "ok", 1 / 3),
        (Limits(warn=0.3), "warn", 0.3),
        (Limits(warn=0.2, refuse=0.3), "refuse", 0.3),
        (Limits(warn=0.3, refuse=0.5), "warn", 0.3),
        (Limits(refuse=0.5), "ok", 0.5),
    ):
        finding = found("short_users", DataContract(short_users=limits), night)
        assert (finding.level, finding.limit) == (level, limit)
    for least, level in ((0.3, "ok"), (0.31, "refuse")):
        assert found("coverage", DataContract(coverage=Limits(refuse=least)), night).level == level


def test_without_users_or_something_to_compare_with(night: Summary) -> None:
    nobody = replace(night, users=0, rows=0, expected_users=0, expected_rows=0, short_users=0, items=night.items[:0])
    findings = {finding.name: finding for finding in DataContract().check(nobody, night)}
    assert {findings[name].level for name in ("users", "short_users", "users_change", "item_drift")} == {"refuse"}
    nothing = replace(night, items=night.items[:0])  # all names of items are empty
    assert found("item_drift", DataContract(), nothing, night).level == "refuse"
    for previous in (None, nobody, nothing):
        assert found("users_change", DataContract(), night, previous)[1:4] == ("ok", None, None)


def test_scores_drift_by_source_and_another_model_only_warns(night: Summary) -> None:
    moved = np.roll(night.scores["model"], 4000)
    new = replace(night, scores={"model": moved, "other": moved})
    finding = found("score_drift", DataContract(), new, night)
    assert finding.value == pytest.approx(population_stability(night.scores["model"], moved)) and finding.value > 0.25
    assert finding.level == "refuse" and "scores of model" in finding.sentence
    another = found("score_drift", DataContract(), replace(new, model_versions=("2",)), night)
    assert (another.level, another.limit) == ("warn", 0.1) and "another model" in another.sentence
    none = found("score_drift", DataContract(), replace(night, scores={"other": moved}), night)
    assert none.level == "ok" and none.value is None


def test_limits_in_a_file(tmp_path: Path) -> None:
    path = tmp_path / "limits.yaml"
    path.write_text("short_users: {warn: 0.5, refuse: null}\nitem_drift: {refuse: 0.9}\n")  # what is not named stays
    read = DataContract.read(path)
    assert read == DataContract(short_users=Limits(warn=0.5), item_drift=Limits(warn=0.1, refuse=0.9))
    path.write_text(read.text())
    assert DataContract.read(path) == read
    assert set(yaml.safe_load(read.text())) == {field.name for field in fields(DataContract)}
    path.write_text("")
    assert DataContract.read(path) == DataContract()


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("shrot_users: {warn: 1}", "shrot_users.*a rule is one of"),
        ("nulls: {warn: many}", "many"),
        ("nulls: {warn: .nan}", r"nulls: a limit is a number.*a rule is one of"),
        ("{", "no file"),
        ("- nulls: {warn: 1}", "rules by name are wanted, each with its limits"),
        ("nulls: 1", "rules by name are wanted, each with its limits"),
        ("nulls: null", "rules by name are wanted, each with its limits"),
    ],
)
def test_wrong_limits_are_refused(content: str, what: str, tmp_path: Path) -> None:
    path = tmp_path / "limits.yaml"
    path.write_text(content)
    with pytest.raises(ContractError, match=rf"limits\.yaml.*{what}"):
        DataContract.read(path)


def test_a_rule_that_is_not_finite_breaks_its_limit_and_is_written_as_null(night: Summary, tmp_path: Path) -> None:
    findings = DataContract(coverage=Limits(warn=0.1)).check(replace(night, catalogue=0))
    assert {f.name for f in findings if f.level == "warn"} == {"coverage"}
    write_report(tmp_path, findings, previous=None)
    report = json.loads((tmp_path / REPORT).read_text())
    assert report["level"] == "refuse" and len(report["findings"]) == len(fields(DataContract))
    assert next(f for f in report["findings"] if f["name"] == "coverage")["value"] is None


def test_a_job_holds_to_the_contract(saved: Callable[..., Saved], tmp_path: Path) -> None:
    made = saved()
    outcome = run_job(made.config(tmp_path, cold="skip"))
    summary = Summary.of(outcome.folder)
    assert (summary.users, summary.rows) == (outcome.manifest.users, outcome.manifest.rows) == (40, 200)
    assert summary.catalogue == made.bundle.model.n_items and summary.items.to_dict() == {
        item: int(n) for item, n in lists_of(outcome.folder)["item_id"].value_counts().items()
    }
    assert level_of(DataContract().check(summary, summary)) == "ok"
