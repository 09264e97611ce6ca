"""Makes the parts of a job on a Ray cluster: numbers of parts go to workers, small records come back."""

from __future__ import annotations

import importlib.util
import json
import os
import traceback
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from recsys.candidates.engine import Work
from recsys.candidates.files import JobError
from recsys.candidates.records import PartRecord
from recsys.features.tables import DataError

_STORE_MIB = 128


class RayError(JobError):
    """Ray is not there, or its workers do not come to an end; the message says what to do."""


@dataclass(frozen=True)
class RayEngine:
    """Makes parts by workers of a Ray cluster (the extra `ray`), which Ray Data feeds with part numbers.

    A worker is an actor, which loads model and log once. It writes the files of a part itself, so that every node must
    see the folder of the job, its model and its log under the same paths; the object store holds numbers and records
    alone. A worker that dies is replaced, and its part made again, in whole.

    What is written does not depend on the number of workers, since `make_part` writes the same bytes wherever it is
    called. Kinds of processors and versions of packages may differ in the last bits of a score: let nodes be alike.

    Attributes:
        address: of the cluster; None: the one that this process or `RAY_ADDRESS` knows, else one on this machine.
        workers: side by side; None: as many as the cluster has room for.
        cpus: of each worker: the `threads` of the job.
        gpus: of each worker; 1 for a job whose `device` is `cuda`.
        tries: times that a part is begun before it is given up, because its workers die.

    Raises:
        RayError: Ray is not installed, or a number is out of range.
    """

    address: str | None = None
    workers: int | None = None
    cpus: int = 1
    gpus: float = 0
    tries: int = 3

    def __post_init__(self) -> None:
        if importlib.util.find_spec("ray") is None:
            raise RayError("Ray is not installed: pip install 'recsys[ray]', or leave the engine out")
        if self.cpus < 1 or self.gpus < 0 or self.tries < 1 or (self.workers is not None and self.workers < 1):
            raise RayError(f"workers, cpus and tries must be at least 1, gpus not negative: {self}")

    def run(self, parts: Sequence[int], work: Work) -> Iterator[PartRecord]:
        """The record of each part, as it is finished.

        Args:
            parts: numbers of the parts to make.
            work: makes one.

        Raises:
            JobError: a worker could not make a part, for a reason that is written for people.
            RayError: there is no room for a worker, or a part was begun `tries` times and never finished.
            RuntimeError: anything else went wrong in a worker; with its traceback.
        """
        if not parts:
            return
        import ray

        own = not ray.is_initialized()
        if own:
            self._start()
        try:
            yield from self._made(parts, work)
        finally:
            if own:
                ray.shutdown()

    def _start(self) -> None:
        import ray

        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        given: dict[str, Any] = {"log_to_driver": False}
        if self.address is None and "RAY_ADDRESS" not in os.environ:
            given |= {"include_dashboard": False, "object_store_memory": _STORE_MIB * 2**20}
        else:
            given["address"] = self.address
        try:
            ray.init(**given)
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise RayError(f"Ray at {self.address or 'this machine'} cannot be used: {error}") from None

    def _made(self, parts: Sequence[int], work: Work) -> Iterator[PartRecord]:
        import ray
        from ray.data import ActorPoolStrategy

        begun: Any = ray.remote(num_cpus=0, max_restarts=-1)(_Begun).remote()
        try:
            dataset = ray.data.from_items([{"part": part} for part in parts], override_num_blocks=len(parts))
            dataset.context.enable_progress_bars = False
            dataset.context.print_on_execution_start = False
            maker: Any = _Maker  # Ray makes the objects
            made = dataset.map(
                maker,
                fn_constructor_args=(work, begun, self.tries),
                compute=ActorPoolStrategy(size=min(self._room(), len(parts)), max_tasks_in_flight_per_actor=1),
                num_cpus=self.cpus,
                num_gpus=self.gpus or None,
            )
            for row in made.iter_rows():
                yield _record(row)
        finally:
            ray.kill(begun)

    def _room(self) -> int:
        """Workers that the cluster has room for, no more than are wanted."""
        import ray

        has = ray.cluster_resources()
        room = int(has.get("CPU", 0) // self.cpus)
        if self.gpus:
            room = min(room, int(has.get("GPU", 0) / self.gpus))
        if not room:
            raise RayError(
                f"no room for a worker of {self.cpus} CPUs and {self.gpus:g} GPUs in a cluster of "
                f"{has.get('CPU', 0):g} and {has.get('GPU', 0):g}; ask for fewer"
            )
        return room if self.workers is None else min(room, self.workers)


class _Begun:
    """How often each part was begun, known to all workers."""

    def __init__(self) -> None:
        self._times: Counter[int] = Counter()

    def again(self, part: int) -> int:
        self._times[part] += 1
        return self._times[part]


class _Maker:
    """A worker."""

    def __init__(self, work: Work, begun: Any, tries: int) -> None:
        self._work, self._begun, self._tries = work, begun, tries

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        import ray

        part = int(row["part"])
        answer: dict[str, Any] = {"part": part, "record": "", "error": "", "trace": ""}
        if ray.get(self._begun.again.remote(part)) > self._tries:
            why = f"part {part}: every worker that made it has died ({self._tries} in all), for want of memory perhaps"
            remedy = "give each more, or lower `users_per_part`, and start the same command again"
            return answer | {"error": f"{why}; {remedy}"}
        try:
            return answer | {"record": self._work(part).text()}
        except (JobError, DataError) as error:
            return answer | {"error": str(error)}
        except Exception:
            return answer | {"trace": traceback.format_exc()}


def _record(row: dict[str, Any]) -> PartRecord:
    """What a worker has answered.

    Raises:
        JobError: it could not make the part, for a reason that is written for people.
        RuntimeError: anything else went wrong.
    """
    if row["error"]:
        raise JobError(row["error"])
    if row["trace"]:
        raise RuntimeError(f"part {row['part']}:\n{row['trace']}")
    return PartRecord(**json.loads(row["record"]))
