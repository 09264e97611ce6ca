"""Jobs from their start to their manifest: right lists, whole files, and taken up where they were ended."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest

from recsys.candidates import run
from recsys.candidates.engine import InProcess, Work
from recsys.candidates.files import JobError, locked
from recsys.candidates.job import Job
from recsys.candidates.lists import cores
from recsys.candidates.manifest import Manifest, holds
from recsys.candidates.records import PartRecord
from recsys.candidates.run import run_job
from recsys.tracking.history import History
from tests.candidates.conftest import Saved, contents, lists_of, users_of
from tests.tracking.served import MODELS

Make = Callable[..., Saved]


@pytest.mark.parametrize("name", MODELS)
def test_each_user_gets_what_the_bundle_recommends_one_at_a_time(saved: Make, name: str, tmp_path: Path) -> None:
    made = saved(name, integers=name != "cosine")
    outcome = run_job(made.config(tmp_path, threads=2))
    rows = lists_of(outcome.folder)
    assert rows["user_id"].unique().tolist() == made.log.users.values.tolist()
    for user, own in enumerate((own for _, own in rows.groupby("user_id", sort=False)), start=1):
        alone = made.bundle.recommend([made.history(user)], 5)
        given = alone.items[0] > 0
        assert own["item_id"].tolist() == made.bundle.items.decode(alone.items[0][given].numpy()).tolist()
        np.testing.assert_allclose(own["score"], alone.scores[0][given].numpy(), atol=1e-6)
        assert own["rank"].tolist() == list(range(1, len(own) + 1))
        seen = set(made.log.items.decode(History.of_user(made.log, user).items).tolist())
        assert not seen & set(own["item_id"])


def test_columns_and_manifest(saved: Make, tmp_path: Path) -> None:
    made = saved()
    outcome = run_job(made.config(tmp_path))
    manifest, rows = Manifest.read(outcome.folder), lists_of(outcome.folder)
    schema = pq.read_schema(outcome.folder / "part-00000.parquet")
    assert {field.name: str(field.type) for field in schema} == {
        "user_id": "int64",
        "item_id": "int64",
        "rank": "int32",
        "score": "float",
        "source": "string",
        "model_version": "string",
        "generated_at": "timestamp[us, tz=UTC]",
    }
    assert set(rows["source"]) == {"model"} and set(rows["model_version"]) == {manifest.model_version}
    assert {at.isoformat() for at in rows["generated_at"]} == {manifest.generated_at}
    assert manifest.users == made.log.n_users == 40 and manifest.parts == 3 and manifest.rows == len(rows) == 200
    assert sorted(manifest.files) == sorted(contents(outcome.folder)) and not manifest.damaged(outcome.folder)
    users = users_of(outcome.folder)
    assert users["items"].eq(5).all() and users["reason"].isna().all() and not users["cold"].any()
    assert users["events"].tolist() == np.diff(made.log.offsets)[1:].tolist()
    assert not (outcome.folder / "inputs").exists()


def test_fewer_than_k_items_have_a_reason(saved: Make, tmp_path: Path) -> None:
    made = saved()
    outcome = run_job(made.config(tmp_path, k=28, allow=tuple(str(item) for item in range(100, 128))))
    users, rows = users_of(outcome.folder), lists_of(outcome.folder)
    allowed = [28 - len({i for i in History.of_user(made.log, u).items if i <= 28}) for u in range(1, 41)]
    assert users["items"].tolist() == allowed == rows.groupby("user_id").size().tolist()
    assert users["reason"].fillna("").tolist() == ["" if n == 28 else "too_few_items" for n in allowed]
    assert outcome.manifest.counts["short_too_few_items"] == sum(n < 28 for n in allowed)


def test_one_thread_a_core_unless_the_environment_says_fewer(monkeypatch: pytest.MonkeyPatch) -> None:
    there = len(os.sched_getaffinity(0))
    for given, expected in (("1", 1), ("10000", there), ("", there), ("2,1", there), ("0", there)):
        monkeypatch.setenv("OMP_NUM_THREADS", given)
        assert cores() == expected
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert cores() == there


def test_threads_do_not_change_a_bit(saved: Make, tmp_path: Path) -> None:
    made = saved("synergen")
    one = run_job(made.config(tmp_path / "one"))
    at = one.manifest.generated_at
    three = with_time(made, tmp_path / "three", at, threads=3)
    assert contents(one.folder) == contents(three.folder)


def with_time(made: Saved, out: Path, at: str, **others: object) -> run.Outcome:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(run, "_now", lambda: at)
        return run_job(made.config(out, **others))


class Killed(BaseException):
    """What ends a job between two parts."""


class Dying(InProcess):
    """Ends after some parts."""

    def __init__(self, parts: int) -> None:
        self.parts = parts

    def run(self, parts: Sequence[int], work: Work) -> Iterator[PartRecord]:
        for done, part in enumerate(parts):
            if done == self.parts:
                raise Killed
            yield work(part)


def test_a_job_that_was_ended_goes_on_and_writes_the_same(saved: Make, tmp_path: Path) -> None:
    made = saved("synergen")
    for parts in (0, 1, 1):
        with pytest.raises(Killed):
            run_job(made.config(tmp_path / "a"), Dying(parts))
        assert not (tmp_path / "a" / "night" / "manifest.json").exists()
    (tmp_path / "a" / "night" / ".part-00002.parquet.host.1").write_bytes(b"unfinished")
    outcome = run_job(made.config(tmp_path / "a", threads=2))
    assert outcome.made == 1
    whole = with_time(made, tmp_path / "b", outcome.manifest.generated_at)
    assert contents(outcome.folder) == contents(whole.folder)
    assert not list(outcome.folder.glob(".part*"))
    again = run_job(made.config(tmp_path / "a"))
    assert again.made == 0 and again.manifest == outcome.manifest


def test_files_of_a_start_that_no_record_tells_of_do_not_stay(saved: Make, tmp_path: Path) -> None:
    """Workers that make parts side by side may die between a file and its record; fewer parts may be asked for then."""
    made = saved()
    with pytest.raises(Killed):
        run_job(made.config(tmp_path, users_per_part=5), Dying(0))
    for file in ("part-00007.parquet", "users/part-00007.parquet"):
        (tmp_path / "night" / file).write_bytes(b"of the start before")
    outcome = run_job(made.config(tmp_path))
    assert sorted(contents(outcome.folder)) == sorted(outcome.manifest.files) and outcome.manifest.parts == 3


def test_a_log_that_was_moved_is_found_where_it_is_named(saved: Make, tmp_path: Path) -> None:
    made = saved()
    shutil.copytree(made.folder / "log", tmp_path / "old")
    with pytest.raises(Killed):
        run_job(made.config(tmp_path / "out", log=str(tmp_path / "old")), Dying(1))
    (tmp_path / "old").rename(tmp_path / "new")
    assert run_job(made.config(tmp_path / "out", log=str(tmp_path / "new"))).made == 2


def test_what_is_made_ready_is_on_the_disk_before_it_counts(
    saved: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, steps = saved(), []
    pairs = pd.DataFrame({"user_id": [500], "item_id": [110]})
    pairs.to_parquet(tmp_path / "deny.parquet")
    fsync, replace = os.fsync, Path.replace

    def brought(handle: int) -> None:
        steps.append(Path(os.readlink(f"/proc/self/fd/{handle}")).name.lstrip("."))
        fsync(handle)

    def renamed(self: Path, to: Path) -> Path:
        steps.append(f"= {to.name}")
        return replace(self, to)

    monkeypatch.setattr(os, "fsync", brought)
    monkeypatch.setattr(Path, "replace", renamed)
    with pytest.raises(Killed):
        run_job(made.config(tmp_path / "out", user_deny=str(tmp_path / "deny.parquet")), Dying(0))
    for file in ("users.parquet", "deny.parquet"):
        at = steps.index(file)
        assert steps[at : at + 3] == [file, f"= {file}", "inputs"] and at < steps.index("= staged.json")


@pytest.mark.parametrize("file", ["part-00001.parquet", "users/part-00001.parquet", "parts/part-00001.json"])
@pytest.mark.parametrize("complete", [False, True])
def test_damaged_parts_are_made_again(saved: Make, tmp_path: Path, file: str, complete: bool) -> None:
    made = saved()
    outcome = run_job(made.config(tmp_path))
    before = contents(outcome.folder)
    if not complete:
        (outcome.folder / "manifest.json").unlink()
    (outcome.folder / file).write_bytes(b"{}")
    if complete and file.endswith("json"):  # the manifest alone says what is whole
        assert run_job(made.config(tmp_path)).made == 0
        return
    with pytest.warns(UserWarning, match=f"{Path(file).name}.*made again"):
        again = run_job(made.config(tmp_path))
    assert again.made == 1 and contents(again.folder) == before


def test_other_inputs_are_refused_by_name(saved: Make, tmp_path: Path) -> None:
    made = saved()
    run_job(made.config(tmp_path))
    with pytest.raises(JobError, match=r"begun with other inputs: `k` was 5 and is 6"):
        run_job(made.config(tmp_path, k=6))
    with pytest.raises(JobError, match=r"`deny` was none and is "):
        run_job(made.config(tmp_path, deny=("100",)))
    other = saved("cosine")
    with pytest.raises(JobError, match=r"`model` was"):
        run_job(other.config(tmp_path, log=str(made.folder / "log")))
    run_job(made.config(tmp_path, threads=2, memory_gib=4.0))  # how it is done is another matter
    (tmp_path / "else").mkdir()
    (tmp_path / "else" / "file").write_text("")
    with pytest.raises(JobError, match="holds something else"):
        run_job(made.config(tmp_path, name="else"))


def test_one_job_at_a_time(saved: Make, tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(JobError, match=r"process \d+ on .* is writing here; wait"):
        run_job(saved().config(tmp_path))
    run_job(saved().config(tmp_path))


def test_a_full_disk_is_one_error_and_nothing_is_lost(
    saved: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = saved()
    real, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) == 14:
            raise OSError(28, "No space left on device")
        real(handle)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(JobError, match=r"part-0000\d.*: cannot be written \(No space left on device\); make room"):
        run_job(made.config(tmp_path))
    assert not list((tmp_path / "night").rglob(".part*"))
    monkeypatch.undo()
    outcome = run_job(made.config(tmp_path))
    assert 0 < outcome.made < 3
    assert contents(outcome.folder) == contents(with_time(made, tmp_path / "b", outcome.manifest.generated_at).folder)


def test_a_record_says_what_was_written(saved: Make, tmp_path: Path) -> None:
    outcome = run_job(saved().config(tmp_path))
    record = PartRecord.read(outcome.folder / "parts" / "part-00002.json")
    assert (record.part, record.users, record.rows) == (2, 10, 50)
    assert all(holds(outcome.folder / name, digest) for name, digest in record.files.items())
    assert Job.read(outcome.folder / "job.json").config.k == 5
    assert set(record.seconds) == {"reading", "retrieving", "merging", "writing"}
    (outcome.folder / "job.json").write_text(json.dumps({"format": 0}))
    with pytest.raises(JobError, match="another version"):
        Job.read(outcome.folder / "job.json")
    for content in ("[]", '{"format": 1}', '{"format": 1, "config": {}}'):
        (outcome.folder / "job.json").write_text(content)
        with pytest.raises(JobError, match=r"job\.json: no job here .*choose another --name"):
            Job.read(outcome.folder / "job.json")


def test_progress_counts_users(saved: Make, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    run_job(saved().config(tmp_path), progress=lambda *step: told.append(step))
    assert told == [("making lists", 15, 40), ("making lists", 30, 40), ("making lists", 40, 40)]
