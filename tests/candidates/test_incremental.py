"""Lists that are kept from an earlier job, and those that are made anew because something has changed."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from recsys.candidates.config import JobConfig
from recsys.candidates.files import JobError
from recsys.candidates.run import Outcome, run_job
from recsys.candidates.sources import ItemItemSource, ModelSource
from recsys.features.event_log import EventLog
from recsys.features.schema import Schema
from recsys.features.splits import LeaveLastOut
from recsys.models.item_item import Cosine
from recsys.tracking.bundle import Bundle
from tests.candidates.conftest import Saved, lists_of, users_of

Make = Callable[..., Saved]


@pytest.fixture
def made(saved: Make) -> Saved:
    return saved("synergen")


def changed(path: Path, events: pd.DataFrame) -> str:
    """A raw log with other events: nobody's place in it need be the same."""
    events.sample(frac=1, random_state=0).to_parquet(path)
    return str(path)


def frame(made: Saved) -> pd.DataFrame:
    return made.log.to_frame().rename(columns={"action": "kind"})


def runs(made: Saved, tmp_path: Path, log: str, **others: Any) -> tuple[Outcome, Outcome]:
    """The job of the next night, with what was made before and without."""
    run_job(made.config(tmp_path, name="monday", **others))
    kept = run_job(made.config(tmp_path, name="tuesday", previous="monday", log=log, **others | {"users_per_part": 9}))
    return kept, run_job(made.config(tmp_path, name="all", log=log, **others))


def assert_same(kept: Outcome, whole: Outcome) -> None:
    ours, theirs = lists_of(kept.folder), lists_of(whole.folder)
    pd.testing.assert_frame_equal(
        ours.drop(columns=["score", "generated_at"]), theirs.drop(columns=["score", "generated_at"])
    )
    np.testing.assert_allclose(ours["score"], theirs["score"], atol=1e-6)
    pd.testing.assert_frame_equal(users_of(kept.folder), users_of(whole.folder))
    assert ours["generated_at"].nunique() == 1 and ours["generated_at"][0].isoformat() == kept.manifest.generated_at


def test_new_late_and_withdrawn_events_change_the_lists_of_their_users_alone(made: Saved, tmp_path: Path) -> None:
    events = frame(made)
    first = events["timestamp"].min()
    new = pd.DataFrame({"user_id": [501, 999], "item_id": [101, 102], "timestamp": [first + 10**8, first + 5]})
    late = pd.DataFrame({"user_id": [503], "item_id": [104], "timestamp": [first - 10**6]})  # before all that was read
    withdrawn = events.drop(events.index[events["user_id"] == 505][0])
    log = changed(tmp_path / "log.parquet", pd.concat([withdrawn, new, late], ignore_index=True))
    kept, whole = runs(made, tmp_path, log)
    assert kept.manifest.counts["kept"] == 37 and kept.manifest.users == 41  # not 501, 503, 505, and the new 999
    assert kept.manifest.previous == "monday"
    assert_same(kept, whole)


def test_what_only_the_model_of_a_source_knows_changes_a_list_too(made: Saved, tmp_path: Path) -> None:
    events = frame(made)
    stranger = pd.DataFrame({"user_id": range(520, 530), "item_id": 999, "timestamp": events["timestamp"].min() - 1})
    known = EventLog.from_frame(pd.concat([events, stranger])[list(stranger)], Schema(name="shop"))
    split = LeaveLastOut()(known)
    neighbours = Cosine()
    neighbours.fit(split)
    Bundle.of(neighbours, known, split.hash).save(tmp_path / "other")
    sources = (ModelSource(name="other", model=str(tmp_path / "other"), quota=4), ModelSource())
    log = changed(tmp_path / "log.parquet", pd.concat([events, stranger.head(1).assign(user_id=503)]))
    kept, whole = runs(made, tmp_path, log, sources=sources)
    before = lists_of(tmp_path / "monday")
    now = lists_of(whole.folder)
    assert before["item_id"][before["user_id"] == 503].tolist() != now["item_id"][now["user_id"] == 503].tolist()
    assert kept.manifest.counts["unknown_events"] == 1 and kept.manifest.counts["kept"] == 39
    assert_same(kept, whole)


def test_nothing_is_made_where_nothing_has_changed(made: Saved, tmp_path: Path) -> None:
    kept, whole = runs(made, tmp_path, str(made.folder / "log"))
    assert kept.manifest.counts["kept"] == 40 and "retrieving" not in kept.manifest.seconds
    assert_same(kept, whole)
    pd.testing.assert_series_equal(lists_of(kept.folder)["score"], lists_of(whole.folder)["score"])


def test_other_queries_and_lists_of_users_count(made: Saved, tmp_path: Path) -> None:
    def lists(night: str, queries: dict[int, str], denied: dict[int, int]) -> dict[str, str]:
        users = pd.DataFrame({"user_id": range(500, 540)})
        users.assign(query=users["user_id"].map(queries)).to_parquet(tmp_path / f"users-{night}.parquet")
        pairs = pd.DataFrame({"user_id": list(denied), "item_id": list(denied.values())})
        pairs.to_parquet(tmp_path / f"deny-{night}.parquet")
        return {"users": str(tmp_path / f"users-{night}.parquet"), "user_deny": str(tmp_path / f"deny-{night}.parquet")}

    monday = lists("monday", {500: "red soap", 501: "oil"}, {510: 100, 511: 101})
    tuesday = lists("tuesday", {500: "red soap", 501: "balm", 502: "oil"}, {510: 100, 511: 102, 512: 103})
    run_job(made.config(tmp_path, name="monday", **monday))
    kept = run_job(made.config(tmp_path, name="tuesday", previous="monday", **tuesday))
    whole = run_job(made.config(tmp_path, name="all", **tuesday))
    assert kept.manifest.counts["kept"] == 40 - 4
    assert_same(kept, whole)


def test_cold_users_and_short_lists_are_kept_with_their_reasons(made: Saved, tmp_path: Path) -> None:
    users = tmp_path / "users.csv"
    users.write_text("user_id\n500\n501\n7\n")
    kept, whole = runs(made, tmp_path, str(made.folder / "log"), users=str(users), k=28, cold="skip")
    assert kept.manifest.counts["kept"] == 3 and set(users_of(kept.folder)["reason"]) == {"cold", "too_few_items"}
    assert_same(kept, whole)


def test_a_complete_job_outlives_what_it_followed(made: Saved, tmp_path: Path) -> None:
    kept, _ = runs(made, tmp_path, str(made.folder / "log"))
    shutil.rmtree(tmp_path / "monday")
    settings: dict[str, Any] = {"name": "tuesday", "log": str(made.folder / "log"), "users_per_part": 9}
    again = run_job(made.config(tmp_path, previous="monday", **settings))
    assert again.made == 0 and again.manifest == kept.manifest
    with pytest.raises(JobError, match=r"`previous` was .* and is missing"):
        run_job(made.config(tmp_path, **settings))


@pytest.mark.parametrize(
    ("others", "message"),
    [
        ({"k": 6}, r"monday was made in another way: `k` was 5 and is 6.*Make all lists"),
        ({"deny": ("100",)}, "`deny` was none"),
        ({"sources": (ModelSource(), ItemItemSource())}, "source item_item change with the events of others"),
        ({"previous": "tuesday"}, "is to follow itself"),
        ({"previous": "sunday"}, r"sunday: not complete"),
    ],
)
def test_what_cannot_be_kept_is_refused(made: Saved, tmp_path: Path, others: dict[str, Any], message: str) -> None:
    run_job(made.config(tmp_path, name="monday"))
    with pytest.raises(JobError, match=message):
        run_job(made.config(tmp_path, **{"name": "tuesday", "previous": "monday"} | others))


def test_a_damaged_previous_job_is_refused(made: Saved, tmp_path: Path) -> None:
    before = run_job(made.config(tmp_path, name="monday"))
    (before.folder / "part-00001.parquet").write_bytes(b"")
    config: JobConfig = made.config(tmp_path, name="tuesday", previous="monday")
    with pytest.raises(JobError, match=r"incremental: .*part-00001.parquet: missing or altered"):
        run_job(config)
