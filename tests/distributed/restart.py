"""A job that torchrun restarts: `restart.py FOLDER`. One rank is killed in mid-epoch while a checkpoint is written."""

from __future__ import annotations

import logging
import os
import signal
import sys
from contextlib import nullcontext
from pathlib import Path

import torch

from recsys.training.sharded_checkpoint import settle
from tests.distributed.checkpoint_cases import slow_writing
from tests.distributed.failure_cases import AT, WRITING_S, After, train
from tests.distributed.jobs import RANK


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    folder = Path(sys.argv[1])
    first = os.environ["TORCHELASTIC_RESTART_COUNT"] == "0"
    last = settle(folder / "restarted" / "last.ckpt")
    with slow_writing(WRITING_S / 10) if first else nullcontext():
        deaths = [After(AT, kill, ranks=(1,))] if first else []
        done = train(folder, folder / "restarted", *deaths, resume=last if last.exists() else None)
    if RANK == 0:
        torch.save(done, folder / "restarted.pt")
