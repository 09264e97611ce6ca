"""A job of several processes: how they are started, what they say, and how they end.

The first rank looks after the run folder, MLflow, judgement and people; the others train, and are silent.
"""

from __future__ import annotations

import atexit
import os
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import lightning as L
import torch.distributed as dist
from lightning.fabric.utilities.rank_zero import rank_zero_only
from torch.distributed.elastic.multiprocessing.errors import record

from recsys.training.job import Job, JobError
from recsys.training.strategy_checks import check_restarts


def devices() -> dict[str, int]:
    """Devices of a machine and machines of a job that does not say: those of torchrun, else one."""
    if not dist.is_torchelastic_launched():
        return {"devices": 1}
    local = int(os.environ["LOCAL_WORLD_SIZE"])
    return {"devices": local, "num_nodes": int(os.environ["WORLD_SIZE"]) // local}


def check_launch(trainer: L.Trainer, job: Job) -> None:
    """Sees that the processes are those that the job speaks of, can agree on a folder, and can be started again.

    Raises:
        JobError: they are not, or cannot agree.
        StrategyError: torchrun could not start them again.
    """
    described = trainer.num_devices * trainer.num_nodes
    if dist.is_torchelastic_launched() and int(os.environ["WORLD_SIZE"]) != described:
        raise JobError(
            f"torchrun has started {os.environ['WORLD_SIZE']} processes, and `trainer.devices` x `trainer.num_nodes` "
            f"is {described}: leave both out, and they are torchrun's"
        )
    if trainer.world_size == 1 or not trainer.is_global_zero:
        return
    check_restarts(os.environ)
    if job.folder is not None:
        return
    environment = trainer.strategy.cluster_environment  # type: ignore[attr-defined]
    if environment.creates_processes_externally or trainer.num_nodes > 1:
        raise JobError(
            "processes that were started apart cannot agree on the date in the name of a folder: name the run's with "
            "`--job.folder`"
        )


def is_first() -> bool:
    """Whether this is the first rank, as far as the environment tells before there is a trainer."""
    return not getattr(rank_zero_only, "rank", 0)


def hush() -> None:
    """Keeps the warnings of all ranks but the first to themselves: the first has the same."""
    if not is_first():
        warnings.simplefilter("ignore")


def as_rank(job: Callable[[], None]) -> int:
    """Runs a job as one of its processes.

    torchrun gets to know the error of a rank, so that it can name the first one. Of an interruption the first rank
    speaks alone.

    Returns:
        The exit code.
    """
    try:
        (record(job) if dist.is_torchelastic_launched() else job)()
    except KeyboardInterrupt:
        if is_first():
            raise
        return 130
    return 0


@contextmanager
def together(trainer: L.Trainer) -> Iterator[None]:
    """Around a job: where it fails in this process, those that Lightning has launched from it end with it.

    They end after its error is printed. Else they would print that they have lost it, and above the error that tells
    why; and over NCCL they would wait for it.
    """
    try:
        yield
    except BaseException:
        launcher = trainer.strategy.launcher
        if launcher is not None:
            atexit.register(launcher.kill, signal.SIGKILL)
        raise


def disband(trainer: L.Trainer) -> None:
    """Ends the process group once there is nothing left that the ranks do together; all of them call it."""
    if dist.is_initialized():
        trainer.strategy.barrier()
        dist.destroy_process_group()
