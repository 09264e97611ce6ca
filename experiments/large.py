"""Trains on 10 million items over two processes, is killed, goes on, and is judged beside popularity.

    python experiments/large.py
    python experiments/large.py --users 2000 --items 5000 --data runs/small/data --folder runs/small/run \
        --results runs/small/results --kill-after 30 --job.checkpoint_every 20 --data.batch_size 32

Makes the log where it is missing, prepares it, and starts `recsys fit --config large_synthetic` under torchrun. One
rank is killed (SIGKILL) after some steps; the job is started again and resumes from its last checkpoint. When training
has ended, all ranks together rank the whole catalogue for a sample of the test users, and popularity is judged on the
same users. Writes `large_synthetic/global_time/synergen.json` and `popularity.json` into the results. Arguments that
are not named here go to `recsys fit`.
"""

from __future__ import annotations

import argparse
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import large_log
from _large_events import Shape
from _large_steps import read

RANKS = 2
POLL_S = 0.2

Facts = dict[str, Any]


def main(argv: list[str] | None = None) -> int:
    given, rest = arguments().parse_known_args(argv)
    if given.folder.exists():
        print(f"{given.folder}: holds a run already; remove it, or name another --folder", file=sys.stderr)
        return 1
    facts: Facts = {"ranks": RANKS}
    sizes = ["--users", str(given.users), "--items", str(given.items)]
    facts["making_the_log"] = measured([large_log.__file__, *sizes, "--out", str(given.data)], given.data)
    recsys = ["-m", "recsys.cli.main"]
    words = ["prepare", "--dataset", large_log.NAME, "--cache", str(given.cache)]
    facts["preparing"] = measured([*recsys, *words], given.data)
    launch = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(RANKS)]
    job = [*launch, *recsys, "fit", *of_job(given), *rest]
    started = time.perf_counter()
    train_and_kill(job, given)
    say("killed; the job is started again")
    subprocess.run([sys.executable, *job, "--job.resume", "true"], check=True, env=environment(given.data, threads()))
    facts["training_and_judging_s"] = round(time.perf_counter() - started, 1)

    from _large_results import write_rows  # imports torch, which nothing before needs

    command = shlex.join(["python", "experiments/large.py", *(sys.argv[1:] if argv is None else argv)])
    for path in write_rows(given.folder, given.test_users, given.results, facts, command):
        say(f"wrote {path}")
    return 0


def arguments() -> argparse.ArgumentParser:
    shape = Shape()
    made = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    made.add_argument("--users", type=int, default=shape.users)
    made.add_argument("--items", type=int, default=shape.items)
    made.add_argument("--data", type=Path, default=Path(".recsys/data"), help="folder of the log")
    made.add_argument("--cache", type=Path, default=Path(".recsys/cache"), help="folder of the prepared log")
    made.add_argument("--folder", type=Path, default=Path("runs/large_synthetic"), help="of the run")
    made.add_argument("--results", type=Path, default=Path("experiments/results"))
    made.add_argument("--test-users", type=int, default=2000, help="of those to be judged, drawn by a seed")
    made.add_argument("--kill-after", type=int, default=1500, help="steps; and after the first checkpoint")
    return made


def of_job(given: argparse.Namespace) -> list[str]:
    """Arguments of `recsys fit` beside its recipe."""
    callbacks = [f"--trainer.callbacks+=_large_callbacks.{name}" for name in ("SampledTest", "Steps")]
    callbacks.insert(1, f"--trainer.callbacks.users={given.test_users}")
    words = ["--config", large_log.NAME, "--job.folder", str(given.folder), "--data.cache", str(given.cache)]
    return words + callbacks


def environment(data: Path, threads: int | None = None) -> dict[str, str]:
    """Of a process: where the log lies, the modules beside this one, and how many threads it has."""
    here = Path(__file__).resolve().parent
    path = [str(here), str(here.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"RECSYS_DATA": str(data.resolve()), "PYTHONPATH": os.pathsep.join(path)}
    return os.environ | own | ({} if threads is None else {"OMP_NUM_THREADS": str(threads)})


def measured(words: Sequence[str], data: Path) -> Facts:
    """Runs a python process; its seconds and the most memory it held.

    Raises:
        CalledProcessError: it failed.
    """
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, *words], env=environment(data))
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, process.args)
    return {"seconds": round(time.perf_counter() - started, 1), "peak_rss_mib": round(usage.ru_maxrss / 1024, 1)}


def train_and_kill(job: Sequence[str], given: argparse.Namespace) -> None:
    """Starts the job, and kills its last rank when it has done enough steps and left a checkpoint.

    Raises:
        RuntimeError: the job ended before, or did not notice.
    """
    process = subprocess.Popen([sys.executable, *job], env=environment(given.data, threads()))
    checkpoint = given.folder / "checkpoints" / "last.ckpt"
    while True:
        lines = read(given.folder, RANKS - 1)
        if lines and lines[-1].step >= given.kill_after and checkpoint.exists():
            break
        if process.poll() is not None:
            raise RuntimeError(
                f"the job ended with exit code {process.returncode} before it was killed; if it did not fail, lower "
                "--kill-after and --job.checkpoint_every"
            )
        time.sleep(POLL_S)
    os.kill(lines[-1].process, signal.SIGKILL)
    if process.wait() == 0:
        raise RuntimeError("the job has lost a rank and calls itself complete")


def threads() -> int:
    """Of a rank: its share of the cores."""
    return max(1, (os.cpu_count() or 1) // RANKS)


def say(text: str) -> None:
    """A line with the time of day."""
    print(f"{time.strftime('%H:%M:%S')} {text}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
