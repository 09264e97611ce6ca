"""What a night can do to a candidate job: it is killed, the disk is full, files are damaged, two jobs start at once."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from recsys.candidates.config import JobConfig
from recsys.candidates.job import MANIFEST
from recsys.candidates.manifest import Manifest
from tests.candidates.conftest import Saved, contents, saved  # noqa: F401  (a fixture)
from tests.candidates.test_job import with_time

pytestmark = pytest.mark.distributed
ZYGOTE = Path(__file__).with_name("job_zygote.py")
Run = Callable[..., list[dict[str, Any]]]


@pytest.fixture(scope="module")
def run() -> Iterator[Run]:
    zygote = subprocess.Popen(
        [sys.executable, str(ZYGOTE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1
    )
    assert zygote.stdin is not None and zygote.stdout is not None

    def send(config: JobConfig, **order: Any) -> list[dict[str, Any]]:
        print(json.dumps({"config": config.plain(), **order}), file=zygote.stdin)
        return json.loads(zygote.stdout.readline())

    yield send
    zygote.stdin.close()
    assert zygote.wait(timeout=30) == 0


@pytest.fixture
def made(saved: Callable[..., Saved]) -> Saved:  # noqa: F811
    return saved("synergen")


def same_as_undisturbed(made: Saved, folder: Path, alone: Path, **others: Any) -> bool:
    at = Manifest.read(folder).generated_at
    return contents(folder) == contents(with_time(made, alone, at, **others).folder)


def test_killed_ten_times_at_random_and_resumed_equals_undisturbed(made: Saved, run: Run, tmp_path: Path) -> None:
    draw = random.Random(0)
    (undisturbed,) = run(made.config(tmp_path / "first", users_per_part=2))
    assert undisturbed["made"] == 20
    killed, jobs, begun = 0, 1, ""
    while True:
        out = tmp_path / str(jobs)
        if killed == 10:
            moment = {}
        elif killed % 2:
            moment = {"kill_at": draw.randint(1, 60)}  # two files, a record and their folders: 6 a part
        else:
            moment = {"kill_after": draw.uniform(0.05, 0.7) * undisturbed["seconds"]}
        (end,) = run(made.config(out, users_per_part=2), **moment)
        if end["killed"]:
            killed += 1
            if not begun and list(out.glob("night/parts/part*.json")):
                begun = json.loads((out / "night" / "job.json").read_text())["generated_at"]
            continue
        assert begun in ("", Manifest.read(out / "night").generated_at)  # with a part there, it has begun
        assert same_as_undisturbed(made, out / "night", tmp_path / f"alone-{jobs}", users_per_part=2)
        assert not list((out / "night").rglob(".*"))
        if killed == 10:
            break
        jobs, begun = jobs + 1, ""
    assert jobs <= 5  # or else most were ended before they were to be killed


def test_a_system_that_refuses_to_write_is_one_error_and_what_is_there_stays(
    made: Saved, run: Run, tmp_path: Path
) -> None:
    """The size of files is limited by the kernel here; the same border meets a disk that is full."""
    config = made.config(tmp_path, users_per_part=15, k=20)
    (end,) = run(config, file_bytes=4096)
    assert end["error"].startswith("JobError: ") and "part-00000.parquet: cannot be written" in end["error"], end
    assert "File too large" in end["error"] and "start the same command again" in end["error"]
    assert not (tmp_path / "night" / MANIFEST).exists() and not list((tmp_path / "night").glob(".part*"))
    (end,) = run(config)
    assert end["made"] == 3 and same_as_undisturbed(
        made, tmp_path / "night", tmp_path / "alone", users_per_part=15, k=20
    )


@pytest.mark.parametrize("complete", [False, True])
def test_a_damaged_part_is_found_by_its_checksum_and_made_again(
    made: Saved, run: Run, tmp_path: Path, complete: bool
) -> None:
    config = made.config(tmp_path)
    run(config)
    folder = tmp_path / "night"
    if not complete:
        (folder / MANIFEST).unlink()
    damaged = folder / "part-00001.parquet"
    content = bytearray(damaged.read_bytes())
    content[len(content) // 2] ^= 1
    damaged.write_bytes(content)
    (end,) = run(config)
    assert end["made"] == 1 and any("part-00001.parquet" in warning for warning in end["warnings"])
    assert same_as_undisturbed(made, folder, tmp_path / "alone")


def test_a_partition_of_the_log_that_cannot_be_read_is_named(made: Saved, run: Run, tmp_path: Path) -> None:
    events = made.log.to_frame().rename(columns={"action": "kind"})
    (tmp_path / "log").mkdir()
    for half in range(2):
        events[events["user_id"] % 2 == half].to_parquet(tmp_path / "log" / f"day-{half}.parquet")
    whole = (tmp_path / "log" / "day-1.parquet").read_bytes()
    config = made.config(tmp_path / "out", log=str(tmp_path / "log"))
    middle = bytearray(whole)
    middle[200:400] = bytes(200)
    for content in (whole[: len(whole) // 2], bytes(middle)):
        (tmp_path / "log" / "day-1.parquet").write_bytes(content)
        (end,) = run(config)
        assert "day-1.parquet" in end["error"] and "day-0" not in end["error"], end
        assert not (tmp_path / "out" / "night" / MANIFEST).exists()
    (tmp_path / "log" / "day-1.parquet").write_bytes(whole)
    (end,) = run(config)
    assert end.get("made") == 3, end


def test_of_two_jobs_at_once_the_second_refuses_and_the_first_ends_well(made: Saved, run: Run, tmp_path: Path) -> None:
    first, second = run(made.config(tmp_path), second=made.config(tmp_path, name="other").plain())
    assert first["made"] == 3 and not first["killed"]
    assert second["error"].startswith("JobError: ") and "is writing here; wait" in second["error"]
    assert not (tmp_path / "other").exists()
