"""Parts made by two workers of a cluster on this machine are those that one process makes."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from uuid import uuid4

import pytest

from recsys.candidates.engine import Engine, Work
from recsys.candidates.files import JobError
from recsys.candidates.ray_engine import RayEngine, RayError, _Maker, _record
from recsys.candidates.records import PartRecord
from recsys.candidates.run import run_job
from recsys.features.tables import DataError
from tests.candidates.conftest import Saved, contents
from tests.candidates.test_job import with_time

ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'recsys[ray]'")
pytestmark = pytest.mark.distributed


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_AUTH_TOKEN", uuid4().hex)  # else Ray leaves one in the home of whoever runs the tests
        ray.init(num_cpus=2, include_dashboard=False, object_store_memory=80 * 2**20, log_to_driver=False)
        yield
        ray.shutdown()


class Through:
    """A Ray engine whose workers do `first` before each part, in their own process."""

    def __init__(self, first: Callable[[int], None], engine: Engine) -> None:
        self.first, self.engine = first, engine

    def run(self, parts: list[int], work: Work) -> Iterator[PartRecord]:
        first = self.first

        def both(part: int) -> PartRecord:
            first(part)
            return work(part)

        return self.engine.run(parts, both)


def test_a_cluster_writes_what_one_process_writes_though_a_worker_is_killed_between_lists_and_record(
    saved: Callable[..., Saved], tmp_path: Path
) -> None:
    made, killed = saved("synergen"), tmp_path / "killed"

    def first(part: int) -> None:
        if part == 1 and not killed.exists():
            from recsys.candidates import part as module

            real = module.write_durable

            def write(path: Path, content: bytes | str) -> None:
                if path.name == "part-00001.json":
                    killed.touch()
                    os.kill(os.getpid(), signal.SIGKILL)
                real(path, content)

            module.write_durable = write

    outcome = run_job(made.config(tmp_path / "ray", users_per_part=8), Through(first, RayEngine(workers=2)))
    assert killed.exists() and outcome.made == 5
    alone = with_time(made, tmp_path / "alone", outcome.manifest.generated_at, users_per_part=8)
    assert contents(outcome.folder) == contents(alone.folder)
    assert outcome.manifest.files == alone.manifest.files


def test_a_part_that_kills_every_worker_is_given_up() -> None:
    def first(part: int) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    engine = Through(first, RayEngine(workers=1, tries=1))
    with pytest.raises(JobError, match=r"part 7: every worker that made it has died \(1 in all\).*the same command"):
        list(engine.run([7], lambda part: PartRecord(part, 0, 0, {})))


@pytest.mark.parametrize(
    ("error", "kind", "what"),
    [
        (DataError("log: truncated"), JobError, "^log: truncated$"),
        (ZeroDivisionError("a bug"), RuntimeError, r"(?s)^part 0:.*in work.*ZeroDivisionError: a bug"),
    ],
)
def test_errors_of_workers_are_told_as_they_are(error: Exception, kind: type[Exception], what: str) -> None:
    """Without a worker, which takes seconds to start: what it answers crosses the cluster in the tests above."""

    def work(part: int) -> PartRecord:
        raise error

    begun = SimpleNamespace(again=SimpleNamespace(remote=lambda part: ray.put(1)))
    answer = _Maker(work, begun, tries=3)({"part": 0})
    assert all(isinstance(value, str | int) for value in answer.values())
    with pytest.raises(kind, match=what):
        _record(answer)


def test_what_cannot_be_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RayError, match=r"no room for a worker of 3 CPUs and 0 GPUs in a cluster of 2 and 0"):
        list(RayEngine(cpus=3).run([0], lambda part: PartRecord(part, 0, 0, {})))
    with pytest.raises(RayError, match="must be at least 1"):
        RayEngine(tries=0)
    assert list(RayEngine().run([], lambda part: PartRecord(part, 0, 0, {}))) == []
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(RayError, match=r"pip install 'recsys\[ray\]'"):
        RayEngine()
