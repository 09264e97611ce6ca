"""Starts the processes of a job, and sees that none of them stays."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import psutil

ROOT = Path(__file__).parents[2]


def launch(
    script: str, folder: Path, ranks: int, timeout: float, torchrun: Sequence[str] = (), **environment: str
) -> tuple[int, str]:
    """Exit code and output of a script of this folder, under torchrun.

    Args:
        script: its name.
        folder: its argument.
        ranks: processes; 1 needs no torchrun.
        timeout: seconds until all are killed, and the test fails with what they have said.
        torchrun: further arguments for it.
        environment: further variables.
    """
    elastic = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    started = [*elastic, *torchrun] if ranks > 1 else []
    job = subprocess.Popen(
        [sys.executable, *started, str(Path(__file__).with_name(script)), str(folder)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        output, _ = job.communicate(timeout=timeout)
    except subprocess.TimeoutExpired:
        for process in [*psutil.Process(job.pid).children(recursive=True), psutil.Process(job.pid)]:
            process.kill()
        output, _ = job.communicate()
        return -1, f"{output}\nkilled after {timeout} s"
    return job.returncode, output
