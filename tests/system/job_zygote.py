"""Runs candidate jobs in processes of their own, and does to them what a night can do.

Imports once and forks, so that a process costs little. A line of JSON on standard input is a job to run:
`config`, and one of `kill_after` (seconds), `kill_at` (the n-th time that a file or folder is brought to the disk) and
`file_bytes` (the largest file that the system lets it write); or `second`, a job that is started while the first one
stands still in the middle of a part. A line of JSON comes back for each: how it ended.
"""

from __future__ import annotations

import json
import os
import resource
import signal
import sys
import time
import warnings
from pathlib import Path
from typing import Any

from recsys.candidates.config import JobConfig
from recsys.candidates.files import LOCK
from recsys.candidates.run import run_job

Ended = dict[str, Any]


def forked(order: dict[str, Any]) -> tuple[int, int]:
    """Process and pipe of a job."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        return child, reader
    answer: Ended = {}
    try:
        if (most := order.get("file_bytes")) is not None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))
        if (n := order.get("kill_at")) is not None:
            die_at(n)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            answer["made"] = run_job(JobConfig.of(order["config"])).made
        answer["warnings"] = [str(warning.message) for warning in said]
    except Exception as error:
        answer["error"] = f"{type(error).__name__}: {error}"
    os.write(writer, json.dumps(answer).encode())
    os._exit(0)


def die_at(n: int) -> None:
    real, times = os.fsync, 0

    def fsync(handle: int) -> None:
        nonlocal times
        times += 1
        if times == n:
            os.kill(os.getpid(), signal.SIGKILL)
        real(handle)

    os.fsync = fsync


def ended(child: int, reader: int) -> Ended:
    with os.fdopen(reader, "rb") as pipe:
        answer = json.loads(pipe.read() or b"{}")
    _, status = os.waitpid(child, 0)
    return answer | {"killed": os.WIFSIGNALED(status)}


def run(order: dict[str, Any]) -> list[Ended]:
    start = time.monotonic()
    child, reader = forked(order)
    if (seconds := order.get("kill_after")) is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    others = []
    if (second := order.get("second")) is not None:
        out = Path(order["config"]["out"])
        while not (out / LOCK).exists() or str(child) not in (out / LOCK).read_text():
            time.sleep(0.005)
        os.kill(child, signal.SIGSTOP)
        others = [ended(*forked({"config": second}))]
        os.kill(child, signal.SIGCONT)
    return [ended(child, reader) | {"seconds": time.monotonic() - start}, *others]


if __name__ == "__main__":
    for line in sys.stdin:
        print(json.dumps(run(json.loads(line))), flush=True)
