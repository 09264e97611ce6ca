from __future__ import annotations

import json
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from recsys.candidates import files
from recsys.candidates.data_contract import DataContract, Limits
from recsys.candidates.files import JobError, locked
from recsys.candidates.job import MANIFEST
from recsys.candidates.publication import POINTER, PublicationError, Publications, current, publish, rollback
from recsys.candidates.publishing import check_and_publish
from tests.candidates.complete import GOOD, complete


@pytest.fixture
def out(tmp_path: Path) -> Path:
    for name in "abcd":
        complete(tmp_path / name, GOOD)
    return tmp_path


def names(out: Path) -> list[str]:
    return sorted(path.name for path in out.iterdir() if path.is_dir())


def test_publish_and_go_back(out: Path) -> None:
    assert current(out) is None
    with pytest.raises(PublicationError, match="nothing is published here, and nothing can be gone back to"):
        rollback(out)
    with pytest.raises(PublicationError, match="gone: no such folder"):
        rollback(out / "gone")
    for name in "abc":
        publish(out, name)
        assert current(out) == name
    assert rollback(out) == current(out) == "b"
    assert rollback(out) == current(out) == "a"
    with pytest.raises(PublicationError, match="nothing was published before a"):
        rollback(out)
    moves = [(event.what, event.name, event.instead_of) for event in Publications.read(out).events]
    assert moves[:3] == [("published", "a", None), ("published", "b", "a"), ("published", "c", "b")]
    assert moves[3:] == [("rolled back", "b", "c"), ("rolled back", "a", "b")]
    publish(out, "c")
    assert rollback(out) == "a"


def test_twice_is_once_and_again_is_the_newest(out: Path) -> None:
    for name in "aabba":
        publish(out, name)
    found = Publications.read(out)
    assert (found.current, found.before, len(found.events)) == ("a", ("b",), 3)


def test_only_what_is_complete_and_whole_is_published(out: Path) -> None:
    publish(out, "a")
    part = out / "b" / "part-00001.parquet"
    content = bytearray(part.read_bytes())
    content[20] ^= 1
    part.write_bytes(content)
    (out / "c" / MANIFEST).unlink()
    (out / "d" / "users" / "part-00000.parquet").unlink()
    for name, what in (
        ("b", "part-00001.parquet: missing or altered"),
        ("c", "not complete"),
        ("d", "users/part-00000.parquet: missing"),
        ("e", "not complete"),
        ("../a", "no name of a job"),
        (".a", "no name"),
        ("", "no name"),
    ):
        with pytest.raises(PublicationError, match=what):
            publish(out, name)
    assert current(out) == "a" and len(Publications.read(out).events) == 1


def test_a_damaged_job_is_not_gone_back_to(out: Path) -> None:
    publish(out, "a")
    publish(out, "b")
    (out / "a" / "part-00000.parquet").unlink()
    with pytest.raises(PublicationError, match=r"part-00000.parquet: missing"):
        rollback(out)
    assert current(out) == "b"


def test_old_jobs_are_removed_and_nothing_else(out: Path) -> None:
    complete(out / "never", GOOD)
    publish(out, "a", keep=2)
    publish(out, "b", keep=2)
    assert names(out) == ["a", "b", "c", "d", "never"]
    publish(out, "c", keep=2)
    assert names(out) == ["b", "c", "d", "never"] and rollback(out) == "b"
    publish(out, "d", keep=1)  # c was withdrawn by hand, and is left to be looked at
    assert names(out) == ["c", "d", "never"]
    with pytest.raises(PublicationError, match="nothing was published before"):
        rollback(out)
    with pytest.raises(PublicationError, match="keep 0"):
        publish(out, "d", keep=0)


def test_a_removal_that_was_interrupted_is_ended_by_the_next(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(out, "a")

    def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr("recsys.candidates.publication.shutil.rmtree", die)
        publish(out, "b", keep=1)
    assert current(out) == "b" and not (out / "a" / MANIFEST).exists()
    publish(out, "b")
    assert names(out) == ["b", "c", "d"] and Publications.read(out).dropped == ()


def test_a_folder_that_cannot_be_removed_is_tried_again(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(out, "a")
    with monkeypatch.context() as patch:
        patch.setattr("recsys.candidates.publication.shutil.rmtree", lambda *_, **__: None)
        publish(out, "b", keep=1)
    assert Publications.read(out).dropped == ("a",) and (out / "a").is_dir()
    publish(out, "b")
    assert Publications.read(out).dropped == () and not (out / "a").exists()


def test_lists_are_published_where_those_before_are_gone(out: Path) -> None:
    publish(out, "a")
    shutil.rmtree(out / "a")
    with pytest.warns(UserWarning, match=r"a: is published and gone; there is nothing to compare with"):
        check_and_publish(out / "b", DataContract(short_users=Limits()))
    assert current(out) == "b"


def test_a_pointer_that_is_no_pointer(out: Path) -> None:
    (out / POINTER).write_text("{")
    with pytest.raises(PublicationError, match=r"current\.json: cannot be read"):
        current(out)


def test_a_job_publishes_while_it_holds_the_output(out: Path) -> None:
    with locked(out):
        publish(out, "a")
    assert current(out) == "a"


def test_the_pointer_and_its_name_are_on_the_disk_before_it_counts(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, switch = files.os.fsync, Path.replace
    monkeypatch.setattr(files.os, "fsync", lambda handle: (steps.append("fsync"), fsync(handle))[1])
    monkeypatch.setattr(Path, "replace", lambda self, to: (steps.append("rename"), switch(self, to))[1])
    publish(out, "a")
    assert steps == ["fsync", "rename", "fsync"]


def test_a_full_disk_leaves_the_pointer_as_it_was(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(out, "a")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(JobError, match=r"current\.json: cannot be written \(No space left on device\)"):
        publish(out, "b")
    assert current(out) == "a" and not list(out.glob(f".{POINTER}*"))


READER = """
import sys
from pathlib import Path
from recsys.candidates.publication import current
assert "torch" not in sys.modules
out, seen = Path(sys.argv[1]), []
print("ready", flush=True)
while not (out / "stop").exists() or len(seen) < 1000:
    name = current(out)
    assert name in ("a", "b"), name
    assert (out / name / "manifest.json").stat().st_size > 0
    seen.append(name)
print(len(seen), sum(one != other for one, other in zip(seen, seen[1:])))
"""


def test_a_reader_never_meets_half_a_switch(out: Path) -> None:
    publish(out, "a")
    reader = subprocess.Popen([sys.executable, "-c", READER, str(out)], stdout=subprocess.PIPE, text=True)
    assert reader.stdout is not None and reader.stdout.readline() == "ready\n"
    for turn in range(200):
        publish(out, "ba"[turn % 2])
    (out / "stop").touch()
    reads, changes = map(int, reader.communicate(timeout=60)[0].split())
    assert reader.returncode == 0 and reads >= 1000 and changes > 1


def test_two_who_publish_at_once_lose_no_event(out: Path) -> None:
    def some(name: str) -> None:
        for _ in range(20):
            publish(out, name)

    threads = [threading.Thread(target=some, args=(name,)) for name in "ab"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    events = json.loads((out / POINTER).read_text())["events"]
    # each event follows from the one before, as if one had come after the other
    assert [event["instead_of"] for event in events] == [None, *(event["name"] for event in events[:-1])]
